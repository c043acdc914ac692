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
    grid: WindowGrid, windows: Windows, tops: Windows, lefts: Windows, size: tuple[int, int]
) -> npt.NDArray[np.bool_] | None:
    """Return bool (n, 1, height, width): the masks of windows in boxes of `size` at `tops` and `lefts`.

    Where a window has no mask all is true, and beyond the extents of one that has all is false. None where no window
    has a mask. A box holds its window.
    """
    if not isinstance(grid, RegionGrid):
        return None
    masks = [grid.mask(window) for window in windows.tolist()]
    if all(mask is None for mask in masks):
        return None
    found = np.ones((len(masks), 1, *size), bool)
    rows, cols = grid.places(windows)
    for number, mask in enumerate(masks):
        if mask is None:
            continue
        top = grid.rows.starts[int(rows[number])] - int(tops[number])
        left = grid.cols.starts[int(cols[number])] - int(lefts[number])
        found[number] = False
        found[number, 0, top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return found
