"""Reading a region of a per-window value: the clean map's region with the window's changed box pasted in.

A materialised view is kept as rows of channels, (positions + 1, C) an image, the last row being what lies outside
the map; images follow each other. One gather brings a region of it for every window of a batch, whichever image the
window is of; the changed boxes are then copied over it. Windows are ordered so that neighbours have their box at the
same place of the region, which makes the paste a few strided copies instead of a scattered write.

Where a region lies does not depend on what an image shows: a `Read` is worked out once and run again and again.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.executor.kernels.memory_format import as_positions, from_positions
from obeql.planner.geometry import AxisWindow

__all__ = ["Boxes", "Read", "View", "plan_read"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A layer's output for N clean images of maps of `shape`, any number of axes.

    `rows` are (N * (positions + 1), C), the last row of each image all `outside`.
    """

    rows: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, value: Tensor, outside: float) -> View:
        """Make a view of maps (N, C, ...)."""
        n_images, channels, *shape = value.shape
        rows = value.new_empty((n_images, math.prod(shape) + 1, channels))
        rows[:, :-1] = as_positions(value).reshape(n_images, -1, channels)
        rows[:, -1] = outside
        return cls(rows.view(-1, channels), tuple(shape))


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes of one size on the windows of a batch: `starts` int64 (axes, n), `sizes` one an axis."""

    starts: Ints
    sizes: tuple[int, ...]

    def same_as(self, other: Boxes) -> bool:
        return self.sizes == other.sizes and np.array_equal(self.starts, other.starts)

    def read_by(self, window: Sequence[AxisWindow] | None) -> Boxes:
        """Return what a layer of such a window reads to compute these boxes."""
        if window is None:
            return self
        stride, pad = (np.array(each)[:, None] for each in zip(*((w.stride, w.pad) for w in window), strict=True))
        sizes = ((size - 1) * axis.stride + axis.extent for size, axis in zip(self.sizes, window, strict=True))
        return Boxes(self.starts * stride - pad, tuple(sizes))


@dataclass(frozen=True, slots=True)
class _Paste:
    """One strided copy, as an index of the region and one of the box: windows, all channels, a slice an axis."""

    region: tuple[slice, ...]
    box: tuple[slice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """How the windows of a batch get a region of a value: a gather from the view, then copies of the boxes.

    `index` None means that region and box coincide: the value is read as it is.
    """

    index: Tensor | None
    n_windows: int
    sizes: tuple[int, ...]
    pastes: tuple[_Paste, ...]

    @property
    def n_bytes(self) -> int:
        return 0 if self.index is None else self.index.numel() * self.index.element_size()

    def clean(self, view: View) -> Tensor:
        """Return the region of the clean maps, (n, C, *sizes), channels-last."""
        assert self.index is not None
        gathered = view.rows.index_select(0, self.index)  # (n * positions, C)
        return from_positions(gathered.view(self.n_windows, *self.sizes, -1))

    def run(self, view: View, value: Tensor) -> Tensor:
        """Return what is read of a per-window `value` (n, C, ...): (n, C, *sizes), channels-last."""
        if self.index is None:
            return value
        into = self.clean(view)
        for paste in self.pastes:
            into[paste.region] = value[paste.box]
        return into


def plan_read(size: tuple[int, ...], region: Boxes, box: Boxes, images: Ints, device: torch.device) -> Read:
    """Work out how to read `region` of values that are known at `box`, over maps of `size`.

    The region may reach outside the map; the box lies inside it. `images` (n,) says whose map each window reads.
    """
    n = len(images)
    if region.same_as(box):
        return Read(None, n, region.sizes, ())
    n_rows = step = math.prod(size)
    index: Ints | None = None
    for start, length, extent in zip(region.starts, region.sizes, size, strict=True):
        step //= extent
        at = start[:, None] + np.arange(length)  # (n, length)
        # A position outside the map gets an index past the end; clipping sends it to the last row of the view.
        at = np.where((at < 0) | (at >= extent), n_rows, at * step)
        index = at if index is None else (index[..., None] + at[:, None]).reshape(n, -1)
    assert index is not None  # there is an axis
    index = np.minimum(index, n_rows)
    index += (images * (n_rows + 1))[:, None]
    return Read(torch.from_numpy(index.reshape(-1)).to(device), n, region.sizes, _pastes(region, box))


def _pastes(region: Boxes, box: Boxes) -> tuple[_Paste, ...]:
    shift = box.starts - region.starts  # (axes, n)
    first = [0, *(np.flatnonzero((shift[:, 1:] != shift[:, :-1]).any(axis=0)) + 1).tolist()]
    by = shift[:, first]
    # Where the box begins and ends in the region, along each axis of each run of windows.
    begins = np.maximum(by, 0)
    ends = np.minimum(by + np.array(box.sizes)[:, None], np.array(region.sizes)[:, None])
    found = []
    runs = zip(first, [*first[1:], shift.shape[1]], by.T.tolist(), begins.T.tolist(), ends.T.tolist(), strict=True)
    for start, stop, shifts, begin, end in runs:
        if all(map(operator.lt, begin, end)):
            windows = slice(start, stop), slice(None)
            of = (slice(b - s, e - s) for s, b, e in zip(shifts, begin, end, strict=True))
            found.append(_Paste((*windows, *map(slice, begin, end)), (*windows, *of)))
    return tuple(found)
