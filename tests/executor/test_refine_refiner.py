"""Refining synthetic maps: what is asked for, when it ends, and whether what is stated is true."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from obeql.executor.adaptive.gaussian_process import Axes, Field, work_of
from obeql.executor.adaptive.map_quality import ssim
from obeql.executor.adaptive.problem import Goal, Problem
from obeql.executor.adaptive.sampler import Sampler
from obeql.executor.adaptive.top_k import TopKSearch
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import CostShares
from obeql.planner.physical.refinement import AUDIT_TIMES, MOST_REDUCED_PRICE, MOST_WASTE, audit_size
from obeql.planner.scores import ScoreKind

Floats = npt.NDArray[np.float64]

GRID = WindowGrid.over((108, 108), (16, 16), (4, 4))
GOAL = Goal("ssim", 0.95, 0.9)
EXACT, REDUCED = CostShares(0.002, 0.005), CostShares(0.002, 0.005, 0.2)


def smooth(seed: int, length: float = 1.0) -> Floats:
    """A map drawn from the process that refinement believes in."""
    axes = Axes.of(GRID)
    return Field(axes, length, np.ones(GRID.shape), np.ones(1)).draws(1, np.random.default_rng(seed))[0]


def rough(seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(GRID.shape)


def drive(refiner: Sampler, exact: Floats, reduced: Floats | None = None, most: int | None = None) -> int:
    """Give the refiner what it asks for; returns the number of requests. None asks for what is known."""
    request, n_levels = refiner.first(most), 0
    while not request.empty:
        cells = refiner.cells
        assert not cells.exact.flat[request.exact].any()
        assert not cells.reduced.flat[request.reduced].any()
        nothing = np.zeros((GRID.n_windows, 1))
        cells.add(request.exact, exact.reshape(-1, 1)[request.exact], nothing[request.exact])
        if len(request.reduced):
            assert reduced is not None
            cells.add_reduced(request.reduced, reduced.reshape(-1, 1)[request.reduced], nothing[request.reduced])
        refiner.update()
        n_levels += 1
        request = refiner.next(most)
    return n_levels


def found(refiner: Sampler) -> Floats:
    return refiner.estimates[0].logit - refiner.estimates[0].others


def new(prices: CostShares = EXACT, goal: Goal = GOAL, seed: int = 0, in_one_step: bool = False) -> Sampler:
    return Sampler(Problem(GRID, "log_odds", 1, goal, seed, prices, in_one_step=in_one_step))


@pytest.mark.parametrize("prices", [EXACT, REDUCED])
def test_what_is_stated_is_true(prices: CostShares) -> None:
    true, shares = [], []
    for seed in range(6):
        truth = smooth(seed)
        refiner = new(prices, seed=seed)
        drive(refiner, truth, truth + 0.01 * rough(seed + 100))
        assert refiner.worst >= 0.9
        true.append(ssim(truth[None], found(refiner))[0])
        shares.append(refiner.cells.seen.mean())
        np.testing.assert_array_equal(found(refiner)[refiner.cells.exact], truth[refiner.cells.exact])
    assert sum(value >= 0.9 for value in true) >= 5
    assert np.median(shares) < 0.6


def test_the_same_seed_asks_for_the_same_cells() -> None:
    truth = smooth(1)
    runs = [new(seed=3), new(seed=3), new(seed=4)]
    for refiner in runs:
        drive(refiner, truth)
    np.testing.assert_array_equal(runs[0].cells.exact, runs[1].cells.exact)
    np.testing.assert_array_equal(found(runs[0]), found(runs[1]))
    assert (runs[0].cells.exact != runs[2].cells.exact).any()


@pytest.mark.parametrize("prices", [EXACT, REDUCED])
@pytest.mark.parametrize("make", [rough, lambda seed: np.full(GRID.shape, 2.5)], ids=["noise", "constant"])
def test_what_cannot_be_estimated_is_computed(make: Callable[[int], Floats], prices: CostShares) -> None:
    truth = make(0)
    refiner = new(prices)
    drive(refiner, truth, truth + 1e-3 * rough(1))
    assert refiner.worst >= 0.9
    assert ssim(truth[None], found(refiner))[0] >= 0.9
    assert refiner.cells.exact.all() or refiner.cells.reduced.all()


PRICES = [
    CostShares(0.002, 0.01),
    CostShares(0.004, 0.016),
    CostShares(0.002, 0.01, 0.2),
    CostShares(0.004, 0.016, MOST_REDUCED_PRICE),
]


def spent(refiner: Sampler, exact: Floats, reduced: Floats) -> float:
    """What refining costs in all, as a share of computing everything at once, by the prices of the problem."""
    prices, n, cost = refiner.problem.prices, GRID.n_windows, 0.0
    request = refiner.first()
    while not request.empty:
        cost += (len(request.exact) + prices.reduced * len(request.reduced)) / n
        cost += prices.level_of(len(request.exact) / n) if 0 < len(request.exact) < n / 3 else 0.0
        nothing = np.zeros((n, 1))
        refiner.cells.add(request.exact, exact.reshape(-1, 1)[request.exact], nothing[request.exact])
        refiner.cells.add_reduced(request.reduced, reduced.reshape(-1, 1)[request.reduced], nothing[request.reduced])
        refiner.update()
        cost += 0.0 if refiner.cells.exact.all() else prices.look * work_of(int(refiner.cells.seen.sum()), n)
        request = refiner.next()
    return cost


@pytest.mark.parametrize("k", [0, 10], ids=["map", "top"])
@pytest.mark.parametrize("rounding", [0.0, 1e-5, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("make", [rough, lambda seed: np.full(GRID.shape, 2.5) + 1e-6 * rough(seed)])
@pytest.mark.parametrize("prices", PRICES)
def test_a_map_that_ends_exact_costs_hardly_more(
    prices: CostShares, make: Callable[[int], Floats], rounding: float, k: int
) -> None:
    for seed in range(3):
        truth = make(seed)
        goal = GOAL if k == 0 else Goal("top_cells", 0.95, 1.0)
        problem = Problem(GRID, "log_odds", 1, goal, seed, prices)
        refiner = Sampler(problem) if k == 0 else TopKSearch(problem, k)
        assert spent(refiner, truth, truth + rounding * rough(seed + 50)) <= 1 + MOST_WASTE + (0.02 if k else 0.01)


def test_an_audit_in_a_dear_precision_is_whole_after_the_first_look_only() -> None:
    prices, shares = CostShares(0.001, 0.01, MOST_REDUCED_PRICE), []
    grid = WindowGrid.over((240, 240), (16, 16), (4, 4))
    axes = Axes.of(grid)
    truth = Field(axes, 1.0, np.ones(grid.shape), np.ones(1)).draws(1, np.random.default_rng(5))[0].reshape(-1, 1)
    refiner = Sampler(Problem(grid, "log_odds", 1, GOAL, 5, prices))
    request, nothing = refiner.first(), np.zeros_like(truth)
    while not request.empty:
        refiner.cells.add(request.exact, truth[request.exact], nothing[request.exact])
        refiner.cells.add_reduced(request.reduced, truth[request.reduced], nothing[request.reduced])
        refiner.update()
        shares.append((float(refiner.cells.reduced.mean()), int(refiner._sample.audit.sum())))
        request = refiner.next()
    after_trial = shares[1:]
    assert after_trial[0][0] * MOST_REDUCED_PRICE < MOST_WASTE
    assert after_trial[0][1] < after_trial[1][1] == AUDIT_TIMES * audit_size(grid.n_windows)
    assert ssim(truth.reshape(1, *grid.shape), found(refiner))[0] >= 0.9


def test_a_reduced_precision_that_fails_when_time_is_up_leaves_a_map() -> None:
    truth = smooth(3)
    refiner = new(REDUCED, Goal("ssim", 0.95))
    request = refiner.first(40)
    nothing = np.zeros((GRID.n_windows, 1))
    refiner.cells.add(request.exact, truth.reshape(-1, 1)[request.exact], nothing[request.exact])
    refiner.drop_proxy()
    request = refiner.next(0)
    assert len(request.exact) and not len(request.reduced)
    refiner.cells.add(request.exact, truth.reshape(-1, 1)[request.exact], nothing[request.exact])
    refiner.update()
    assert np.isfinite(found(refiner)).all() and refiner.next(0).empty


def test_a_search_has_its_whole_audit_after_the_first_look() -> None:
    truth = smooth(4)
    refiner = TopKSearch(Problem(GRID, "log_odds", 1, Goal("top_cells", 0.95, 1.0), 0, CostShares(0.01, 0.02, 0.4)), 10)
    drive(refiner, truth, truth + 1e-3 * rough(1))
    assert refiner.cells.reduced.any() and not refiner.cells.exact.all()
    assert int(refiner._sample.audit.sum()) == AUDIT_TIMES * audit_size(GRID.n_windows)


@pytest.mark.parametrize("size", [(16, 28), (16, 816), (20, 20)], ids=["1x4", "1x201", "2x2"])
def test_grids_of_one_row_or_few_cells(size: tuple[int, int]) -> None:
    grid = WindowGrid.over(size, (16, 16), (4, 4))
    for seed, truth in enumerate((np.zeros(grid.shape), np.random.default_rng(0).standard_normal(grid.shape))):
        refiner = Sampler(Problem(grid, "log_odds", 1, GOAL, seed))
        request = refiner.first()
        while not request.empty:
            values = truth.reshape(-1, 1)[request.exact]
            refiner.cells.add(request.exact, values, np.zeros_like(values))
            refiner.update()
            request = refiner.next()
        assert np.isfinite(found(refiner)).all()
        assert refiner.worst >= 0.9


def test_rounding_as_large_as_the_map_is_not_used() -> None:
    truth = smooth(2)
    refiner = new(REDUCED)
    drive(refiner, truth, truth + 0.5 * rough(3))
    assert not refiner.has_reduced and not refiner.cells.reduced.any()
    assert ssim(truth[None], found(refiner))[0] >= 0.9


def test_a_common_error_of_the_reduced_precision_is_taken_out() -> None:
    truth = smooth(4)
    refiner = new(REDUCED, in_one_step=True)
    assert drive(refiner, truth, truth + 3.0) == 3  # the trial, the first level, all others
    np.testing.assert_allclose(found(refiner), truth, atol=1e-9)
    assert refiner.worst > 0.999 and refiner.cells.exact.mean() < 0.05


def test_values_beyond_the_reduced_precision_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        new(REDUCED).cells.add_reduced(np.array([0]), np.array([[np.inf]]), np.zeros((1, 1)))


@pytest.mark.parametrize("prices", [EXACT, REDUCED])
def test_the_largest_error_is_stated_where_every_cell_was_seen(prices: CostShares) -> None:
    """One cell decides, which no sample of cells finds."""
    truth = smooth(0)
    refiner = Sampler(Problem(GRID, "log_odds", 1, Goal("maxerr", 0.95, 0.8), 0, prices))
    drive(refiner, truth, truth + 0.01 * rough(0))
    assert refiner.cells.seen.all() and refiner.worst >= 0.8
    assert refiner.cells.exact.all() != prices.has_reduced


def test_a_budget_is_kept() -> None:
    refiner = new(goal=Goal("ssim", 0.95))
    truth = smooth(5)
    request = refiner.first(60)
    assert len(request.exact) <= 80
    refiner.cells.add(request.exact, truth.reshape(-1, 1)[request.exact], np.zeros((len(request.exact), 1)))
    refiner.update()
    assert len(refiner.next(30).exact) <= 30 and refiner.next(0).empty


@pytest.mark.parametrize("prices", [EXACT, REDUCED])
def test_the_most_important_cells_are_found(prices: CostShares) -> None:
    for seed in range(2):
        truth = smooth(seed)
        refiner = TopKSearch(Problem(GRID, "log_odds", 1, Goal("top_cells", 0.95, 1.0), seed, prices), 10)
        drive(refiner, truth, truth + 0.01 * rough(seed))
        best = np.argsort(truth, axis=None)[:10]
        named = np.argsort(np.where(np.isnan(found(refiner)), np.inf, found(refiner)), axis=None)[:10]
        assert set(best) == set(named)
        assert refiner.cells.exact.mean() < (0.12 if prices.has_reduced else 0.5)


@pytest.mark.parametrize("kind", ["probability", "log_probability"])
def test_a_search_by_probability_computes_the_cells_of_one_by_log_odds(kind: ScoreKind) -> None:
    truth = 8 + 6 * smooth(5)  # most probabilities are close to 1, so that few cells hold all their errors
    asked = []
    for each in ("log_odds", kind):
        refiner = TopKSearch(Problem(GRID, each, 1, Goal("top_cells", 0.95, 1.0), 0, EXACT), 10)
        drive(refiner, truth)
        asked.append(refiner.cells.exact)
    np.testing.assert_array_equal(*asked)
    assert not asked[0].all()
