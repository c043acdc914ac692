"""Maps estimated about a proxy's guesses: what is stated stays true however bad the guesses are, and good ones save."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from obeql.executor.adaptive.gaussian_process import Axes, Field
from obeql.executor.adaptive.map_quality import ssim
from obeql.executor.adaptive.observations import Observations
from obeql.executor.adaptive.problem import Goal, Problem
from obeql.executor.adaptive.sampler import Sampler
from obeql.executor.adaptive.top_k import TopKSearch
from obeql.executor.adaptive.trend import fit_trend
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import CostShares

Floats = npt.NDArray[np.float64]

GRID = WindowGrid.over((88, 88), (16, 16), (4, 4))
LARGE = WindowGrid.over((120, 120), (16, 16), (4, 4))
PRICES = CostShares(0.002, 0.005, 0.2)
TARGET = 0.9


def drawn(seed: int, length: float, grid: WindowGrid = GRID) -> Floats:
    axes = Axes.of(grid)
    return Field(axes, length, np.ones(grid.shape), np.ones(1)).draws(1, np.random.default_rng(seed))[0]


def noise(seed: int) -> Floats:
    return np.random.default_rng([seed, 7]).standard_normal(GRID.shape)


def good(truth: Floats, seed: int, grid: WindowGrid = GRID) -> Floats:
    return 5.0 + 3.0 * truth + 0.5 * drawn(seed + 900, 0.7, grid)


def flipped(truth: Floats, seed: int) -> Floats:
    return -good(truth, seed)


def wrong_in_a_corner(truth: Floats, seed: int) -> Floats:
    guess = truth.copy()
    guess[: GRID.shape[0] // 3, : GRID.shape[1] // 3] = 2.0 * noise(seed)[: GRID.shape[0] // 3, : GRID.shape[1] // 3]
    return guess


def right_on_a_lattice(truth: Floats, seed: int) -> Floats:
    """Right where the cells lie that a trend is fitted to first, by any lattice of up to 8 cells, and wrong between."""
    guess = noise(seed)
    for step in (4, 5, 6, 7, 8):
        places = [np.unique(np.round(np.linspace(0, n - 1, round((n - 1) / step) + 1)).astype(int)) for n in GRID.shape]
        guess[np.ix_(*places)] = truth[np.ix_(*places)]
    return guess


GUESSES: dict[str, Callable[[Floats, int], Floats]] = {
    "noise": lambda truth, seed: noise(seed),
    "constant": lambda truth, seed: np.full(GRID.shape, 3.0),
    "flipped": flipped,
    "corner": wrong_in_a_corner,
    "lattice": right_on_a_lattice,
    "good": good,
    "none": lambda truth, seed: np.full(GRID.shape, np.nan),
}


def refined(truth: Floats, guess: Floats | None, seed: int, grid: WindowGrid = GRID) -> Sampler:
    refiner = Sampler(Problem(grid, "log_odds", 1, Goal("ssim", 0.95, TARGET), seed, CostShares(0.002, 0.005)))
    if guess is not None:
        refiner.guess(guess.reshape(-1, 1), np.zeros((grid.n_windows, 1)))
    drive(refiner, truth)
    return refiner


def drive(refiner: Sampler, truth: Floats) -> None:
    request = refiner.first()
    while not request.empty:
        assert not len(request.reduced)
        refiner.cells.add(request.exact, truth.reshape(-1, 1)[request.exact], np.zeros((len(request.exact), 1)))
        refiner.update()
        request = refiner.next()


def quality(refiner: Sampler, truth: Floats) -> float:
    estimate = refiner.estimates[0]
    return float(ssim(truth[None], estimate.logit - estimate.others)[0])


def case(seed: int) -> Floats:
    """Return a map: every second one is far from 0, as scores of trained networks are: SSIM sees structure then."""
    return drawn(seed, (0.6, 1.0, 1.6)[seed % 3]) + (12.0 if seed % 2 else 0.0)


@pytest.mark.parametrize("kind", GUESSES)
def test_what_is_stated_is_true_whatever_the_guess(kind: str) -> None:
    met, stated, n = 0, 0, 20
    for seed in range(n):
        truth = case(seed)
        guess = None if kind == "none" else GUESSES[kind](truth, seed)
        refiner = refined(truth, guess, seed)
        true = quality(refiner, truth)
        met += true >= TARGET - 1e-9
        stated += true >= refiner.worst - 1e-9
        exact = refiner.cells.exact
        np.testing.assert_array_equal(refiner.estimates[0].logit[exact], truth[exact])
    assert met >= 0.95 * n
    assert stated >= 0.95 * n


def test_a_good_guess_saves_cells() -> None:
    shares: list[list[float]] = [[], []]
    for seed in range(4):
        truth = drawn(seed, 0.6, LARGE) + 12.0
        for guess, found in zip((good(truth, seed, LARGE), None), shares, strict=True):
            found.append(float(refined(truth, guess, seed, LARGE).cells.exact.mean()))
    # However good a guess is, a certificate takes some 60 cells of an audit, of 729 here; without one, about 40 %.
    assert np.median(shares[0]) < 0.5 * np.median(shares[1])


def test_a_search_for_cells_takes_guesses() -> None:
    truth = drawn(3, 1.0)
    search = TopKSearch(Problem(GRID, "log_odds", 1, Goal("top_cells", 0.95, 1.0), 0, CostShares(0.002, 0.005)), 10)
    search.guess(good(truth, 3).reshape(-1, 1), np.zeros((GRID.n_windows, 1)))
    drive(search, truth)
    best = np.argsort(truth.ravel())[:10]
    assert np.isfinite(search.estimates[0].logit.ravel()[best]).all()


def test_a_trend_is_fitted_to_chosen_cells_and_each_plane_has_its_own() -> None:
    cells = Observations(GRID.shape, 1)
    logit, others = drawn(1, 1.0), 0.3 * drawn(2, 1.0)
    cells.guess(2.0 * logit.reshape(-1, 1) - 4.0, np.zeros((GRID.n_windows, 1)))
    windows = np.arange(0, GRID.n_windows, 5)
    cells.add(windows, logit.reshape(-1, 1)[windows], others.reshape(-1, 1)[windows])
    chosen = np.zeros(GRID.shape, bool)
    chosen.flat[windows] = True
    trend = fit_trend(cells, chosen, 0, *(cells.planes(0)[0] - cells.planes(0)[1],), is_logit=False)
    np.testing.assert_allclose(trend.logit, logit, atol=1e-9)
    assert not trend.others.any()
    few = np.zeros(GRID.shape, bool)
    few.flat[windows[:5]] = True
    assert not fit_trend(cells, few, 0, cells.planes(0)[0], is_logit=True).modelled.any()


def test_guesses_that_are_no_numbers_are_refused() -> None:
    refiner = Sampler(Problem(GRID, "log_odds", 1, Goal("ssim", 0.95, 0.9), 0, PRICES))
    with pytest.raises(ValueError, match="not finite"):
        refiner.guess(np.full((GRID.n_windows, 1), np.inf), np.zeros((GRID.n_windows, 1)))
    assert refiner.has_reduced and refiner.cells.guesses is None
