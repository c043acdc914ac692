"""Refining maps of three axes, and of one: against plain algebra, and whether what is stated is true."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import numpy.typing as npt
import pytest

from obeql.executor.adaptive import gaussian_process
from obeql.executor.adaptive.gaussian_process import Axes, Field, fit_field
from obeql.executor.adaptive.map_quality import ssim
from obeql.executor.adaptive.problem import Goal, Problem
from obeql.executor.adaptive.sampler import Sampler
from obeql.executor.adaptive.top_k import TopKSearch
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import CostShares

Floats = npt.NDArray[np.float64]

CUBE = WindowGrid.over((48, 56, 52), (16,) * 3, (4,) * 3)  # 9 x 11 x 10 windows
CLIP = WindowGrid.over((16, 64, 64), (4, 16, 16), (2, 8, 8))  # 7 x 7 x 7
SIGNAL = WindowGrid.over((1, 2048), (1, 64), (1, 8))
PRICES = CostShares(0.002, 0.005)


def smooth(grid: WindowGrid, seed: int, length: float = 1.0) -> Floats:
    field = Field(Axes.of(grid), length, np.ones(grid.shape), np.ones(1))
    return field.draws(1, np.random.default_rng(seed))[0]


def blobs(grid: WindowGrid, seed: int) -> Floats:
    """A few places that matter, in a map that hardly varies."""
    random = np.random.default_rng(seed)
    found = 0.05 * smooth(grid, seed)
    places = np.meshgrid(*map(np.arange, grid.shape), indexing="ij")
    for _ in range(3):
        middle, width = [random.uniform(0, n - 1) for n in grid.shape], random.uniform(1.0, 3.0)
        far = sum((axis - at) ** 2 for axis, at in zip(places, middle, strict=True))
        found -= random.uniform(0.5, 2.0) * np.exp(-far / (2 * width**2))
    return found


def drive(refiner: Sampler, truth: Floats) -> None:
    request, flat = refiner.first(), truth.reshape(-1, 1)
    while not request.empty:
        refiner.cells.add(request.exact, flat[request.exact], np.zeros((len(request.exact), 1)))
        refiner.update()
        request = refiner.next()


def covariances(field: Field, at: tuple[npt.NDArray[np.intp], ...], of: tuple[npt.NDArray[np.intp], ...]) -> Floats:
    """Covariances of cells, axis by axis, as a plain product."""
    each = zip(field.axes.correlations(field.length), at, of, strict=True)
    product: Floats = reduce(np.multiply, (along[a][:, b] for along, a, b in each))
    return product * field.scale[at][:, None] * field.scale[of]


def test_kriging_is_the_plain_algebra_and_tiles_hardly_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = WindowGrid.over((68, 28, 24), (16, 8, 8), (4, 4, 4))  # 14 x 6 x 5
    random = np.random.default_rng(0)
    known = random.random(grid.shape) < 0.3
    scale = 1.0 + random.random(grid.shape)
    field = Field(Axes.of(grid), 0.7, scale, np.ones(1))
    values = field.draws(2, random)[:, known]
    at, all_ = np.nonzero(known), np.unravel_index(np.arange(grid.n_windows), grid.shape)
    system = covariances(field, at, at) + 1e-6 * np.diag(field.scale[at] ** 2)
    between = covariances(field, all_, at)
    centres = values.mean(axis=1, keepdims=True)
    wanted = centres + (between @ np.linalg.solve(system, (values - centres).T)).T
    spread = scale.reshape(-1) ** 2 - (between @ np.linalg.inv(system) * between).sum(axis=1)
    monkeypatch.setattr(gaussian_process, "_MOST_COVARIANCES", 3000)  # a tile in several slabs
    unknown = ~known.reshape(-1)
    inverse = np.linalg.inv(system)
    expected = inverse @ (values[0] - values[0].mean()) / np.diag(inverse)
    for halos, tolerance in ((3, 1e-6), (1, 0.05)):  # one tile, and several
        monkeypatch.setitem(gaussian_process._TILINGS, 3, gaussian_process._Tiling(2.5, 3, 8, halos))
        found = field.posterior(known, values)
        residuals, variances = field.left_out(known, values[0])
        for one, other in (
            (found.means.reshape(2, -1)[:, unknown], wanted[:, unknown]),
            (found.variance.reshape(-1)[unknown], spread[unknown]),
            (residuals, expected),
            (variances, 1 / np.diag(inverse)),
        ):
            # Variances are worked out in float32.
            assert np.sqrt(np.mean((one - other) ** 2)) < tolerance * (1 + 20 * (one.ndim == 1))


def test_a_tile_with_no_known_cell_near_it_has_the_mean() -> None:
    grid = WindowGrid.over((224, 224), (25, 25), (1, 1))  # 200 x 200
    known = np.zeros(grid.shape, bool)
    known[np.ix_((0, 66, 133, 199), (0, 66, 133, 199))] = True
    values = np.random.default_rng(0).standard_normal((1, int(known.sum())))
    found = Field(Axes.of(grid), 0.2, np.ones(grid.shape), np.ones(1)).posterior(known, values)
    np.testing.assert_array_equal(found.means[0][known], values[0])
    np.testing.assert_allclose(found.means[0][100, 100], values.mean(), atol=1e-6)


def test_a_fitted_length_is_that_of_the_map() -> None:
    found = []
    for length in (0.5, 1.5):
        truth = smooth(CUBE, 1, length)
        known = np.random.default_rng(2).random(CUBE.shape) < 0.3
        found.append(fit_field(Axes.of(CUBE), known, truth[known]).length)
    assert found[0] < 0.8 < found[1]


@pytest.mark.parametrize("grid", [CUBE, CLIP, SIGNAL], ids=["cube", "clip", "signal"])
@pytest.mark.parametrize("make", [smooth, blobs])
def test_what_is_stated_is_true(grid: WindowGrid, make: Callable[[WindowGrid, int], Floats]) -> None:
    goal, true, shares = Goal("ssim", 0.95, 0.8), [], []
    for seed in range(6):
        truth = make(grid, seed)
        refiner = Sampler(Problem(grid, "log_odds", 1, goal, seed, PRICES))
        drive(refiner, truth)
        assert refiner.worst >= 0.8
        (found,) = refiner.estimates
        true.append(ssim(truth[None], found.logit)[0])
        shares.append(float(refiner.cells.seen.mean()))
        np.testing.assert_array_equal(found.logit[refiner.cells.exact], truth[refiner.cells.exact])
    assert sum(value >= 0.8 for value in true) >= 5
    assert np.median(shares) < 0.75


def test_the_most_important_windows_are_found() -> None:
    for seed in range(3):
        truth = blobs(CUBE, seed)
        refiner = TopKSearch(Problem(CUBE, "log_odds", 1, Goal("top_cells", 0.95, 1.0), seed, PRICES), 10)
        drive(refiner, truth)
        found = np.where(np.isnan(refiner.estimates[0].logit), np.inf, refiner.estimates[0].logit)
        assert set(np.argsort(truth, axis=None)[:10]) == set(np.argsort(found, axis=None)[:10])
        assert refiner.cells.exact.mean() < 0.5


@pytest.mark.parametrize("size", [(8, 8, 8), (40, 8, 8), (12, 12, 12), (8, 40, 40)], ids=["1", "9x1x1", "2^3", "1x9x9"])
def test_grids_of_few_windows_on_some_axis(size: tuple[int, ...]) -> None:
    grid = WindowGrid.over(size, (8,) * 3, (4,) * 3)
    for seed, truth in enumerate((np.zeros(grid.shape), np.random.default_rng(0).standard_normal(grid.shape))):
        refiner = Sampler(Problem(grid, "log_odds", 1, Goal("ssim", 0.95, 0.9), seed))
        drive(refiner, truth)
        assert np.isfinite(refiner.estimates[0].logit).all() and refiner.worst >= 0.9
