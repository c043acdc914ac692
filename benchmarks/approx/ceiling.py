"""What APPROX costs at most: whole statements beside EXACT, on small networks, tiny grids and scores that are hard.

Where a map cannot be had for less, APPROX should be as dear as EXACT. Processor time of the whole process counts, of
statements in turns, so that other work on the machine hardly matters; and windows are counted, which no machine
changes. Networks have random weights: their maps are rough, and estimating them fails more often than of trained ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import obeql
from benchmarks.approx.tables import write
from benchmarks.networks import network
from obeql.executor.models.zoo.import_torchvision import torchvision

SCORES = ("logit", "log_odds", "probability")
TARGETS = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Case:
    """A network, by name, the side of its input, and the sides and steps of windows: grids of 2 x 2 to 100 x 100."""

    network: str
    size: int
    windows: tuple[tuple[int, int], ...]


CASES = (
    Case("tiny_cnn", 32, ((16, 16), (8, 2), (4, 1))),
    Case("tiny_cnn", 64, ((16, 4), (8, 2), (5, 1))),
    Case("tiny_cnn", 128, ((29, 1),)),
    Case("tiny_vit", 64, ((16, 4), (8, 2), (5, 1))),
    Case("squeezenet1_1", 224, ((112, 112), (32, 16), (16, 8), (16, 4))),
    Case("mobilenet_v3_small", 224, ((112, 112), (32, 16), (16, 8), (16, 4))),
    Case("mobilenet_v2", 224, ((112, 112), (32, 16), (16, 8))),
    Case("resnet18", 224, ((112, 112), (32, 16), (16, 8))),
    Case("efficientnet_b0", 224, ((112, 112), (32, 16), (16, 8))),
    Case("vit_tiny", 224, ((112, 112), (32, 16), (16, 8))),
)
NETWORKS = tuple(dict.fromkeys(case.network for case in CASES))


def _tiny_cnn(size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def _transformer(size: int, patch: int, width: int, depth: int, n_heads: int) -> nn.Module:
    torchvision("this benchmark")  # which timm imports
    from timm.models.vision_transformer import VisionTransformer  # noqa: PLC0415 - only these networks need it

    return VisionTransformer(size, patch, embed_dim=width, depth=depth, num_heads=n_heads, num_classes=10)


#: networks that are not torchvision's, made for an input of so many pixels
_OWN: dict[str, Callable[[int], nn.Module]] = {
    "tiny_cnn": _tiny_cnn,
    "tiny_vit": lambda size: _transformer(size, 8, 64, 4, 4),
    "vit_tiny": lambda size: _transformer(size, 16, 192, 12, 3),
}


def _made(name: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    return _OWN[name](size).eval() if name in _OWN else network(name)


def _picture(size: int) -> Any:
    """A picture with large and small shapes, uint8 (size, size, 3)."""
    random = np.random.default_rng(0)
    across = np.linspace(0, 3 * np.pi, size)
    waves = 120 + 80 * np.sin(across)[:, None] * np.cos(2 * across)
    coarse = np.kron(random.normal(0, 30, (8, 8, 3)), np.ones((size // 8, size // 8, 1)))
    pixels = waves[:, :, None] + coarse + random.normal(0, 8, (size, size, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def run_ceiling(args: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if case.network in args.networks:
            for row in _rows(case, args):
                rows.append(row)
                print(json.dumps(row), flush=True)
    write(args.out, {"summary": _summary(rows), "rows": rows}, _summary(rows))


def _rows(case: Case, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    db = obeql.connect()
    db.create_model("net", _made(case.network, case.size), size=(case.size, case.size))
    picture = _picture(case.size)
    for patch, stride in case.windows:
        n_windows = ((case.size - patch) // stride + 1) ** 2
        if n_windows > args.most_windows:
            continue
        for score in args.scores:
            head = f"EXPLAIN OCCLUDE $image USING net FOR CLASS 1 WITH patch={patch} stride={stride} score={score} "
            clauses = ["EXACT", *(f"APPROX {target:g}" for target in args.targets)]
            spent: dict[str, list[float]] = {clause: [] for clause in clauses}
            maps: dict[str, Any] = {}
            for turn in range(1 + args.repeats):
                for clause in clauses:
                    before = time.process_time()
                    maps[clause] = db.execute(f"{head}{clause} NO REUSE", {"image": picture})[0]
                    if turn:  # the first is to warm up: rates are measured in it
                        spent[clause].append(time.process_time() - before)
            exact_s = statistics.median(spent["EXACT"])
            for clause in clauses[1:]:
                yield _row(case, n_windows, score, clause, maps[clause], exact_s, statistics.median(spent[clause]))
    db.close()


def _row(
    case: Case, n_windows: int, score: str, clause: str, heat: Any, exact_s: float, approx_s: float
) -> dict[str, Any]:
    stated = heat.cells.quality
    n_exact = int(stated.get("n_exact", n_windows))
    return {
        "network": f"{case.network} {case.size}",
        "windows": n_windows,
        "score": score,
        "clause": clause,
        "exact ms": round(1000 * exact_s, 1),
        "cost": round(approx_s / exact_s, 3),
        "computed": round(n_exact / n_windows, 3),
        "in reduced precision": round(stated.get("n_reduced", 0) / n_windows, 3),
        "levels": stated.get("n_levels", 0),
        "quality": heat.quality,
    }


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cost by network: the median, the most, and how many statements cost more than 1.05 and 1.15 of EXACT."""
    found = []
    for name in (*dict.fromkeys(row["network"] for row in rows), "all"):
        costs = [row["cost"] for row in rows if name in (row["network"], "all")]
        found.append(
            {
                "network": name,
                "statements": len(costs),
                "cost median": round(statistics.median(costs), 3),
                "most": max(costs),
                "above 1.05": sum(cost > 1.05 for cost in costs),
                "above 1.15": sum(cost > 1.15 for cost in costs),
            }
        )
    return found
