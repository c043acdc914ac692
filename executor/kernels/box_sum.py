"""Sums over positions in float64: of whole maps, and of a clean map's boxes from its prefix sums.

A box costs a lookup for each of its corners, however large it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from obeql.executor.devices import device_of
from obeql.executor.kernels.box_position import Place
from obeql.executor.kernels.paste import View

__all__ = ["BoxSum", "PrefixSums", "plan_box_sum", "position_sums"]

#: what a core keeps near itself
_CACHE_BYTES = 512 * 1024


def position_sums(x: Tensor) -> Tensor:
    """Return the sum over all positions of x (N, C, ...): float64 (N, C)."""
    device = device_of(x.device)
    if device.is_asynchronous:
        return x.sum(dim=tuple(range(2, x.dim())), dtype=device.wide_dtype)
    # A few maps at a time, so that their copy in float64 stays in the cache: a third of the time of one sum over the
    # batch. Of small maps many fit: a call for each would take longer than the sums.
    n_each = max(1, _CACHE_BYTES // (8 * max(1, math.prod(x.shape[1:]))))
    return torch.cat([part.double().sum(dim=tuple(range(2, x.dim()))) for part in torch.split(x, n_each)])


@dataclass(frozen=True, slots=True, eq=False)
class PrefixSums:
    """`rows` float64 (N * corners, C): sums of maps over all positions before a corner on every axis.

    A map of n positions along an axis has n + 1 corners there.

    `totals` (N, C) are the sums over the whole maps.
    """

    rows: Tensor
    totals: Tensor

    @classmethod
    def of(cls, view: View) -> PrefixSums:
        channels = view.rows.shape[1]
        values = view.rows.view(-1, math.prod(view.shape) + 1, channels)[:, :-1]
        values = values.to(device_of(view.rows.device).wide_dtype)
        values = values.view(-1, *view.shape, channels)
        sums = values.new_zeros((len(values), *(size + 1 for size in view.shape), channels))
        inner = sums
        for axis, size in enumerate(view.shape, 1):
            values, inner = values.cumsum(axis), inner.narrow(axis, 1, size)
        inner.copy_(values)
        return cls(sums.view(-1, channels), sums.flatten(1, -2)[:, -1])


@dataclass(frozen=True, slots=True, eq=False)
class BoxSum:
    """Whose sums a batch's boxes take, and where their corners lie in the prefix sums: int64 (n,) each."""

    images: Tensor
    #: the last corner first, then that with the first axis at the box's start, and so on
    corners: tuple[Tensor, ...]

    def whole(self, sums: PrefixSums) -> Tensor:
        """Return the sum of each window's clean map: float64 (n, C)."""
        return sums.totals[self.images]

    def run(self, sums: PrefixSums) -> Tensor:
        """Return the sum of the clean map over each box: float64 (n, C)."""
        total = sums.rows[self.corners[0]]
        for number, corner in enumerate(self.corners[1:], 1):
            # Inclusion and exclusion: a corner counts by how many axes it is at the box's start on.
            total = torch.add(total, sums.rows[corner], alpha=-1 if number.bit_count() % 2 else 1)
        return total


def plan_box_sum(size: tuple[int, ...], box: Place, images: Tensor) -> BoxSum:
    """Work out the corners of boxes on maps of `size`; `images` int64 (n,) says on whose."""
    corners = [images]
    for axis, (n_positions, length) in enumerate(zip(size, box.sizes, strict=True)):
        corners = [corner * (n_positions + 1) + box.starts[axis] for corner in corners]
        ends = [corner + length for corner in corners]
        corners = [*ends, *corners]
    return BoxSum(images, tuple(corners))
