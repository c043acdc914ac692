"""Windows that hide nothing: where the fill is what the image shows there anyway, as on the black border of a scan.

What the network answers for such a window is what it answered for the image itself, in the clean pass. `GridScan` asks
before it computes windows; the choice `skip_unchanged` of the planner switches it off.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.executor.operators.window_fill import Fill, WindowFill
from obeql.planner.grid import WindowGrid
from obeql.planner.regions import RegionGrid

__all__ = ["unchanged_windows"]

#: Share of an image's windows from which on leaving them out pays: batches of the others are worked out anew for it.
_WORTH = 0.05


def unchanged_windows(image: Tensor, fill: Fill, grid: WindowGrid) -> npt.NDArray[np.bool_]:
    """Say which windows (N, windows) leave images (N, C, ...) as they are, bit by bit, when `fill` hides them.

    `fill` is (C, 1, ...) or of an image's shape, of all images, or (N, ...), each its own. None of an image that has
    few of them, nor where the fill is worked out from each window.
    """
    if isinstance(fill, WindowFill):
        return np.zeros((len(image), grid.n_windows), bool)
    fills = fill if fill.dim() == image.dim() else fill[None]
    same = torch.ones((), dtype=torch.bool, device=image.device)
    for values, its in zip(image.unbind(1), fills.unbind(1), strict=True):
        # Zeros of both signs are equal, but a network may tell them apart.
        same = same & (values == its) & (values.signbit() == its.signbit())
        if not bool(same.any()):  # as in most pictures, after their first channel
            return np.zeros((len(image), grid.n_windows), bool)
    changed = (~same).to(torch.int32)
    if isinstance(grid, RegionGrid):
        unchanged = _unchanged_regions(changed, grid)
        unchanged[unchanged.mean(axis=1) < _WORTH] = False
        return unchanged
    n_changed = changed  # along axes that were summed, in each window's extent; along the others, at each position
    for number, axis in enumerate(grid.axes, 1):
        sums = n_changed.cumsum(number)
        sums = torch.cat([torch.zeros_like(sums.narrow(number, 0, 1)), sums], number)  # before each position
        starts, lengths = (torch.tensor(each, device=image.device) for each in (axis.starts, axis.lengths))
        n_changed = sums.index_select(number, starts + lengths) - sums.index_select(number, starts)
    unchanged = (n_changed == 0).flatten(1).cpu().numpy()
    unchanged[unchanged.mean(axis=1) < _WORTH] = False
    return unchanged


def _unchanged_regions(changed: Tensor, grid: RegionGrid) -> npt.NDArray[np.bool_]:
    """Say which regions (N, regions) have no position that is `changed` (N, ...)."""
    where = changed.cpu().numpy().astype(bool)
    found = np.zeros((len(where), grid.n_windows), bool)
    extents = [[slice(s, s + n) for s, n in zip(axis.starts, axis.lengths, strict=True)] for axis in grid.axes]
    for number, box in enumerate(zip(*extents, strict=True)):
        inside = where[(slice(None), *box)]
        mask = grid.mask(number)
        inside = inside if mask is None else inside & mask
        found[:, number] = ~inside.reshape(len(where), -1).any(axis=1)
    return found
