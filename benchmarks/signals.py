"""Maps of signals under the 1-D ResNet of Wang et al. (2017): OBEQL beside plain batches and Captum's Occlusion.

    python -m benchmarks.signals --out benchmarks/results/cpu2-signals.json

*Naive* runs the module on batches of hidden signals, at the fastest of several batch sizes; Captum runs as users call
it, at its own fastest. All take turns. Reported are medians of seconds, ratios over OBEQL (medians over the turns),
`work_ratio` (multiply-accumulates of whole signals over those that the plan computes) and the largest difference of
probabilities.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from torch import Tensor, nn

import obeql
from benchmarks.machine import machine

BATCHES = (8, 16, 32, 64, 128)

#: (channels, length, patch, stride)
CASES = ((1, 1024, 32, 8), (12, 5000, 50, 10))


class Block(nn.Module):
    """Convolutions of 8, 5 and 3 samples beside a shortcut, as in Wang, Yan and Oates, IJCNN 2017."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, kernel in enumerate((8, 5, 3)):
            layers += [nn.Conv1d(after if i else before, after, kernel, padding="same"), nn.BatchNorm1d(after)]
            layers += [nn.ReLU()] if i < 2 else []
        self.body = nn.Sequential(*layers)
        norm = nn.BatchNorm1d(after)
        self.shortcut = norm if before == after else nn.Sequential(nn.Conv1d(before, after, 1), norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet(channels: int) -> nn.Module:
    """Return the network with random weights, the same every time."""
    torch.manual_seed(0)
    blocks = (Block(channels, 64), Block(64, 128), Block(128, 128))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 5)).eval()


def bench(channels: int, length: int, patch: int, stride: int, repeats: int) -> dict[str, Any]:
    """Return the row of one case."""
    module = resnet(channels)
    signal = np.random.default_rng(0).normal(size=(channels, length)).astype(np.float32)
    given = torch.from_numpy(signal)
    starts = range(0, length - patch + 1, stride)

    def naive(batch: int) -> Tensor:
        found = []
        for first in range(0, len(starts), batch):
            part = starts[first : first + batch]
            hidden = given.repeat(len(part), 1, 1)
            for row, start in zip(hidden, part, strict=True):
                row[:, start : start + patch] = 0
            found.append(torch.softmax(module(hidden), 1)[:, 0])
        return torch.cat(found)

    def captum(batch: int) -> Tensor:
        window = (channels, patch)
        found: Tensor = Occlusion(module).attribute(
            given[None], window, stride, baselines=0.0, target=0, perturbations_per_eval=batch
        )
        return found

    with obeql.connect() as db, torch.inference_mode():
        db.create_model("net", module, size=(length,))

        def ours() -> Any:
            return db.explain(
                signal, "net", classes=0, patch=patch, stride=stride, border="valid", fill="zero", reuse=False
            )

        heat, plan = ours()[0], ours().plan
        best_naive = min(BATCHES, key=lambda batch: seconds(lambda: naive(batch)))
        best_captum = min(BATCHES, key=lambda batch: seconds(lambda: captum(batch)))
        turns = [
            (seconds(ours), seconds(lambda: naive(best_naive)), seconds(lambda: captum(best_captum)))
            for _ in range(repeats)
        ]
        difference = float(np.abs(naive(best_naive).numpy() - heat.scores).max())
    names = ("obeql", "naive", "captum")
    row: dict[str, Any] = {f"{name}_s": statistics.median(turn[i] for turn in turns) for i, name in enumerate(names)}
    row |= {f"{names[i]}_ratio": statistics.median(turn[i] / turn[0] for turn in turns) for i in (1, 2)}
    engine = plan.engines[0]
    whole = plan.model.network.macs * len(starts)
    return {
        "channels": channels, "length": length, "patch": patch, "stride": stride, "windows": len(starts), **row,
        "work_ratio": whole / engine.cost.macs, "naive_batch": best_naive, "captum_batch": best_captum,
        "largest_difference": difference,
    }  # fmt: skip


def seconds(run: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="the first case alone")
    parser.add_argument("--note", default="", help="what a reader of the figures should know, as of a machine at work")
    parser.add_argument("--out", type=Path, help="write JSON here")
    args = parser.parse_args()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in CASES[:1] if args.short else CASES:
            rows.append(bench(*case, args.repeats))
            print(json.dumps(rows[-1]), flush=True)
    if args.out:
        found = {"machine": machine(), "note": args.note, "rows": rows}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
