"""The true SSIM of maps of which a share is known: plain strided interpolation, and Krypton's drill-down."""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.approx.setting import PRICES
from benchmarks.approx.stored_maps import stored
from benchmarks.approx.tables import medians, write
from obeql.executor.adaptive.map_quality import ssim
from obeql.planner.scores import score_of

Floats = npt.NDArray[np.float64]


def strided(plane: Floats, step: int) -> tuple[float, Floats]:
    """Every step-th row and column and cubic interpolation between; step divides the grids' sizes less one."""
    coarse = torch.from_numpy(plane[::step, ::step].copy())[None, None]
    full = torch.nn.functional.interpolate(coarse, plane.shape, mode="bicubic", align_corners=True)
    return coarse.numel() / plane.size, full[0, 0].numpy()


def drill_down(plane: Floats, step: int, share: float) -> tuple[float, Floats]:
    """Krypton's: every step-th window, then all windows of the `share` of coarse cells of least score.

    Other windows take the value of the coarse window at or before them, as there (SIGMOD 2019, section 4.2).
    """
    coarse = plane[::step, ::step]
    full = np.repeat(np.repeat(coarse, step, 0), step, 1)[: plane.shape[0], : plane.shape[1]]
    limit = np.sort(coarse.ravel())[max(0, round(share * coarse.size) - 1)]
    fine = np.repeat(np.repeat(coarse <= limit, step, 0), step, 1)[: plane.shape[0], : plane.shape[1]]
    fine[::step, ::step] = True
    return float(fine.mean()), np.where(fine, plane, full)


def run_curve(args: argparse.Namespace) -> None:
    rows = []
    for cells in stored(args.file):
        if args.kinds and cells.kind not in args.kinds:
            continue
        for score in args.scores:
            truth, price = cells.scores(score), PRICES[cells.kind].reduced
            rounded = score_of(score, *cells.reduced)
            ways = [("all cells, bfloat16", price, rounded)]
            for plane, each, name in ((truth, 1.0, "float32"), (rounded, price, "bfloat16")):
                found_ways = [(f"strided {step}", *strided(plane, step)) for step in (2, 4)]
                found_ways += [
                    (f"drill-down {step}, {r:g}", *drill_down(plane, step, r)) for step in (2, 4) for r in (0.25, 0.5)
                ]
                ways += [(f"{way}, {name}", cost * each, found) for way, cost, found in found_ways]
            for way, cost, plane in ways:
                rows.append(
                    {
                        "network": cells.kind,
                        "score": score,
                        "way": way,
                        "cost": cost,
                        "true": float(ssim(truth[None], plane)[0]),
                    }
                )
    found = medians(rows, ("network", "score", "way"), "maps")
    write(args.out, {"summary": found}, found)
