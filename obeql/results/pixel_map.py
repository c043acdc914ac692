"""From windows to pixels: what a plane of windows says of each pixel of the model's input, or of the source image.

Beside `heatmap`, whose `to_pixels` uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from obeql.executor.images.placement import Placement
from obeql.planner.regions import RegionList

__all__ = ["mean_over_regions", "mean_over_windows", "on_source", "spread"]

Plane = npt.NDArray[np.float64]
Starts = npt.NDArray[np.int32]


def mean_over_windows(values: Plane, axes: Sequence[tuple[Starts, Starts]], size: Sequence[int]) -> Plane:
    """Return, of `size`, the mean of the finite `values` of the windows that cover a pixel; NaN for none.

    `values` are of the grid's shape, (rows, cols) of an image; `axes` are the starts and the lengths of the windows
    along each axis, in pixels.
    """
    computed = np.isfinite(values)
    total, count = (
        _sum_over_axes(plane, axes, size) for plane in (np.where(computed, values, 0.0), computed.astype(np.float64))
    )
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(count > 0, total, np.nan) / count)


def mean_over_regions(
    values: Plane, axes: Sequence[tuple[Starts, Starts]], listed: RegionList, size: Sequence[int]
) -> Plane:
    """Return (H, W): the mean of the finite `values` (regions,) of listed windows that hide a pixel; NaN for none.

    `axes` are the starts and lengths of the windows' boxes along each axis, in pixels, `size` is (H, W).
    """
    total, count = np.zeros(size, np.float64), np.zeros(size, np.int64)
    boxes = zip(*(each.tolist() for axis in axes for each in axis), strict=True)
    for number, (value, (top, height, left, width)) in enumerate(zip(values.tolist(), boxes, strict=True)):
        if not np.isfinite(value):
            continue
        mask = listed.mask(number)
        hidden = np.ones((height, width), np.bool_) if mask is None else mask
        total[top : top + height, left : left + width] += np.where(hidden, value, 0.0)
        count[top : top + height, left : left + width] += hidden
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(count > 0, total / count, np.nan))


def on_source(pixels: npt.NDArray[np.float32], placement: Placement) -> npt.NDArray[np.float32]:
    """Return values on the model's input, (H, W) of images, at the size of the source, NaN outside the model's crop."""
    places = list(map(_nearest, placement.source_size, placement.offset, placement.scale))
    found = pixels[np.ix_(*(np.clip(at, 0, n - 1) for at, n in zip(places, placement.model_size, strict=True)))]
    for axis, (at, n) in enumerate(zip(places, placement.model_size, strict=True)):
        np.moveaxis(found, axis, 0)[(at < 0) | (at >= n)] = np.nan
    return found


def spread(values: npt.NDArray[np.float32], reach: int) -> npt.NDArray[np.float32]:
    """Return the plane (rows, cols) with cells that are NaN filled from the nearest others, up to `reach` cells off."""
    found = values.copy()
    for _ in range(reach):
        unknown = np.isnan(found)
        if not unknown.any():
            break
        around = np.pad(found, 1, constant_values=np.nan)
        # In this order a coarse lattice grows to blocks with its windows in the upper left.
        for near in (around[1:-1, :-2], around[:-2, 1:-1], around[:-2, :-2], around[1:-1, 2:], around[2:, 1:-1]):
            found = np.where(np.isnan(found), near, found)
    return found


def _sum_over_axes(values: Plane, axes: Sequence[tuple[Starts, Starts]], size: Sequence[int]) -> Plane:
    """Sum, for each pixel, the values of all windows that cover it, one axis after the other."""
    for axis, ((starts, lengths), length) in enumerate(zip(axes, size, strict=True)):
        first = np.moveaxis(values, axis, 0)
        sums = _axis_sum(first.reshape(len(first), -1), starts, lengths, length)
        values = np.moveaxis(sums.reshape(length, *first.shape[1:]), 0, axis)
    return values


def _axis_sum(plane: Plane, starts: Starts, lengths: Starts, size: int) -> Plane:
    """Sum (windows, n) over the windows that cover each of `size` positions: (size, n).

    Each window is added where it lies. A running sum would take it away again where it ends, and leave a rounding
    error there that outweighs the small values of a saturated network.
    """
    sums = np.zeros((size, plane.shape[1]), np.float64)
    for values, start, length in zip(plane, starts.tolist(), lengths.tolist(), strict=True):
        sums[start : start + length] += values
    return sums


def _nearest(n_source: int, offset: float, scale: float) -> npt.NDArray[np.intp]:
    """Return the model pixel that the centre of each source pixel falls into; may lie outside the model's input."""
    return np.asarray(np.floor((np.arange(n_source) + 0.5 - offset) / scale), np.intp)
