"""Time the store on synthetic maps: writing, whole-corpus queries, one map.

    python -m benchmarks.store --maps 10000 --side 53 --out benchmarks/results/cpu2-store.json

Prints a table of CPU and wall seconds (best of --repeat for queries) with the versions used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, MapCells
from obeql.store import ImageMaps, RunRecord, Store

CP = "len(list_filter(importance, lambda v: v >= 0 AND v < 1))"
QUERIES = {
    "box mean of importance, all maps": "SELECT avg(list_avg(importance)) FROM box_cells(10, 10, 20, 20)",
    "CP: cells of a box in [0, 1), all maps": f"SELECT sum({CP}) FROM box_cells(10, 10, 20, 20)",
    "20 images of largest CP": (
        f"SELECT image_id, {CP} AS n FROM box_cells(10, 10, 20, 20) ORDER BY n DESC, image_id LIMIT 20"
    ),
    "box mean through heatmaps": "SELECT avg(box_mean(importance, 10, 10, 20, 20)) FROM heatmaps",
    "CP through heatmaps": "SELECT sum(cells_between(importance, 10, 10, 20, 20, 0, 1)) FROM heatmaps",
    "mean of every cell": "SELECT avg(importance) FROM cells",
    "top 10 cells of one map": "SELECT * FROM top_cells('bench', 'image7', 10)",
    "one map": "SELECT scores FROM heatmaps WHERE run_id = 1 AND image_id = 8",
    "runs": "FROM runs",
}


def synthetic(count: int, side: int, rng: np.random.Generator) -> Iterator[MapCells]:
    """Smooth maps, so that compression meets what real maps look like."""
    starts = np.arange(side, dtype=np.int32) * 4
    sizes = np.full(side, 16, np.int32)
    rows, cols = np.mgrid[0:side, 0:side] / side
    for number in range(count):
        a, b, c = rng.normal(size=3)
        logit = (4 * np.sin(3 * a + 5 * rows) * np.cos(3 * b + 4 * cols) + c).astype(np.float32)
        yield MapCells(
            key=CellKey(f"image-{number}", "model", "preprocessing", (16, 16), "mean", "float32"),
            class_id=3,
            starts=(starts, starts),
            lengths=(sizes, sizes),
            logit=logit,
            others=(logit * 0.3).astype(np.float32),
            top_class=np.full((side, side), 3, np.int32),
            clean_logit=float(c),
            clean_others=0.0,
            clean_top_class=3,
        )


def timed(action: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=53, help="rows and columns of a map")
    parser.add_argument("--batch", type=int, default=256, help="maps a commit")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--score", default="log_odds", help="score of the run: decides what importance costs")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()

    rows: list[dict[str, Any]] = []

    def row(label: str, cpu: float, wall: float, note: str = "") -> None:
        rows.append({"what": label, "cpu_s": round(cpu, 4), "wall_s": round(wall, 4)})
        print(f"{label:42}{cpu:9.3f}{wall:9.3f}  {note}".rstrip(), flush=True)

    machine = {
        "duckdb": duckdb.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "maps": arguments.maps,
        "side": arguments.side,
        "score": arguments.score,
    }
    print(*(f"{name} {value}" for name, value in machine.items()), sep=", ")
    print(f"{'':42}{'CPU s':>9}{'wall s':>9}")
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "bench.duckdb") as store:
        images = store.register_images([ImageRecord(f"image{number}.jpg") for number in range(arguments.maps)])
        run_id = store.begin_run(
            RunRecord("bench", "model", "model", "preprocessing", arguments.score, "bench", {"border": "cover"})
        )
        maps = synthetic(arguments.maps, arguments.side, np.random.default_rng(0))
        writes = [
            ImageMaps(image.image_id or 0, [cells], {3: "yes"}) for image, cells in zip(images, maps, strict=True)
        ]

        def write() -> None:
            for start in range(0, len(writes), arguments.batch):
                store.write_batch(run_id, writes[start : start + arguments.batch])
            store.finish_run(run_id, "done")

        cpu, wall = timed(write)
        row("write and checkpoint", cpu, wall, f"{1e3 * cpu / arguments.maps:.3f} CPU ms a map")
        planes = 4 * 4 * arguments.maps * arguments.side**2  # logit, others, log-odds, arg-max class
        size = Path(store.path).stat().st_size
        machine |= {"file_bytes": size, "raw_plane_bytes": planes}
        print(f"{'file, raw planes':42}{size / 1e6:9.1f}{planes / 1e6:9.1f}  MB, {size / planes:.2f} times")

        def best(label: str, action: Callable[[], object]) -> None:
            row(label, *min(timed(action) for _ in range(arguments.repeat)))

        for label, sql in QUERIES.items():
            best(label, lambda sql=sql: store.connection.execute(sql).fetchall())
        single, key = store.begin_run(RunRecord("one", "m", "model", "preprocessing", "logit")), writes[7].maps[0].key
        best("stored cells of one image", lambda: store.stored(key, [3]))
        best("planes of 64 maps by their ids", lambda: store.cells_of(range(1, 65)))
        row("reference one stored map", *timed(lambda: store.write_batch(single, writes[:1])))
        row("load all maps", *timed(lambda: store.load_maps(run_id)))
        row("load all maps without planes", *timed(lambda: store.load_maps(run_id, planes=False)))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
