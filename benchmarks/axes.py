"""Maps of long signals, volumes and clips: OBEQL beside plain batches, Captum and MONAI; memory of a large volume.

    python -m benchmarks.axes --out benchmarks/results/cpu2-axes.json

About nine minutes on two cores, of which the clip takes five; `--cases signal volume` runs some alone, `--tiny` all on
small sizes in seconds, to see that it runs. OBEQL computes whole maps. *Naive* runs the module on batches of hidden
inputs, at the fastest of several batch sizes, on a sample of the windows where `sampled` says so; Captum and MONAI run
as users call them. `bound` is what the arithmetic allows: multiply-accumulates of whole inputs over those of the boxes
that windows change, `share_of_bound` how much of it is reached against naive batches.

`memory` runs in a process of its own: the peak of a plain pass over 128^3 voxels, and by how much a map computed within
`memory=` exceeds it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import operator
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import obeql
from benchmarks.machine import machine
from benchmarks.signals import resnet
from obeql.executor.models.zoo.import_torchvision import torchvision
from obeql.executor.operators.dense_forward import occlude
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Cost, IncrementalForward
from obeql.planner.physical.refinement import cell_costs

BATCHES = (1, 4, 16)


@dataclass(frozen=True)
class Case:
    """A network and the windows over its input; `sample` windows stand for all of the naive batches, None: all."""

    make: Callable[[], nn.Module]
    channels: int
    size: tuple[int, ...]
    patch: tuple[int, ...]
    stride: tuple[int, ...]
    sample: int | None = None
    peers: tuple[str, ...] = ()


class Block(nn.Module):
    """Two convolutions of 3x3x3 beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv3d(before, after, 3, stride, 1, bias=False)
        self.b = nn.Conv3d(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList((nn.BatchNorm3d(after), nn.BatchNorm3d(after)))
        self.shortcut = nn.Conv3d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norms[0](self.a(x)))
        return torch.relu(self.norms[1](self.b(inner)) + self.shortcut(x))


def small_resnet() -> nn.Module:
    """Return a residual network for scans of one channel, with random weights, the same every time."""
    torch.manual_seed(0)
    stem = nn.Conv3d(1, 16, 7, 2, 3, bias=False), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(3, 2, 1)
    blocks = Block(16, 32, 1), Block(32, 64, 2), Block(64, 128, 2)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(128, 2)).eval()


def r3d_18() -> nn.Module:
    """Return torchvision's network of clips with random weights."""
    torch.manual_seed(0)
    network: nn.Module = torchvision("this benchmark").models.video.r3d_18(weights=None).eval()
    return network


CASES = {
    "signal": Case(lambda: resnet(12), 12, (5000,), (50,), (10,), peers=("captum",)),
    "clip": Case(r3d_18, 3, (16, 112, 112), (4, 16, 16), (2, 8, 8), sample=16),
    "volume": Case(small_resnet, 1, (64, 64, 64), (16,) * 3, (8,) * 3, peers=("captum", "monai")),
}
TINY = {
    "signal": Case(lambda: resnet(2), 2, (128,), (16,), (16,), peers=("captum",)),
    "clip": Case(r3d_18, 3, (8, 32, 32), (4, 16, 16), (4, 16, 16), sample=2),
    "volume": Case(small_resnet, 1, (32, 32, 32), (16,) * 3, (16,) * 3, peers=("captum", "monai")),
}


def bench(name: str, case: Case, repeats: int) -> dict[str, Any]:
    """Return the row of a case."""
    module, dims = case.make(), len(case.size)
    values = np.random.default_rng(0).normal(size=(case.channels, *case.size)).astype(np.float32)
    given = torch.from_numpy(values)[None]
    grid = WindowGrid.over(case.size, case.patch, case.stride, "valid")
    n = grid.n_windows if case.sample is None else min(case.sample, grid.n_windows)
    sample = np.unique(np.linspace(0, grid.n_windows - 1, n).astype(np.int64))
    fill = torch.zeros(case.channels, *(1,) * dims)

    def naive(batch: int) -> Tensor:
        parts = (sample[first : first + batch] for first in range(0, len(sample), batch))
        return torch.cat([torch.softmax(module(occlude(given, fill, grid, part)), 1)[:, 0] for part in parts])

    def captum() -> Any:
        from captum.attr import Occlusion  # noqa: PLC0415

        window = (case.channels, *case.patch)
        return Occlusion(module).attribute(given, window, (case.channels, *case.stride), baselines=0.0, target=0)

    def monai() -> Any:
        from monai.visualize import OcclusionSensitivity  # noqa: PLC0415

        overlap = 1 - case.stride[0] / case.patch[0]
        return OcclusionSensitivity(module, case.patch[0], overlap=overlap, verbose=False)(given)

    with obeql.connect() as db, torch.inference_mode():
        db.create_model("net", module, size=case.size, channels=case.channels)

        def ours() -> Any:
            options: dict[str, Any] = {"patch": case.patch, "stride": case.stride, "border": "valid", "fill": "zero"}
            return db.explain(values, "net", classes=0, reuse=False, **options)

        result = ours()
        found, engine, network = result[0].scores.reshape(-1), result.plan.engines[0], result.plan.model.network
        best = min(BATCHES, key=lambda batch: seconds(lambda: naive(batch)))
        whole = grid.n_windows / len(sample)
        timed: dict[str, list[float]] = {}
        for _ in range(repeats):
            timed.setdefault("obeql", []).append(seconds(ours))
            timed.setdefault("naive", []).append(whole * seconds(lambda: naive(best)))
            for peer, run in (("captum", captum), ("monai", monai)):
                if peer in case.peers:
                    timed.setdefault(peer, []).append(seconds(run))
        difference = float(np.abs(naive(best).numpy() - found[sample]).max())
    on_grid = result.plan.grids[0]
    boxed = IncrementalForward(
        region_layers(network, len(network.layers)), (1,) * len(on_grid.patch), 1, 1, Cost(0, 0, 0)
    )
    bound = network.macs * grid.n_windows / float(cell_costs(network, on_grid, boxed).sum())
    row: dict[str, Any] = {f"{who}_s": statistics.median(each) for who, each in timed.items()}
    for who, theirs in timed.items():
        if who != "obeql":
            row[f"{who}_ratio"] = statistics.median(map(operator.truediv, theirs, timed["obeql"]))
    return {
        "case": name, "channels": case.channels, "size": case.size, "patch": case.patch, "stride": case.stride,
        "windows": grid.n_windows, "gmac": network.macs / 1e9, **row, "sampled": len(sample), "naive_batch": best,
        "work_ratio": network.macs * grid.n_windows / max(1.0, engine.cost.macs), "bound": bound,
        "share_of_bound": row["naive_ratio"] / bound, "largest_difference": difference,
    }  # fmt: skip


def seconds(run: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def memory_row(side: int, limit_mb: int) -> dict[str, Any]:
    """Return the row of a volume of so many voxels a side, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.axes", "--memory-of", str(side), str(limit_mb)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row: dict[str, Any] = json.loads(said.splitlines()[-1])
    return row


def measure_memory(side: int, limit_mb: int) -> dict[str, Any]:
    """Compute a map within a limit, and return the peaks of memory before and after it in MB."""
    module, patch = small_resnet(), side // 4
    values = np.random.default_rng(0).normal(size=(side,) * 3).astype(np.float32)
    with obeql.connect() as db:
        db.create_model("net", module, size=(side,) * 3, channels=1)
        options: dict[str, Any] = {"patch": patch, "fill": "zero", "reuse": False}
        limited = {**options, "memory": f"{limit_mb}MB", "stride": patch // 2}
        db.explain(values, "net", classes=0, **limited)  # all that is set up once, such as measured rates
        with torch.inference_mode():
            before = peak_mb(lambda: module(torch.from_numpy(values)[None, None]))
        after = peak_mb(lambda: db.explain(values, "net", classes=0, **limited))
        (result,) = db.explain(values, "net", classes=0, **limited)
    return {
        "case": "memory", "size": (side,) * 3, "windows": int(result.scores.size), "limit_mb": limit_mb,
        "plain_peak_mb": before, "peak_mb": after, "more_mb": after - before, "is_within": after - before <= limit_mb,
    }  # fmt: skip


def peak_mb(run: Callable[[], Any]) -> float:
    """Return the most memory that this process holds while something runs, as Linux counts it."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what is taken
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    run()
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=(*CASES, "memory"), default=(*CASES, "memory"))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--note", default="", help="what a reader of the figures should know, as of a machine at work")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--memory-of", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if args.memory_of:
            print(json.dumps(measure_memory(*args.memory_of)))
            return
        for name in args.cases:
            if name == "memory":
                rows.append(memory_row(*((32, 64) if args.tiny else (128, 512))))
            else:
                rows.append(bench(name, (TINY if args.tiny else CASES)[name], args.repeats))
            print(json.dumps(rows[-1]), flush=True)
    if args.out:
        found = {"machine": machine(), "note": args.note, "rows": rows}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
