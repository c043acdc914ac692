"""Masks of regions, laid into the boxes that operators compute: which pixels of a box a region hides.

`dense_forward` lays them into whole pictures, `incremental_forward` into the boxes of a batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from obeql.planner.grid import WindowGrid
from obeql.planner.regions import RegionGrid

__all__ = ["masks_in_boxes"]

Windows = npt.NDArray[np.int64]


def masks_in_boxes(
    grid: WindowGrid, windows: Windows, starts: Windows, size: tuple[int, ...]
) -> npt.NDArray[np.bool_] | None:
    """Return bool (n, 1, *size): the masks of windows in boxes of `size` at `starts` (axes, n).

    Where a window has no mask all is true, and beyond the extents of one that has all is false. None where no window
    has a mask. A box holds its window.
    """
    if not isinstance(grid, RegionGrid):
        return None
    masks = [grid.mask(window) for window in windows.tolist()]
    if all(mask is None for mask in masks):
        return None
    found = np.ones((len(masks), 1, *size), bool)
    first = [np.asarray(axis.starts)[at] for axis, at in zip(grid.axes, grid.places(windows), strict=True)] - starts
    for number, mask in enumerate(masks):
        if mask is None:
            continue
        found[number] = False
        inside = (slice(at, at + n) for at, n in zip(first[:, number].tolist(), mask.shape, strict=True))
        found[number, 0][tuple(inside)] = mask
    return found
