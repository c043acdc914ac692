"""How close a map is to the exact one: SSIM, overlap of the top tenth, correlation, largest error.

Used by `sampler`, which compares its reconstruction with maps drawn from what it knows, and by the benchmarks, which
compare it with the exact map. Every metric is 1 for equal maps; larger is better. Maps are raw scores, never colors,
and the data range is that of the exact map. They have any number of axes: those of signals are one row high.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch

from obeql.executor.adaptive.gaussian_process import n_extended

__all__ = ["METRICS", "constant_below", "error_weights", "quality_of", "ssim", "ssim_losses"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: SSIM's window: the largest odd side up to this that fits the map (scikit-image's default), and the least that tells
#: how cells vary together.
_WINDOW, _LEAST_WINDOW = 7, 3
_K1, _K2 = 0.01, 0.03
#: Cells within about which errors resemble each other, at least; and how much those of cells far away count.
_LEAST_REACH, _FAR = 3.0, 1e-3


def quality_of(metric: str, exact: Floats, estimate: Floats) -> Floats:
    """Return the quality, float64 (n,), of `estimate` (*shape) against each of the maps `exact` (n, *shape).

    `metric` is one of METRICS. A map that is constant up to float32's rounding, and for SSIM one without an axis of 3
    cells, is compared by its largest error: 1 - max|error| / max(range, `constant_below`).
    """
    worst = _largest_error(exact, estimate)
    if metric == "maxerr" or (metric == "ssim" and math.prod(_window(estimate.shape)) == 1):
        return worst
    values = METRICS[metric](exact, estimate)
    constant = np.ptp(exact, axis=_cells(exact)) <= constant_below(exact)
    return np.where(constant, worst, values)


def constant_below(maps: Floats) -> Floats:
    """Return (n,): the range up to which each of the maps (n, *shape) counts as constant."""
    limit: Floats = 1e-6 * np.maximum(1.0, np.abs(maps).max(axis=_cells(maps)))
    return limit


def _cells(maps: Floats) -> tuple[int, ...]:
    """Return the axes of cells of maps (n, *shape)."""
    return tuple(range(1, maps.ndim))


def _window(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return SSIM's window over maps of a shape, cells along each axis: one side for all, odd, up to 7.

    An axis of fewer than 3 cells has none: maps are compared line by line there, or slice by slice.
    """
    smallest = min((n for n in shape if n >= _LEAST_WINDOW), default=1)
    side = min(_WINDOW, smallest - (smallest + 1) % 2)
    return tuple(side if n >= _LEAST_WINDOW else 1 for n in shape)


def ssim(exact: Floats, estimate: Floats) -> Floats:
    """Return the structural similarity (n,), as scikit-image's defaults: uniform window, sample covariances.

    Source: Wang et al., Image quality assessment, IEEE TIP 13(4) 2004; `skimage.metrics.structural_similarity` with
    data_range = range of the exact map. Some side of a map must be at least 3 for a window of more than one cell.
    """
    window = _window(estimate.shape)
    n_cells = math.prod(window)
    spread = np.ptp(exact, axis=_cells(exact)).reshape(-1, *(1,) * estimate.ndim)
    spread = np.where(spread > 0, spread, 1.0)
    c1, c2 = (_K1 * spread) ** 2, (_K2 * spread) ** 2
    # Covariances do not change with the origin; a common one near the values keeps their digits.
    origin = estimate.mean()
    x, y = exact - origin, (estimate - origin)[None]
    ux, uy = _window_means(x, window), _window_means(y, window)
    bessel = n_cells / (n_cells - 1)
    vx = bessel * (_window_means(x * x, window) - ux * ux)
    vy = bessel * (_window_means(y * y, window) - uy * uy)
    vxy = bessel * (_window_means(x * y, window) - ux * uy)
    ux, uy = ux + origin, uy + origin
    similarity = (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux * ux + uy * uy + c1) * (vx + vy + c2))
    mean: Floats = similarity.mean(axis=_cells(exact))
    return mean


def error_weights(metric: str, best: Floats, error: Floats) -> Floats:
    """Return what a squared error at each cell costs in quality, in any unit: (*shape), 1 on average.

    `best` is the estimated map, `error` the expected squared errors of its cells. For SSIM the cost of an error in a
    window is about error^2 / (2 variance + error^2 + C2), and a cell lies in as many windows as one has cells.
    """
    window = _window(best.shape)
    if metric != "ssim" or math.prod(window) == 1:
        return np.ones(best.shape)
    spread = float(np.ptp(best)) or 1.0
    means = _window_means(best[None], window)[0]
    variance = np.maximum(_window_means((best * best)[None], window)[0] - means * means, 0.0)
    cost = 1.0 / (2 * variance + _window_means(error[None], window)[0] + (_K2 * spread) ** 2)
    weights = _window_means(np.pad(cost, [(side - 1, side - 1) for side in window])[None], window)[0]
    scaled: Floats = weights / weights.mean()
    return scaled


def ssim_losses(best: Floats, unknown: Flags, at: Flags, squares: Floats, counts: Floats, is_guessed: bool) -> Floats:
    """Return what SSIM loses, (draws,), where unknown cells err as cells of a sample near them do.

    `best` is the estimated map, `unknown` (*shape) the cells that are not known, `at` (*shape) the sample, with
    squared errors `squares` (n,), each of which counts `counts` (draws, n) times. The squared errors in a window are a
    mean over the sample's cells, near ones above all, for the share of its cells that is unknown. They count whole for
    both of SSIM's factors, as if errors were alike in a window for the one, and without a mean for the other. A map
    that was interpolated varies less than the exact one, by its errors; one that `is_guessed` may vary more by as much.
    """
    window = _window(best.shape)
    spread = float(np.ptp(best)) or 1.0
    origin = best.mean()
    centred = best[None] - origin
    means = _window_means(centred, window)[0]
    variance = np.maximum(_window_means(centred * centred, window)[0] - means * means, 0.0)
    means = means + origin
    share = _window_means(unknown[None].astype(float), window)[0]
    places = np.nonzero(at)
    # So far that some of the sample lies within reach.
    reach = max(_LEAST_REACH, 0.7 * (best.size / len(squares)) ** (1 / n_extended(best.shape)))
    near = reduce(
        lambda so_far, along: so_far[..., None, :] * along,
        (
            np.exp(-0.5 * (((side - 1) / 2 + np.arange(n))[:, None] - places_on) ** 2 / reach**2)
            for side, n, places_on in zip(window, variance.shape, places, strict=True)
        ),
    )
    near = near.reshape(variance.size, -1) + _FAR
    # NumPy's matrix products have threads of their own, which PyTorch's would wait for.
    weighted, all_ = (torch.from_numpy(near) @ torch.from_numpy(of).T for of in (counts * squares, counts))
    errors = (weighted / all_).numpy() * share.reshape(-1, 1)
    varied = 2.0 * variance.reshape(-1, 1)
    varied = np.maximum(varied - errors, errors) if is_guessed else varied + errors
    kept = (1.0 - _of_levels(means.reshape(-1, 1), errors, (_K1 * spread) ** 2)) * (
        1.0 - _share_of(errors, varied + (_K2 * spread) ** 2)
    )
    lost: Floats = 1.0 - kept.mean(axis=0)
    return lost


def _of_levels(level: Floats, errors: Floats, c1: float) -> Floats:
    """Return what SSIM's factor of means loses by errors of these squares, upwards as often as downwards."""
    size = np.sqrt(errors)
    beside = [np.square(level + sign * size) + np.square(level) + c1 for sign in (-1.0, 1.0)]
    return 0.5 * (_share_of(errors, beside[0]) + _share_of(errors, beside[1]))


def _share_of(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, 0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _window_means(maps: Floats, window: tuple[int, ...]) -> Floats:
    """Return the means over all windows, so many cells along each axis, that lie inside the maps (n, *shape)."""
    for axis, side in enumerate(window, 1):
        if side > 1:
            total = np.cumsum(maps, axis=axis)
            total = np.insert(total, 0, 0.0, axis=axis)
            upper = total.take(range(side, total.shape[axis]), axis=axis)
            maps = upper - total.take(range(total.shape[axis] - side), axis=axis)
    means: Floats = maps / math.prod(window)
    return means


def _top_tenth(exact: Floats, estimate: Floats) -> Floats:
    """Share of the tenth of cells of largest importance, that is least score, that both maps name.

    At least one cell; ties go to the earlier one.
    """
    k = max(1, round(estimate.size / 10))
    chosen = np.zeros(estimate.size, bool)
    chosen[np.argsort(estimate.ravel(), kind="stable")[:k]] = True
    best = np.argsort(exact.reshape(len(exact), -1), axis=1, kind="stable")[:, :k]
    share: Floats = chosen[best].mean(axis=1)
    return share


def _pearson(exact: Floats, estimate: Floats) -> Floats:
    x = exact.reshape(len(exact), -1)
    x = x - x.mean(axis=1, keepdims=True)
    y = estimate.ravel() - estimate.mean()
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y)
    correlation: Floats = np.where(norms > 0, x @ y / np.where(norms > 0, norms, 1.0), 0.0)
    return correlation


def _largest_error(exact: Floats, estimate: Floats) -> Floats:
    worst = np.abs(exact - estimate).max(axis=_cells(exact))
    spread = np.maximum(np.ptp(exact, axis=_cells(exact)), constant_below(exact))
    error: Floats = 1.0 - worst / spread
    return error


#: Name of each metric, and what computes it for maps that are not constant: exact (n, *shape), estimate -> (n,).
METRICS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "ssim": ssim,
    "top10pct": _top_tenth,
    "pearson": _pearson,
    "maxerr": _largest_error,
}
