"""Layers that only move channels: concatenation, selection, shuffle; and padding as a layer of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from obeql.executor.network.layers.base import Layer, Place
from obeql.planner.geometry import AxisWindow, Reach

__all__ = ["Concat", "Pad", "SelectChannels"]


class Concat(Layer):
    """Inputs one after the other along the channels. The box of the output is the bounding box of all inputs'."""

    kind: ClassVar[str] = "concat"

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(inputs), dim=1)


class SelectChannels(Layer):
    """Some or all channels in a given order: split, slice, channel shuffle."""

    kind: ClassVar[str] = "select_channels"

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int], order: Sequence[int]) -> None:
        super().__init__(name, inputs, shape)
        self.order = tuple(order)
        self._index = torch.tensor(self.order)
        self._contiguous = self.order == tuple(range(self.order[0], self.order[0] + len(self.order)))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        if self._contiguous:
            return x.narrow(1, self.order[0], len(self.order))
        if self._index.device != x.device:
            self._index = self._index.to(x.device)
        return x.index_select(1, self._index)


class Pad(Layer):
    """Constant padding (or, with negative amounts, a crop) that no convolution could take in."""

    kind: ClassVar[str] = "pad"
    reach: Reach = "local"

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        pads: tuple[int, int, int, int],
        value: float,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.pads = pads
        self.outside = value
        self.window = (AxisWindow(1, 1, 1, pads[0]), AxisWindow(1, 1, 1, pads[2]))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        top, bottom, left, right = self.pads
        return F.pad(inputs[0], (left, right, top, bottom), value=self.outside)

    def forward_region(self, inputs: Sequence[Tensor], place: Place) -> Tensor:
        return inputs[0]
