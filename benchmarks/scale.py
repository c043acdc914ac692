"""What workers give: the same set of images explained in this process, by one worker and by several.

    python -m benchmarks.scale --images 1000 --workers 1 2 --repeats 3 --out benchmarks/results/scale.json
    python -m benchmarks.scale --images 1000 --workers 2 --engine processes ray

Every way computes with one thread a process, on random images of 32x32 in files and a small network of random weights,
into an empty database file; the ways take turns. Reported are medians of the wall-clock seconds of the statement, the
start of the workers included; of the images a second once all workers are at work, that is after the first tenth of
the images; of the share of one core that this process takes meanwhile; and whether the cells are those of one process,
bit by bit. Images go one by one but for `--together`, where every run chooses how many, by rates that it measures, so
that runs may differ by float noise. `--size` and `--options` change how long an image takes. `--apart` adds what the
machine can do without any coordinator: as many processes as the most workers, which know nothing of each other, each
with a part of the images and a database of its own. Its seconds are those of the slowest, from a common start, and its
rate is that of all together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import obeql


def small_network() -> nn.Module:
    """(N, 3, H, W) to (N, 4), seeded."""
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


def write_images(folder: Path, n_images: int, size: int = 32) -> None:
    """Random pictures as PNG files."""
    random = np.random.default_rng(0)
    for number in range(n_images):
        pixels = random.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"image{number:06}.png")


@dataclass(frozen=True)
class Timing:
    """One run of the statement."""

    seconds: float
    #: images a second after the first tenth of them
    rate: float
    #: CPU seconds of this process a second, in the same time; 0 where nobody looked
    busy: float
    digest: str


class Watch:
    """A callback of progress that remembers when how many images were finished."""

    def __init__(self, n_images: int) -> None:
        self._from = n_images // 10
        self._first: tuple[float, int, float] | None = None
        self._last = (0.0, 0, 0.0)

    def __call__(self, progress: Any) -> None:
        now = time.perf_counter(), progress.image, time.process_time()
        if progress.image > self._last[1]:
            self._last = now
        if self._first is None and progress.image >= self._from:
            self._first = now

    @property
    def rate(self) -> float:
        assert self._first is not None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])

    @property
    def busy(self) -> float:
        assert self._first is not None
        return (self._last[2] - self._first[2]) / (self._last[0] - self._first[0])


def explain(
    folder: Path, engine: str, n_workers: int, given: argparse.Namespace, begin: Callable[[], Any] = lambda: None
) -> Timing:
    """Explain the images of a folder in one way; `begin` returns when the statement may."""
    n_images = len(list(folder.iterdir()))
    watch = Watch(n_images)
    with tempfile.TemporaryDirectory() as place, obeql.connect(Path(place) / "heat.duckdb") as db:
        db.create_model("net", small_network(), size=(given.size, given.size))
        db.create_images("scans", folder)
        # The same plan for all ways: without choices by rates that are measured anew.
        disabled = "choose_engine" if given.together else "choose_engine, batch_images"
        db.execute(f"SET obeql.threads = 1; SET obeql.disabled_rules = '{disabled}'")
        tail = f"{given.options} workers={n_workers}" + (" ON ray" if engine == "ray" else "")
        statement = f"EXPLAIN OCCLUDE scans USING net FOR CLASS 0 WITH {tail}"
        db.execute(f"PLAN {statement}")  # measures the network's rates
        begin()
        started = time.perf_counter()
        result = db.execute(statement, on_progress=watch)
        seconds = time.perf_counter() - started
        digest = hashlib.sha256()
        for heat in result:
            digest.update(f"{heat.image} {heat.class_id} {heat.clean_score!r}".encode())
            digest.update(np.ascontiguousarray(heat.scores).tobytes())
        assert len(result) == n_images
        return Timing(seconds, watch.rate, watch.busy, digest.hexdigest())


def explain_apart(folder: Path, n_processes: int, given: argparse.Namespace) -> Timing:
    """Explain the images in processes that know nothing of each other. Its digest is empty: no two maps meet."""
    context = multiprocessing.get_context("spawn")
    barrier, timings = context.Barrier(n_processes), context.Queue()
    with tempfile.TemporaryDirectory() as place:
        processes = []
        for number in range(n_processes):
            part = Path(place) / str(number)
            part.mkdir()
            for image in sorted(folder.iterdir())[number::n_processes]:
                (part / image.name).symlink_to(image)
            processes.append(context.Process(target=_explain_part, args=(part, given, barrier, timings)))
            processes[-1].start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit("a process that was to compute apart has failed; what it printed says why")
        found = [timings.get() for _ in processes]
    return Timing(max(each.seconds for each in found), sum(each.rate for each in found), 0.0, "")


def _explain_part(folder: Path, given: argparse.Namespace, barrier: Any, timings: Any) -> None:
    timings.put(explain(folder, "processes", 0, given, barrier.wait))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engine", choices=("processes", "ray"), nargs="+", default=["processes"])
    parser.add_argument("--options", default="patch=8 stride=2", help="options of WITH")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-alone", action="store_true", help="leave this process out")
    parser.add_argument("--together", action="store_true", help="let images go together; cells may differ by noise")
    parser.add_argument("--apart", action="store_true", help="add processes that know nothing of each other")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    alone = [] if given.without_alone else [("this process", 0)]
    ways = [*alone, *((engine, n) for n in given.workers for engine in given.engine)]
    if given.apart:
        ways.append(("apart", max(given.workers)))
    found: dict[tuple[str, int], list[Timing]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as place:
        write_images(Path(place), given.images, given.size)
        for _ in range(given.repeats):
            for (engine, n_workers), runs in found.items():
                if engine == "apart":
                    runs.append(explain_apart(Path(place), n_workers, given))
                else:
                    runs.append(explain(Path(place), engine, n_workers, given))
                print(f"{engine}, workers={n_workers}: {runs[-1].seconds:.2f} s", flush=True)
    same = runs_agree(found)
    rows = [row(*way, runs) for way, runs in found.items()]
    print("\n| engine | workers | seconds | images a second, once at work | coordinator |\n|---|---|---|---|---|")
    for each in rows:
        print("| {engine} | {workers} | {seconds:.1f} | {rate:.1f} | {busy:.1%} |".format_map(each))
    print(f"\nthe same cells: {'yes' if same else 'NO'}")
    if given.out is not None:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        setting = {"images": given.images, "size": given.size, "options": given.options, "repeats": given.repeats}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**setting, "same": same, "rows": rows, "machine": machine}, indent=1) + "\n")


def row(engine: str, n_workers: int, runs: Sequence[Timing]) -> dict[str, Any]:
    """What is reported of one way: medians."""
    seconds = statistics.median(run.seconds for run in runs)
    return {
        "engine": engine,
        "workers": n_workers,
        "seconds": seconds,
        "rate": statistics.median(run.rate for run in runs),
        "busy": statistics.median(run.busy for run in runs),
    }


def runs_agree(found: Mapping[tuple[str, int], Sequence[Timing]]) -> bool:
    """Whether every run gave the same cells."""
    return len({run.digest for runs in found.values() for run in runs if run.digest}) == 1


if __name__ == "__main__":
    main()
