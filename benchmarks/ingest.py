"""Shards of maps into the store: maps a second, and the memory of the process that takes them, as the run grows.

    python -m benchmarks.ingest --images 1000 5000 20000 --side 53 --out benchmarks/results/cpu2-ingest.json

Another process writes shards of synthetic maps, as a worker does, and makes one ready while this one takes others (with
`--waiting` it has written all before, and the cores are free); this one, which has PyTorch loaded as the coordinator
of a run has, takes them in batches and commits each, once leaving them as files (parquet) and once passing their planes
into the database (duckdb). Seconds are those of taking; memory is that between commits, at most, and its peak while
shards are taken; at the end the maps are listed for a result, without planes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import torch

from benchmarks.store import synthetic
from obeql.planner.catalog import ImageRecord
from obeql.store import Folder, ImageContent, ImageMaps, RunRecord, Store
from obeql.store.shards.format import shard_bytes, shard_name

#: Maps of a shard, and shards of a commit, as in a run.
SHARD = 1024
BATCH = 4


def image(number: int) -> ImageRecord:
    return ImageRecord(f"scan{number:07}.png")


def write(pipe: Connection, place: str, origin: str, n_images: int, side: int) -> None:
    """The other process: write the shards of so many images, each when it is asked for, and say their names."""
    folder = Folder(place)
    templates = list(synthetic(SHARD, side, np.random.default_rng(0)))
    for start in range(0, n_images, SHARD):
        images = []
        for number in range(start, min(start + SHARD, n_images)):
            cells = templates[number - start]
            key = replace(cells.key, image_hash=f"image-{number}")
            cells = replace(cells, key=key, clean_logit=float(number))
            content = ImageContent(key.image_hash, side, side)
            images.append((image(number), ImageMaps(0, [cells], {3: "cat"}, (224, 224), (0, 0, 9, 9), None, content)))
        shard, content_bytes = shard_bytes(images, origin)
        pipe.recv()
        folder.write(shard_name("model", shard), content_bytes)
        pipe.send(shard_name("model", shard))


def resident() -> float:
    """Memory of this process now, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak(anew: bool = False) -> float:
    """The most memory this process had, MB: ever, or since it was counted `anew`. Linux."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) / 2**10


def ingest(n_images: int, side: int, keep: bool, waiting: bool) -> dict[str, Any]:
    """Take the shards of so many images; seconds, and memory before and at most."""
    with tempfile.TemporaryDirectory() as place, Store(Path(place) / "heat.duckdb") as store:
        folder = Folder(str(Path(place) / "maps"))
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        arguments = theirs, folder.place, store.origin(), n_images, side
        writer = multiprocessing.get_context("spawn").Process(target=write, args=arguments)
        writer.start()
        theirs.close()
        numbered = store.register_images([image(number) for number in range(n_images)])
        ids = {(known.path, known.key): known.image_id or 0 for known in numbered}
        run_id = store.begin_run(RunRecord("q", "model", "model", "preprocessing", "log_odds"))
        names = []
        for _ in range(-(-n_images // SHARD) if waiting else 0):
            ours.send("next")
            names.append(ours.recv())
        before = most = resident()
        peak(anew=True)
        taken: set[int] = set()
        seconds = 0.0
        left = -(-n_images // SHARD)
        while left:
            while len(names) < min(BATCH, left):
                ours.send("next")
                names.append(ours.recv())
            batch, names = names[:BATCH], names[BATCH:]
            left -= len(batch)
            started = time.perf_counter()
            taken |= store.take_shards(run_id, folder, batch, ids, taken, keep).keys()
            seconds += time.perf_counter() - started
            most = max(most, resident())
        highest = peak()
        writer.join()
        started = time.perf_counter()
        store.finish_run(run_id, "done")
        finish = time.perf_counter() - started
        started = time.perf_counter()
        n_maps = len(store.load_maps(run_id, planes=False))
        listed = time.perf_counter() - started
        assert n_maps == n_images == len(taken)
        size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
        return {
            "kept_as": "parquet" if keep else "duckdb",
            "images": n_images,
            "maps_s": n_images / (seconds + finish),
            "list_s": listed,
            "before_mb": before,
            "most_mb": most,
            "peak_mb": highest,
            "after_listing_mb": resident(),
            "bytes_a_map": size / n_images,
        }


def alone(pipe: Connection, *arguments: Any) -> None:
    pipe.send(ingest(*arguments))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--side", type=int, default=53)
    parser.add_argument("--kept-as", nargs="+", choices=["parquet", "duckdb"], default=["parquet", "duckdb"])
    parser.add_argument("--waiting", action="store_true", help="all shards are written before the first is taken")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    rows = []
    print("| kept as | images | maps a second | MB before | between commits | at most | after listing | bytes a map |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for kept_as in given.kept_as:
        for n_images in given.images:
            ours, theirs = multiprocessing.get_context("spawn").Pipe()
            process = multiprocessing.get_context("spawn").Process(
                target=alone, args=(theirs, n_images, given.side, kept_as == "parquet", given.waiting)
            )
            process.start()
            row = ours.recv()
            process.join()
            rows.append(row)
            numbers = ("maps_s", "before_mb", "most_mb", "peak_mb", "after_listing_mb", "bytes_a_map")
            cells = " | ".join(f"{row[name]:,.0f}" for name in numbers)
            print(f"| {kept_as} | {n_images:,} | {cells} |", flush=True)
    if given.out is not None:
        versions = {"duckdb": duckdb.__version__, "pyarrow": pa.__version__, "torch": torch.__version__}
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), **versions}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(
            json.dumps({"side": given.side, "waiting": given.waiting, "rows": rows, "machine": machine}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()
