"""Metrics of maps: against their definitions window by window, and where maps are too small or constant."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from obeql.executor.adaptive.map_quality import METRICS, quality_of, ssim

Floats = npt.NDArray[np.float64]


def plain_ssim(x: Floats, y: Floats) -> float:
    """scikit-image's structural_similarity(x, y, data_range=ptp(x)), window by window, by lines of short axes."""
    smallest = min(n for n in x.shape if n >= 3)
    side = min(7, smallest - (smallest + 1) % 2)
    sides = [side if n >= 3 else 1 for n in x.shape]
    c1, c2 = (0.01 * np.ptp(x)) ** 2, (0.03 * np.ptp(x)) ** 2
    values = []
    for place in np.ndindex(*(n - side + 1 for n, side in zip(x.shape, sides, strict=True))):
        box = tuple(slice(at, at + side) for at, side in zip(place, sides, strict=True))
        a, b = x[box], y[box]
        cov = np.cov(a.ravel(), b.ravel())
        top = (2 * a.mean() * b.mean() + c1) * (2 * cov[0, 1] + c2)
        values.append(top / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize(
    "shape", [(12, 15), (7, 9), (6, 20), (3, 3), (4, 30), (1, 40), (2, 9), (5, 6, 8), (8, 7, 9), (2, 6, 5)]
)
def test_ssim_is_that_of_every_window(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    exact = random.normal(5, 2, (3, *shape))
    estimate = exact[0] + random.normal(0, 0.7, shape)
    np.testing.assert_allclose(ssim(exact, estimate), [plain_ssim(x, estimate) for x in exact], rtol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_maps_have_quality_1(metric: str) -> None:
    for shape in ((9, 11), (1, 30), (4, 5, 6)):
        exact = np.random.default_rng(2).normal(size=shape)
        assert quality_of(metric, exact[None], exact)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("metric", METRICS)
def test_constant_maps_are_compared_by_largest_error(metric: str) -> None:
    for shape in ((9, 9), (1, 30), (4, 5, 6)):
        exact = np.full((1, *shape), 3.0)
        assert quality_of(metric, exact, exact[0])[0] == 1.0
        assert quality_of(metric, exact, exact[0] + 1e-3)[0] < 0


def test_narrow_maps_are_compared_by_largest_error() -> None:
    exact = np.array([[[0.0, 1.0], [2.0, 0.5]]])
    assert quality_of("ssim", exact, np.array([[0.0, 1.5], [2.0, 0.5]]))[0] == pytest.approx(0.75)


def test_top_tenth_counts_the_cells_of_largest_importance() -> None:
    exact = np.arange(100.0).reshape(1, 10, 10)  # importance is clean score - score: the least scores are the top
    estimate = exact[0].copy()
    estimate[0, :5] = 1000.0
    assert quality_of("top10pct", exact, estimate)[0] == pytest.approx(0.5)
    assert quality_of("pearson", exact, -exact[0])[0] == pytest.approx(-1.0)
