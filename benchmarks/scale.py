"""What worker processes give: the same set of images explained in this process, by one worker and by several.

    python -m benchmarks.scale --images 1000 --workers 1 2 --repeats 3 --out benchmarks/results/scale.json

Every way computes with one thread a process, on random images of 32x32 in files and a small network of random weights,
into an empty database file; the ways take turns. Reported are medians of the wall-clock seconds of the statement, the
start of the processes included, maps a second, and whether the cells are those of one process, bit by bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import obeql

SIZE = 32


def small_network() -> nn.Module:
    """(N, 3, 32, 32) to (N, 4), seeded."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    return net.eval()


def write_images(folder: Path, n_images: int) -> None:
    """Random pictures as PNG files."""
    random = np.random.default_rng(0)
    for number in range(n_images):
        pixels = random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"image{number:06}.png")


def explain(folder: Path, n_workers: int, tail: str) -> tuple[float, int, str]:
    """Seconds of the statement, its maps, and a digest of their cells."""
    with tempfile.TemporaryDirectory() as place, obeql.connect(Path(place) / "heat.duckdb") as db:
        db.create_model("net", small_network(), size=(SIZE, SIZE))
        db.create_images("scans", folder)
        # The same plan for all ways: without a choice by rates that are measured anew.
        db.execute("SET obeql.threads = 1; SET obeql.disabled_rules = 'choose_engine'")
        statement = f"EXPLAIN OCCLUDE scans USING net FOR CLASS 0 WITH {tail} workers={n_workers}"
        db.execute(f"PLAN {statement}")  # measures the network's rates
        started = time.perf_counter()
        result = db.execute(statement)
        seconds = time.perf_counter() - started
        digest = hashlib.sha256()
        for heat in result:
            digest.update(f"{heat.image} {heat.class_id} {heat.clean_score!r}".encode())
            digest.update(np.ascontiguousarray(heat.scores).tobytes())
        return seconds, len(result), digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--options", default="patch=8 stride=2", help="options of WITH")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    found: dict[int, list[tuple[float, int, str]]] = {n: [] for n in (0, *given.workers)}
    with tempfile.TemporaryDirectory() as place:
        write_images(Path(place), given.images)
        for _ in range(given.repeats):
            for n_workers, runs in found.items():
                runs.append(explain(Path(place), n_workers, given.options))
                print(f"workers={n_workers}: {runs[-1][0]:.2f} s", flush=True)
    same = runs_agree(found)
    rows: list[dict[str, Any]] = []
    for n_workers, runs in found.items():
        seconds = statistics.median(run[0] for run in runs)
        rows.append({"workers": n_workers, "seconds": seconds, "maps_s": runs[0][1] / seconds})
    print("\n| workers | seconds | maps a second | times in-process |\n|---|---|---|---|")
    for row in rows:
        times = rows[0]["seconds"] / row["seconds"]
        print(f"| {row['workers']} | {row['seconds']:.1f} | {row['maps_s']:.0f} | {times:.2f} |")
    print(f"\nthe same cells: {'yes' if same else 'NO'}")
    if given.out is not None:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        report = {"images": given.images, "options": given.options, "same": same, "rows": rows, "machine": machine}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")


def runs_agree(found: dict[int, list[tuple[float, int, str]]]) -> bool:
    """Whether every run gave the same cells."""
    return len({run[2] for runs in found.values() for run in runs}) == 1


if __name__ == "__main__":
    main()
