"""Replay maps about guesses: what a certificate takes with good and bad ones, and without the parts that it is made of.

`run_proxies` reads exact maps with guesses of the same cells from files of NumPy: `exact` (rows, cols), and any other
array is a guess under its name. Maps drawn at random, with guesses that are wrong in several ways, need no file.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.approx.tables import write
from obeql.executor.adaptive.gaussian_process import Axes, Field
from obeql.executor.adaptive.map_quality import ssim
from obeql.executor.adaptive.problem import Goal, Problem
from obeql.executor.adaptive.sampler import Sampler
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import CostShares
from obeql.planner.physical.proxies import PROXY_TRIAL

__all__ = ["run_proxies"]

Floats = npt.NDArray[np.float64]

PATCH, CONFIDENCE = 16, 0.95
#: proxies among which one was chosen by the same windows, as many as a plan has of some hundred windows
N_TRIED = 2
#: looks at maps cost next to nothing beside windows of large networks
PRICES = CostShares(2e-4, 0.0)


class _FixedAudit(Sampler):
    """Draws the whole audit at once, as where nothing guesses."""

    @property
    def _is_sequential(self) -> bool:
        return False


#: What is left out of the certificate, and the sampler that does without.
WAYS: dict[str, type[Sampler]] = {"": Sampler, "sequential audit": _FixedAudit, "guesses": Sampler}


@dataclass(frozen=True)
class _Case:
    """A map and a guess at it; `name` says whose, `guess` which."""

    name: str
    guess: str
    exact: Floats
    guesses: Floats
    stride: int


def run_proxies(args: argparse.Namespace) -> None:
    """Replay every case with as many audits as `seeds`, in every way."""
    torch.set_num_threads(1)
    cases = [*_stored(args.files, args.strides), *_drawn(args.drawn)]
    rows = []
    for name, guess in dict.fromkeys((case.name, case.guess) for case in cases):
        mine = [case for case in cases if (case.name, case.guess) == (name, guess)]
        for without in WAYS if len(mine) == 1 else ("",):
            rows.append(_row(mine, without, args.target, args.seeds if len(mine) == 1 else 1))
            print(rows[-1], flush=True)
    write(args.out, {"replays": rows}, rows)


def _row(cases: list[_Case], without: str, target: float, seeds: int) -> dict[str, Any]:
    found = [_replay(case, without, target, seed) for case in cases for seed in range(seeds)]
    shares, true, bounds = zip(*found, strict=True)
    correlations = [float(np.corrcoef(case.guesses.ravel(), case.exact.ravel())[0, 1]) for case in cases]
    return {
        "map": cases[0].name,
        "guess": cases[0].guess,
        "without": without or None,
        "windows": cases[0].exact.size,
        "correlation": round(statistics.median(correlations), 3),
        "replays": len(found),
        "share median": round(statistics.median(shares), 3),
        "share least": round(min(shares), 3),
        "share most": round(max(shares), 3),
        "true least": round(min(true), 3),
        "reached": sum(each >= target - 1e-9 for each in true),
        "bound held": sum(each >= bound - 1e-9 for each, bound in zip(true, bounds, strict=True)),
    }


def _replay(case: _Case, without: str, target: float, seed: int) -> tuple[float, float, float]:
    """Return the share of windows computed exactly, the true SSIM and the bound; the windows of the trial count."""
    grid = WindowGrid.over(
        tuple((n - 1) * case.stride + PATCH for n in case.exact.shape), (PATCH,) * 2, (case.stride,) * 2
    )
    truth = case.exact.reshape(-1, 1)
    refiner = WAYS[without](Problem(grid, "log_odds", 1, Goal("ssim", CONFIDENCE, target), seed, PRICES))
    if without != "guesses":
        refiner.guess(case.guesses.reshape(-1, 1), np.zeros_like(truth), N_TRIED)
        tried = refiner.trial(PROXY_TRIAL)
        refiner.cells.add(tried, truth[tried], np.zeros((len(tried), 1)))
    request = refiner.first()
    while not request.empty:
        windows = np.union1d(request.exact, request.reduced)
        refiner.cells.add(windows, truth[windows], np.zeros((len(windows), 1)))
        refiner.update()
        request = refiner.next()
    estimate = refiner.estimates[0]
    true = float(ssim(case.exact[None], estimate.logit - estimate.others)[0])
    return float(refiner.cells.exact.mean()), true, refiner.worst


def _stored(files: list[str], strides: list[int]) -> Iterator[_Case]:
    for file, stride in zip(files, strides, strict=True):
        with np.load(file) as arrays:
            for name in arrays.files:
                if name != "exact":
                    yield _Case(Path(file).stem, name, arrays["exact"], arrays[name], stride)


def _drawn(n: int) -> Iterator[_Case]:
    """Yield n maps a kind of guess, of 21 x 21 cells: every second one far from 0."""
    grid = WindowGrid.over((96, 96), (PATCH,) * 2, (4, 4))
    axes, corner = Axes.of(grid), (slice(0, 7), slice(0, 7))
    for seed in range(n):
        random = np.random.default_rng([seed, 11])
        fields = [Field(axes, length, np.ones(grid.shape), np.ones(1)) for length in ((0.6, 1.0, 1.6)[seed % 3], 0.7)]
        truth, error = (field.draws(1, random)[0] for field in fields)
        truth = truth + (12.0 if seed % 2 else 0.0)
        noise = random.standard_normal(grid.shape)
        wrong = truth.copy()
        wrong[corner] = 2.0 * noise[corner]
        good = truth + 0.17 * error
        for guess, guesses in (("good", good), ("sign turned", -good), ("noise", noise), ("wrong in a corner", wrong)):
            yield _Case("drawn", guess, truth, guesses, 4)
