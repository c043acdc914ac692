"""Windows that hide nothing: where the fill is what the image shows there anyway, as on the black border of a scan.

What the network answers for such a window is what it answered for the image itself, in the clean pass. `GridScan` asks
before it computes windows; the choice `skip_unchanged` of the planner switches it off.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from obeql.planner.grid import WindowGrid
from obeql.planner.regions import RegionGrid

__all__ = ["unchanged_windows"]

#: Share of an image's windows from which on leaving them out pays: batches of the others are worked out anew for it.
_WORTH = 0.05


def unchanged_windows(image: Tensor, fill: Tensor, grid: WindowGrid) -> npt.NDArray[np.bool_]:
    """Say which windows (N, windows) leave images (N, C, H, W) as they are, bit by bit, when `fill` hides them.

    `fill` is (C, 1, 1) or (C, H, W) of all images, or (N, ...), each its own. None of an image that has few of them.
    """
    fills = fill if fill.dim() == 4 else fill[None]
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
    sums = F.pad(changed.cumsum(1).cumsum(2), (1, 0, 1, 0))  # changed positions above and left of a corner
    tops, lefts = (torch.tensor(axis.starts, device=image.device) for axis in (grid.rows, grid.cols))
    heights, widths = (torch.tensor(axis.lengths, device=image.device) for axis in (grid.rows, grid.cols))
    below, above = sums[:, tops + heights], sums[:, tops]
    n_changed = (below - above)[:, :, lefts + widths] - (below - above)[:, :, lefts]
    unchanged = (n_changed == 0).flatten(1).cpu().numpy()
    unchanged[unchanged.mean(axis=1) < _WORTH] = False
    return unchanged


def _unchanged_regions(changed: Tensor, grid: RegionGrid) -> npt.NDArray[np.bool_]:
    """Say which regions (N, regions) have no position that is `changed` (N, H, W)."""
    where = changed.cpu().numpy().astype(bool)
    found = np.zeros((len(where), grid.n_windows), bool)
    boxes = zip(grid.rows.starts, grid.rows.lengths, grid.cols.starts, grid.cols.lengths, strict=True)
    for number, (top, height, left, width) in enumerate(boxes):
        inside = where[:, top : top + height, left : left + width]
        mask = grid.mask(number)
        found[:, number] = ~(inside if mask is None else inside & mask).any(axis=(1, 2))
    return found
