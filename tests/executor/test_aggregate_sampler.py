"""Samples of windows: errors that hold as often as stated, decisions that are right, and windows that are saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from obeql.executor.adaptive.aggregate_sampler import AggregateSampler, student_quantile
from obeql.executor.adaptive.problem import Goal, Problem
from obeql.planner.aggregates import AggregateAim, Arithmetic, Column, Count, Expression, Mean, Number, Sum, linear
from obeql.planner.grid import WindowGrid

GRID = WindowGrid.over((112, 112), (16, 16), (2, 2), border="clip")
#: columns of the aims here: the importance, where positive, where positive and in the upper half, where large
COLUMNS = tuple(map(Column, ("importance", "positive", "upper", "large")))
SHARE = Arithmetic("/", Sum(2), Sum(1))


def smooth_map(seed: int) -> Any:
    """Return a map like those of occlusion: smooth, with a few peaks, and a little noise."""
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.standard_normal(GRID.shape), 3.0, mode="nearest")
    peaks = np.zeros(GRID.shape)
    for row, col in random.integers(0, GRID.shape[0], (3, 2)):
        peaks[row, col] = random.uniform(20, 80)
    return noise * 2 + ndimage.gaussian_filter(peaks, 2.0) + 0.02 * random.standard_normal(GRID.shape)


def columns_of(values: Any) -> Any:
    flat = values.ravel()
    upper = np.arange(flat.size) // GRID.shape[1] < 0.3 * GRID.shape[0]
    positive = np.where(flat > 0, flat, np.nan)
    return np.array([flat, positive, np.where(upper, positive, np.nan), np.where(flat > 0.5, 1.0, np.nan), flat])


def sampled(values: Any, aim: AggregateAim, seed: int) -> AggregateSampler:
    """Sample a map until the aim is met."""
    columns = columns_of(values)
    problem = Problem(GRID, "logit", 1, Goal("aggregates", aim.confidence, 1 - aim.precision), seed)
    sampler = AggregateSampler(problem, aim, lambda k, windows, logit, others: columns[:, windows])
    request = sampler.first()
    while not request.empty:
        z = values.ravel()[request.exact][:, None]
        sampler.cells.add(request.exact, z, np.zeros_like(z))
        sampler.update()
        request = sampler.next()
    return sampler


def aim_of(*selected: Expression, decisions: tuple[Expression, ...] = (), precision: float = 0.1) -> AggregateAim:
    named = tuple((str(number), each) for number, each in enumerate(selected))
    return AggregateAim(COLUMNS, named, decisions, precision, 0.95, all_must_hold=True)


@pytest.mark.parametrize(("selected", "precision"), [(Mean(0), 0.05), (SHARE, 0.1), (Count(3), 0.05), (Sum(1), 0.05)])
def test_errors_hold_as_often_as_stated(selected: Expression, precision: float) -> None:
    held, windows, n = 0, 0, 120
    for seed in range(n):
        values = smooth_map(seed)
        sampler = sampled(values, aim_of(selected, precision=precision), seed)
        columns = np.nan_to_num(columns_of(values)[:4])
        counts, sums = np.isfinite(columns_of(values)[:4]).sum(axis=1).astype(float), columns.sum(axis=1)
        (told,) = sampler.stated(0)["aggregates"]
        held += abs(told["value"] - linear(selected, counts, sums)[0]) <= told["error"] + 1e-9
        windows += int(sampler.cells.exact.sum())
    assert held >= 0.95 * n
    assert windows < 0.5 * n * GRID.n_windows, windows / n / GRID.n_windows


def test_decisions_are_right_and_most_take_few_windows() -> None:
    above = Arithmetic("-", SHARE, Number(0.5))
    right, shares = 0, []
    for seed in range(150):
        values = smooth_map(seed)
        sampler = sampled(values, aim_of(decisions=(above,)), seed)
        flags = columns_of(values)
        drawn, _, weights = sampler.sample
        share = np.nansum(weights * flags[2, drawn]) / np.nansum(weights * flags[1, drawn])
        right += (share > 0.5) == (np.nansum(flags[2]) / np.nansum(flags[1]) > 0.5)
        shares.append(sampler.cells.exact.mean())
    assert right >= 0.95 * 150
    assert np.median(shares) < 0.12, (right, np.mean(shares), np.quantile(shares, [0.25, 0.5, 0.75]))


def test_maps_that_lie_at_the_threshold_are_seldom_decided_by_a_sample() -> None:
    early, n = 0, 40
    for seed in range(n):
        values = smooth_map(seed)
        flags = columns_of(values)
        at = Number(float(np.nansum(flags[2]) / np.nansum(flags[1])))
        sampler = sampled(values, aim_of(decisions=(Arithmetic("-", SHARE, at),)), seed + 500)
        early += not sampler.cells.exact.all()
    # A decision at the threshold is wrong every second time.
    assert early <= 0.1 * n


def test_a_map_in_which_nothing_varies_is_computed_whole() -> None:
    sampler = sampled(np.zeros(GRID.shape), aim_of(Count(3)), 5)
    assert sampler.stated(0)["aggregates"] == [{"value": 0.0, "error": 0.0}]
    assert sampler.cells.exact.all()


@pytest.mark.parametrize("seed", range(5))
def test_the_error_holds_where_a_single_window_differs(seed: int) -> None:
    values = np.zeros(GRID.shape)
    values[3, 4] = 1.0
    (told,) = sampled(values, aim_of(Count(3)), seed).stated(0)["aggregates"]
    assert abs(told["value"] - 1.0) <= told["error"]


def test_a_group_that_having_leaves_out_is_done_with_its_first_decision() -> None:
    aim = aim_of(Mean(0), decisions=(Arithmetic("-", Mean(0), Number(100.0)),), precision=1e-6)
    assert sampled(smooth_map(1), aim, 1).cells.exact.mean() < 0.1


@pytest.mark.parametrize("level", [0.2, 0.05, 0.0125, 1e-3, 1e-5])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 15, 40, 300])
def test_students_quantile(level: float, freedom: int) -> None:
    assert student_quantile(level, freedom) == pytest.approx(stats.t.isf(level / 2, freedom), rel=2e-3)
