"""Reading a region of a per-window value: the clean map's region with the window's changed box pasted in.

A materialised view is kept as rows of channels, (H * W + 1, C), the last row being what lies outside the map. One
gather brings a region of it for every window of a batch; the changed boxes are then copied over it. Windows are
ordered so that neighbours have their box at the same place of the region, which makes the paste a few strided
copies instead of a scattered write.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Boxes", "View", "read_region"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A layer's output for the clean image: `rows` (H * W + 1, C), the last row all `outside`."""

    rows: Tensor
    height: int
    width: int

    @classmethod
    def of(cls, value: Tensor, outside: float) -> View:
        """Make a view of a map (1, C, H, W)."""
        _, channels, height, width = value.shape
        rows = value.new_empty((height * width + 1, channels))
        rows[:-1] = value[0].permute(1, 2, 0).reshape(-1, channels)
        rows[-1] = outside
        return cls(rows, height, width)


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes of one size on the windows of a batch: int64 (n,) first rows and columns, and (height, width)."""

    tops: Ints
    lefts: Ints
    height: int
    width: int

    def same_as(self, other: Boxes) -> bool:
        return (
            self.height == other.height
            and self.width == other.width
            and np.array_equal(self.tops, other.tops)
            and np.array_equal(self.lefts, other.lefts)
        )


def gather(view: View, region: Boxes) -> Tensor:
    """The clean map's values in `region` for every window: (n, C, h, w) in channels-last memory."""
    n_rows = view.height * view.width
    rows = region.tops[:, None] + np.arange(region.height)  # (n, h)
    cols = region.lefts[:, None] + np.arange(region.width)  # (n, w)
    # A position outside the map gets an index past the end; clipping sends it to the last row.
    row_index = np.where((rows < 0) | (rows >= view.height), n_rows, rows * view.width)
    col_index = np.where((cols < 0) | (cols >= view.width), n_rows, cols)
    device = view.rows.device
    index = torch.from_numpy(row_index).to(device)[:, :, None] + torch.from_numpy(col_index).to(device)[:, None, :]
    index.clamp_(max=n_rows)
    gathered = view.rows.index_select(0, index.view(-1))  # (n * h * w, C)
    n_windows, channels = len(region.tops), view.rows.shape[1]
    return gathered.view(n_windows, region.height, region.width, channels).permute(0, 3, 1, 2)


def paste(into: Tensor, region: Boxes, value: Tensor, box: Boxes) -> None:
    """Copy the part of each window's `value` (n, C, h, w) at `box` that lies in `region` over `into`."""
    down = box.tops - region.tops
    right = box.lefts - region.lefts
    breaks = np.flatnonzero((np.diff(down) != 0) | (np.diff(right) != 0)) + 1
    for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(down)], strict=True):
        dy, dx = int(down[start]), int(right[start])
        y0, y1 = max(0, dy), min(region.height, dy + box.height)
        x0, x1 = max(0, dx), min(region.width, dx + box.width)
        if y0 < y1 and x0 < x1:
            into[start:stop, :, y0:y1, x0:x1] = value[start:stop, :, y0 - dy : y1 - dy, x0 - dx : x1 - dx]


def read_region(view: View, region: Boxes, value: Tensor, box: Boxes) -> Tensor:
    """What a layer reads of a per-window value: clean map outside the box, changed values inside it."""
    if region.same_as(box):
        return value
    into = gather(view, region)
    paste(into, region, value, box)
    return into
