"""Refine stored maps as APPROX and TOP k CELLS would, and compare what is stated with what is true."""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.approx.setting import PRICES
from benchmarks.approx.stored_maps import Stored, stored
from benchmarks.approx.tables import write
from obeql.executor.adaptive.gaussian_process import work_of
from obeql.executor.adaptive.map_quality import quality_of
from obeql.executor.adaptive.problem import Goal, Problem
from obeql.executor.adaptive.sampler import Sampler
from obeql.executor.adaptive.top_k import TopKSearch
from obeql.planner.physical.plan import CostShares
from obeql.planner.physical.refinement import MOST_REDUCED_PRICE
from obeql.planner.scores import ScoreKind, score_of


@dataclass(frozen=True)
class Case:
    """One refinement to replay: of which map, with which goal; `price` of a bfloat16 cell: None as usual, 0 without."""

    map: Stored
    score: ScoreKind
    metric: str
    target: float
    seed: int
    price: float | None


def replay(case: Case) -> dict[str, Any]:
    """Refine a stored map; returns what is stated, what is true, and what it cost, in exact cells."""
    torch.set_num_threads(1)
    cells = case.map
    prices = PRICES[cells.kind]
    if case.price is not None:
        prices = replace(prices, reduced=case.price)
    if prices.reduced > MOST_REDUCED_PRICE:  # as the planner would
        prices = replace(prices, reduced=0.0)
    started = time.perf_counter()
    is_top = case.metric == "top_cells"
    goal = Goal(case.metric, 0.95, 1.0 if is_top else case.target)
    problem = Problem(cells.grid, case.score, 1, goal, case.seed, prices)
    refiner = TopKSearch(problem, int(case.target)) if is_top else Sampler(problem)
    cost = _drive(refiner, cells, prices)
    truth = cells.scores(case.score)
    found = score_of(case.score, refiner.estimates[0].logit, refiner.estimates[0].others)
    if case.metric == "top_cells":
        k = int(case.target)
        best = np.argsort(truth.ravel(), kind="stable")[:k]
        named = np.argsort(np.where(np.isnan(found), np.inf, found).ravel(), kind="stable")[:k]
        true = len(np.intersect1d(best, named)) / k
    else:
        true = float(quality_of(case.metric, truth[None], found)[0])
    return {
        "kind": cells.kind,
        "image": cells.image,
        "class": cells.class_id,
        "score": case.score,
        "metric": case.metric,
        "target": case.target,
        "seed": case.seed,
        "reduced": prices.reduced,
        "bound": round(refiner.worst, 6),
        "true": round(true, 6),
        "exact_share": round(float(refiner.cells.exact.mean()), 4),
        "levels": len(refiner.history),
        "cost": round(cost, 4),
        "estimating_s": round(time.perf_counter() - started, 3),
    }


def _drive(refiner: Sampler, cells: Stored, prices: CostShares) -> float:
    """Give a refiner the cells it asks for until it is done; returns what that cost, estimating included.

    1 is the cost of computing all exactly; what a quarter of the windows or more cost at once is as little each.
    """
    exact, reduced = (plane.reshape(2, -1) for plane in (cells.exact, cells.reduced))
    n, cost = exact.shape[1], 0.0
    request = refiner.first()
    while not request.empty:
        cost += (len(request.exact) + len(request.reduced) * prices.reduced) / n
        cost += prices.level if 0 < len(request.exact) < n / 4 else 0.0
        if len(request.exact):
            refiner.cells.add(request.exact, *exact[:, request.exact, None])
        if len(request.reduced):
            refiner.cells.add_reduced(request.reduced, *reduced[:, request.reduced, None])
        n_looks = len(refiner.history)
        refiner.update()
        if len(refiner.history) > n_looks and not refiner.cells.exact.all():
            cost += prices.look * work_of(int(refiner.cells.seen.sum()), n)
        request = refiner.next()
    return cost


def cases(
    maps: list[Stored], seeds: int, scores: list[ScoreKind], goals: list[str], prices: list[float | None]
) -> list[Case]:
    """`goals` as metric:target, such as ssim:0.9."""
    return [
        Case(each, score, goal.split(":")[0], float(goal.split(":")[1]), seed, price)
        for goal in goals
        for price in prices
        for score in scores
        for seed in range(seeds)
        for each in maps
    ]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Coverage and cost by network, score and goal."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in ("kind", "score", "metric", "target", "reduced")), []).append(row)
    found = []
    for (kind, score, metric, target, reduced), all_rows in groups.items():
        said = [row for row in all_rows if row["exact_share"] < 1]
        # A search for cells states that all are right, at 95 %.
        least = 1.0 if metric == "top_cells" else target
        true = sorted(row["true"] for row in said)
        found.append(
            {
                "network": kind,
                "score": score,
                "goal": f"{metric} {target:g}",
                "bfloat16 at": reduced or None,
                "maps": len(all_rows),
                "approximate": len(said),
                "as stated": sum(row["true"] >= least - 1e-9 for row in said),
                "true least": true[0] if true else None,
                "true 5 %": true[len(true) // 20] if true else None,
                "true mean": round(statistics.mean(true), 4) if true else None,
                "at least the bound": sum(row["true"] >= row["bound"] - 1e-9 for row in said),
                "cost median": round(statistics.median(row["cost"] for row in all_rows), 3),
                "cost mean": round(statistics.mean(row["cost"] for row in all_rows), 3),
                "cost most": max(row["cost"] for row in all_rows),
                "estimating s": round(statistics.median(row["estimating_s"] for row in all_rows), 2),
            }
        )
    return found


def run_replay(args: argparse.Namespace) -> None:
    maps = [each for each in stored(args.file) if not args.kinds or each.kind in args.kinds]
    if args.maps:
        maps = maps[:: max(1, len(maps) // args.maps)]
    todo = cases(maps, args.seeds, args.scores, args.goals, args.prices or [None])
    with ProcessPoolExecutor(args.workers) as pool:
        rows = list(pool.map(replay, todo, chunksize=4))
    found = summary(rows)
    write(args.out, {"summary": found, "rows": rows}, found)
