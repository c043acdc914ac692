"""Time MaskSearch's kinds of question on as many maps as it was measured with, in plain SQL over the stored planes.

    python -m benchmarks.questions --maps 22000 100000 --out benchmarks/results/cpu2-questions.json

A corpus is half of one model's maps, half of another's, of the same images: one smooth peak each over waves. Prints CPU
and wall seconds, best of --repeat, of queries that read the file through the system's cache. The load average says how
many others were at work meanwhile: only where it is small are the seconds those of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, MapCells
from obeql.store import ImageMaps, RunRecord, Store

SIDE = 53
_BATCH = 2048  # a row group
_HEADS = 'SELECT image_id, 5 + image_id % 20 AS top, 3 + image_id % 17 AS "left", 15 AS height, 12 AS width FROM images'
_IN_HEAD = 'count_between(map, top, "left", height, width, 1, 9)'
_BOTH = "flat_maps AS a JOIN flat_maps AS b USING (image_id, class_id)"
_RUNS = "a.run_name = 'first' AND b.run_name = 'second'"
QUESTIONS = {
    "filter: more than 200 cells of a box in a range": (
        "SELECT path FROM flat_maps WHERE run_name = 'first' AND count_between(map, 10, 10, 20, 20, 1, 9) > 200"
    ),
    "top 25 by cells of a box in a range": (
        "SELECT path, count_between(map, 10, 10, 20, 20, 1, 9) AS n FROM flat_maps ORDER BY n DESC, path LIMIT 25"
    ),
    "top 25, each image's own box": (
        f"SELECT path, {_IN_HEAD} AS n FROM flat_maps JOIN heads USING (image_id) ORDER BY n DESC, path LIMIT 25"
    ),
    "top 25 by a ratio: in the box / anywhere": "FROM lowest_share(NULL, 'heads', 1, 9, 25)",
    "top 25 by the mean over models": (
        f"SELECT path, avg({_IN_HEAD}) AS n FROM flat_maps JOIN heads USING (image_id) GROUP BY ALL "
        "ORDER BY n DESC, path LIMIT 25"
    ),
    "top 25 by cells of the box strong in both models": (
        "WITH strong AS (SELECT run_name, image_id, class_id, path, "
        'at_least(map, top, "left", height, width, 1) AS cells FROM flat_maps JOIN heads USING (image_id)) '
        "SELECT a.path, list_dot_product(a.cells, b.cells) AS n "
        "FROM strong AS a JOIN strong AS b USING (image_id, class_id) "
        "WHERE a.run_name = 'first' AND b.run_name = 'second' ORDER BY n DESC, a.path LIMIT 25"
    ),
    "top 25 by IoU of two models": "FROM lowest_iou('first', 'second', 1, 25)",
    "for comparison: the same, every map read": (
        f"SELECT a.path, iou_at_least(a.map, b.map, 1) AS iou FROM {_BOTH} WHERE {_RUNS} ORDER BY iou, a.path LIMIT 25"
    ),
    "for comparison: box_cells, top 25": (
        "SELECT path, len(list_filter(importance, lambda v: v >= 1 AND v < 9)) AS n FROM box_cells(10, 10, 20, 20) "
        "ORDER BY n DESC, path LIMIT 25"
    ),
}


def synthetic(model: str, numbers: range, rng: np.random.Generator) -> Iterator[MapCells]:
    """Yield maps of one peak over waves, in log-odds."""
    starts, sizes = np.arange(SIDE, dtype=np.int32) * 4, np.full(SIDE, 16, np.int32)
    rows, cols = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    for number in numbers:
        y, x, spread, height = rng.uniform((0.1, 0.1, 0.05, 1), (0.9, 0.9, 0.2, 5))
        phases = rng.normal(size=2)
        importance = height * np.exp(-((rows - y) ** 2 + (cols - x) ** 2) / (2 * spread**2))
        importance += 0.3 * np.sin(3 * phases[0] + 6 * rows) * np.cos(3 * phases[1] + 5 * cols)
        clean = rng.normal() + 2
        logit = (clean - importance).astype(np.float32)
        yield MapCells(
            key=CellKey(f"image-{number}", model, "preprocessing", (16, 16), "mean", "float32"),
            class_id=3,
            starts=(starts, starts),
            lengths=(sizes, sizes),
            logit=logit,
            others=np.zeros_like(logit, np.float64),
            top_class=np.where(logit > 0, 3, 1).astype(np.int32),
            clean_logit=clean,
            clean_others=0.0,
            clean_top_class=3,
        )


def fill(store: Store, n_maps: int) -> None:
    """Write a corpus of two models' maps, a full row group a commit."""
    rng = np.random.default_rng(0)
    images = store.register_images([ImageRecord(f"image{number}.jpg") for number in range(n_maps // 2)])
    for model in ("first", "second"):
        run = store.begin_run(RunRecord(model, model, model, "preprocessing", "log_odds", model, {"border": "cover"}))
        for start in range(0, len(images), _BATCH):
            numbers = range(start, min(start + _BATCH, len(images)))
            maps = synthetic(model, numbers, rng)
            store.write_batch(
                run,
                [
                    ImageMaps(images[number].image_id or 0, [cells], {3: "yes"})
                    for number, cells in zip(numbers, maps, strict=True)
                ],
            )
        store.finish_run(run, "done")
    store.connection.execute(f"CREATE TABLE heads AS {_HEADS}")


def measure(n_maps: int, repeat: int) -> list[dict[str, Any]]:
    """Return a row a question on a corpus of `n_maps`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "maps.duckdb") as store:
        fill(store, n_maps)
        best: dict[str, tuple[float, float]] = {}
        for _ in range(repeat):  # in turn, so that a busy moment does not fall on one question alone
            for what, sql in QUESTIONS.items():
                cpu, wall = time.process_time(), time.perf_counter()
                store.connection.execute(sql).fetchall()
                taken = time.perf_counter() - wall, time.process_time() - cpu
                best[what] = min(best.get(what, taken), taken)
        size = Path(store.path).stat().st_size
        for what, (wall, cpu) in best.items():
            rows.append({"maps": n_maps, "what": what, "cpu_s": round(cpu, 3), "wall_s": round(wall, 3)})
            print(f"{n_maps:8,} {what:50}{cpu:9.3f}{wall:9.3f}", flush=True)
        print(f"{n_maps:8,} {'file, MB':50}{size / 1e6:9.1f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, nargs="+", default=[22_000, 100_000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    rows = [row for n_maps in arguments.maps for row in measure(n_maps, arguments.repeat)]
    if arguments.out is not None:
        told = {**machine(), "load_average": round(os.getloadavg()[1], 1)}
        arguments.out.write_text(json.dumps({"machine": told, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
