"""Reading a region of a per-window value: the clean map's region with the window's changed box pasted in.

A materialised view is kept as rows of channels, (H * W + 1, C) an image, the last row being what lies outside the
map; images follow each other. One gather brings a region of it for every window of a batch, whichever image the window
is of; the changed boxes are then copied over it. Windows are ordered so that neighbours have their box at the same
place of the region, which makes the paste a few strided copies instead of a scattered write.

Where a region lies does not depend on what an image shows: a `Read` is worked out once and run again and again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Boxes", "Read", "View", "plan_read"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A layer's output for N clean images: `rows` (N * (H * W + 1), C), the last row of each image all `outside`."""

    rows: Tensor
    height: int
    width: int

    @classmethod
    def of(cls, value: Tensor, outside: float) -> View:
        """Make a view of maps (N, C, H, W)."""
        n_images, channels, height, width = value.shape
        rows = value.new_empty((n_images, height * width + 1, channels))
        rows[:, :-1] = value.permute(0, 2, 3, 1).reshape(n_images, -1, channels)
        rows[:, -1] = outside
        return cls(rows.view(-1, channels), height, width)


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


@dataclass(frozen=True, slots=True)
class _Paste:
    """One strided copy: windows [start, stop), rows and columns of the region, and their shift within the box."""

    start: int
    stop: int
    rows: slice
    cols: slice
    box_rows: slice
    box_cols: slice


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """How the windows of a batch get a region of a value: a gather from the view, then copies of the boxes.

    `index` None means that region and box coincide: the value is read as it is.
    """

    index: Tensor | None
    n_windows: int
    height: int
    width: int
    pastes: tuple[_Paste, ...]

    @property
    def n_bytes(self) -> int:
        return 0 if self.index is None else self.index.numel() * self.index.element_size()

    def clean(self, view: View) -> Tensor:
        """Return the region of the clean maps, (n, C, height, width), channels-last."""
        assert self.index is not None
        gathered = view.rows.index_select(0, self.index)  # (n * height * width, C)
        return gathered.view(self.n_windows, self.height, self.width, -1).permute(0, 3, 1, 2)

    def run(self, view: View, value: Tensor) -> Tensor:
        """Return what is read of a per-window `value` (n, C, h, w): (n, C, height, width), channels-last."""
        if self.index is None:
            return value
        into = self.clean(view)
        for paste in self.pastes:
            part = value[paste.start : paste.stop, :, paste.box_rows, paste.box_cols]
            into[paste.start : paste.stop, :, paste.rows, paste.cols] = part
        return into


def plan_read(size: tuple[int, int], region: Boxes, box: Boxes, images: Ints, device: torch.device) -> Read:
    """Work out how to read `region` of values that are known at `box`, over maps of `size` (height, width).

    The region may reach outside the map; the box lies inside it. `images` (n,) says whose map each window reads.
    """
    n = len(region.tops)
    if region.same_as(box):
        return Read(None, n, region.height, region.width, ())
    n_rows = size[0] * size[1]
    rows = region.tops[:, None] + np.arange(region.height)  # (n, h)
    cols = region.lefts[:, None] + np.arange(region.width)  # (n, w)
    # A position outside the map gets an index past the end; clipping sends it to the last row of the view.
    row_index = np.where((rows < 0) | (rows >= size[0]), n_rows, rows * size[1])
    col_index = np.where((cols < 0) | (cols >= size[1]), n_rows, cols)
    index = np.minimum(row_index[:, :, None] + col_index[:, None, :], n_rows)
    index += (images * (n_rows + 1))[:, None, None]
    return Read(torch.from_numpy(index.reshape(-1)).to(device), n, region.height, region.width, _pastes(region, box))


def _pastes(region: Boxes, box: Boxes) -> tuple[_Paste, ...]:
    down, right = box.tops - region.tops, box.lefts - region.lefts
    breaks = (np.flatnonzero((np.diff(down) != 0) | (np.diff(right) != 0)) + 1).tolist()
    found = []
    for start, stop in zip([0, *breaks], [*breaks, len(down)], strict=True):
        dy, dx = int(down[start]), int(right[start])
        y0, y1 = max(0, dy), min(region.height, dy + box.height)
        x0, x1 = max(0, dx), min(region.width, dx + box.width)
        if y0 < y1 and x0 < x1:
            inner = slice(y0 - dy, y1 - dy), slice(x0 - dx, x1 - dx)
            found.append(_Paste(start, stop, slice(y0, y1), slice(x0, x1), *inner))
    return tuple(found)
