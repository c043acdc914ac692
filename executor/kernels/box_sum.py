"""Sums over positions in float64: of whole maps, and of a clean map's boxes from its prefix sums.

A box costs four lookups, however large it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from obeql.executor.devices import device_of
from obeql.executor.kernels.box_position import Place
from obeql.executor.kernels.paste import View

__all__ = ["BoxSum", "PrefixSums", "plan_box_sum", "position_sums"]


def position_sums(x: Tensor) -> Tensor:
    """Return the sum over all positions of x (N, C, H, W): float64 (N, C)."""
    device = device_of(x.device)
    if device.is_asynchronous:
        return x.sum(dim=(2, 3), dtype=device.wide_dtype)
    # Map by map the copy in float64 stays in the cache: a third of the time of one sum over the batch.
    return torch.stack([values.double().sum(dim=(1, 2)) for values in x])


@dataclass(frozen=True, slots=True, eq=False)
class PrefixSums:
    """`rows` float64 (N * (H + 1) * (W + 1), C): sums of maps over all positions above and left of a corner.

    `totals` (N, C) are the sums over the whole maps.
    """

    rows: Tensor
    totals: Tensor

    @classmethod
    def of(cls, view: View) -> PrefixSums:
        channels = view.rows.shape[1]
        values = view.rows.view(-1, view.height * view.width + 1, channels)[:, :-1]
        values = values.to(device_of(view.rows.device).wide_dtype)
        values = values.view(-1, view.height, view.width, channels)
        sums = values.new_zeros((len(values), view.height + 1, view.width + 1, channels))
        sums[:, 1:, 1:] = values.cumsum(1).cumsum(2)
        return cls(sums.view(-1, channels), sums[:, -1, -1])


@dataclass(frozen=True, slots=True, eq=False)
class BoxSum:
    """Whose sums a batch's boxes take, and where their corners lie in the prefix sums: int64 (n,) each."""

    images: Tensor

    top_left: Tensor
    top_right: Tensor
    bottom_left: Tensor
    bottom_right: Tensor

    def whole(self, sums: PrefixSums) -> Tensor:
        """Return the sum of each window's clean map: float64 (n, C)."""
        return sums.totals[self.images]

    def run(self, sums: PrefixSums) -> Tensor:
        """Return the sum of the clean map over each box: float64 (n, C)."""
        rows = sums.rows
        return rows[self.bottom_right] - rows[self.top_right] - rows[self.bottom_left] + rows[self.top_left]


def plan_box_sum(size: tuple[int, int], box: Place, images: Tensor) -> BoxSum:
    """Work out the corners of boxes on maps of `size` (height, width); `images` int64 (n,) says on whose."""
    row = size[1] + 1
    top = images * ((size[0] + 1) * row) + box.tops * row
    bottom = top + box.height * row
    left, right = box.lefts, box.lefts + box.width
    return BoxSum(images, top + left, top + right, bottom + left, bottom + right)
