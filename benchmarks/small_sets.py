"""Sets of small images under small networks: whole statements against the best plain batch a user can write.

    python -m benchmarks.small_sets --out benchmarks/results/cpu2-small-sets.json

Each row explains files of one network, size, patch and stride, and stores the maps in a database file. *Naive* is what
a user of PyTorch would write: it decodes the files, hides windows of all images with one mask a window, runs the module
on batches that take windows from several images, at the fastest of several batch sizes, takes the log-probability of
the class and appends the maps to a DuckDB file, once. *OBEQL* is the statement, decoding, hashing, checking and storing
included; rates are measured beforehand, once. Both take turns. Reported are medians of milliseconds an image, wall and
CPU, the ratios naive over OBEQL (medians over the turns), the largest difference of log-odds, and where the statement's
time went: the clean pass and windows, and what decoding (as far as it was waited for), looking up and storing took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn

import obeql
from benchmarks.machine import machine
from obeql.planner.grid import WindowGrid

NAIVE_BATCHES = (16, 32, 64, 128, 256, 512)
#: A statement that takes less is over before clocks and commits mean anything.
LEAST_SECONDS = 0.2
#: Parts of a statement that are measured beside its total: what is computed, and the rest on the same thread.
PARTS = ("clean pass", "windows", "decode", "reuse", "store")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Case:
    """A network, the size of its square images, the patch, the stride and the number of images."""

    name: str
    size: int
    patch: int
    stride: int
    n_images: int


CASES = (
    Case("two", 32, 8, 8, 1000),
    Case("two", 96, 16, 4, 400),
    Case("three", 32, 8, 8, 1000),
    Case("three", 32, 8, 4, 600),
    Case("five", 128, 16, 8, 400),
    Case("ten", 64, 16, 4, 200),
)


def _blocks(channels: tuple[int, ...], pooled: Callable[[int], bool]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(zip((3, *channels), channels, strict=False)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooled(number) else []
    return layers


def small_network(name: str, size: int) -> nn.Module:
    """A network of so many convolutions and linear layers as people train for small pictures, with random weights."""
    torch.manual_seed(0)
    match name:
        case "two":  # five classes
            layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()]
            layers += [nn.Linear(8 * (size // 4) ** 2, 5)]
        case "three":
            layers = [*_blocks((32, 64, 64), lambda _: True), nn.Flatten(), nn.Linear(64 * (size // 8) ** 2, 10)]
        case "five":  # one yes/no output
            head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1)
            layers = [*_blocks((8, 16, 32, 32), lambda _: True), *head]
        case "ten":
            head = nn.Flatten(), nn.Linear(64 * (size // 16) ** 2, 64), nn.ReLU(), nn.Linear(64, 4)
            layers = [*_blocks((16, 16, 32, 32, 64, 64, 64, 64), lambda number: number % 2 == 1), *head]
        case _:
            raise SystemExit(f"error: there is no network '{name}'; there are two, three, five and ten")
    return nn.Sequential(*layers).eval().to(memory_format=torch.channels_last)


def masks(grid: WindowGrid, size: int) -> Tensor:
    """Which pixels each window hides, bool (windows, 1, size, size)."""
    found = torch.zeros((grid.n_windows, 1, size, size), dtype=torch.bool)
    places = [(top, left) for top in grid.rows.starts for left in grid.cols.starts]
    for mask, (top, left) in zip(found, places, strict=True):
        mask[0, top : top + grid.patch[0], left : left + grid.patch[1]] = True
    return found


def log_odds(logits: Tensor) -> Tensor:
    """Of class 0 against all others, (n,); of the one output against no."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[:, 0] - logits[:, 1:].logsumexp(1)


def naive_cells(module: nn.Module, images: Tensor, hidden: Tensor, batch: int) -> Floats:
    """The log-odds of every window, float32 (images, windows), and a run on the images themselves beside it."""
    fill = images.mean((2, 3), keepdim=True)
    n_windows = len(hidden)
    cells = torch.empty(len(images) * n_windows)
    for start in range(0, len(images), batch):
        log_odds(module(images[start : start + batch]))
    for start in range(0, len(cells), batch):
        stop = min(start + batch, len(cells))
        numbers = torch.arange(start, stop)
        of, window = numbers // n_windows, numbers % n_windows
        occluded = torch.where(hidden[window], fill[of], images[of])
        cells[start:stop] = log_odds(module(occluded.contiguous(memory_format=torch.channels_last)))
    return cells.view(len(images), n_windows).numpy()


def naive(module: nn.Module, files: list[Path], hidden: Tensor, batch: int, database: Path) -> Floats:
    """Decode, compute, store: all of it as plainly and as fast as a user would."""
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255  # channels-last
    with torch.inference_mode():
        cells = naive_cells(module, images, hidden, batch)
    maps = pa.table({"path": [str(file) for file in files], "cells": list(cells)})
    with duckdb.connect(database) as db:
        db.register("maps_here", maps)
        db.execute("CREATE OR REPLACE TABLE maps AS SELECT * FROM maps_here")
    return cells


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds of all threads, and what `work` returns."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def best_batch(module: nn.Module, size: int, hidden: Tensor) -> int:
    """The naive batch that takes the fewest seconds a window."""
    images = torch.rand((max(1, -(-2 * NAIVE_BATCHES[-1] // len(hidden))), 3, size, size))
    with torch.inference_mode():
        took = {
            batch: min(timed(lambda: naive_cells(module, images, hidden, batch))[0] for _ in range(2))  # noqa: B023
            for batch in NAIVE_BATCHES
        }
    return min(took, key=lambda batch: took[batch])


def measured(case: Case, n_images: int, repeats: int) -> dict[str, Any]:
    module, size = small_network(case.name, case.size), case.size
    grid = WindowGrid.over((size, size), (case.patch, case.patch), (case.stride, case.stride))
    hidden = masks(grid, size)
    rng = np.random.default_rng(0)
    statement = f"EXPLAIN OCCLUDE pictures USING net FOR CLASS {1 if case.name == 'five' else 0} "
    statement += f"WITH patch={case.patch} stride={case.stride} score=log_odds NO REUSE"
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / f"{number:05}.png" for number in range(n_images)]
        for file in files:
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file)
        with obeql.connect(folder / "heat.duckdb") as db:
            db.create_model("net", module, size=(size, size))
            db.create_images("pictures", str(folder / "*.png"))
            plan = db.execute("PLAN " + statement).physical  # measures the network's rates, once
            batch = best_batch(module, size, hidden)
            for turn in range(1 + repeats):  # the first is to warm up
                *their, cells = timed(lambda: naive(module, files, hidden, batch, folder / "naive.duckdb"))
                *our, result = timed(lambda: db.execute(statement))
                if turn:
                    theirs.append((their[0], their[1]))
                    ours.append((our[0], our[1]))
            found = np.stack([heat.scores.reshape(-1) for heat in result])
            parts = json.loads(db.execute("SELECT measured FROM runs ORDER BY run_id DESC LIMIT 1").fetchall()[0][0])
    ms = 1e3 / n_images
    our_s, their_s = (statistics.median(wall for wall, _ in each) for each in (ours, theirs))
    if our_s < LEAST_SECONDS:
        print(f"note: a statement took {our_s:.2f} s; take more images", flush=True)
    return {
        "network": case.name,
        "size": size,
        "windows": grid.n_windows,
        "images": n_images,
        "naive_ms": round(ms * their_s, 3),
        "naive_batch": batch,
        "ours_ms": round(ms * our_s, 3),
        "naive_cpu_ms": round(ms * statistics.median(cpu for _, cpu in theirs), 3),
        "ours_cpu_ms": round(ms * statistics.median(cpu for _, cpu in ours), 3),
        "ratio": round(statistics.median(t[0] / o[0] for t, o in zip(theirs, ours, strict=True)), 2),
        "cpu_ratio": round(statistics.median(t[1] / o[1] for t, o in zip(theirs, ours, strict=True)), 2),
        "engine": type(plan.engines[0]).__name__,
        "images_together": plan.together,
        "parts_ms": {part: round(ms * parts.get(part, 0.0), 3) for part in PARTS},
        "max_difference": float(np.abs(found - cells).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=sorted({case.name for case in CASES}))
    parser.add_argument("--images", type=int, help="of every set, instead of the number that each case has")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for case in CASES:
        if case.name in arguments.networks:
            row = measured(case, arguments.images or case.n_images, arguments.repeats)
            rows.append(row)
            print(json.dumps(row), flush=True)
            if arguments.out is not None:  # after each case, so that a run that is stopped keeps its rows
                arguments.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
