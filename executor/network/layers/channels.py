"""Layers that only move channels: concatenation, selection, shuffle; and padding as a layer of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from obeql.executor.kernels.memory_format import from_positions
from obeql.executor.network.layers.base import Layer, Place, padded
from obeql.planner.geometry import AxisWindow, Reach

__all__ = ["Concat", "Pad", "SelectChannels"]


class Concat(Layer):
    """Inputs one after the other along the channels. The box of the output is the bounding box of all inputs'.

    With `room` for more channels than its own, the output is the first channels of a map of so many. One that
    `continues` another, its first input, writes the other inputs behind that one's output instead of copying all of
    them. Only one layer may do so with a map: `share_prefixes` sees to that.
    """

    kind: ClassVar[str] = "concat"

    def __init__(
        self, name: str, inputs: Sequence[int], shape: Sequence[int], room: int = 0, continues: bool = False
    ) -> None:
        super().__init__(name, inputs, shape)
        self.room = max(room, self.shape[0])
        self.continues = continues

    def with_room(self, room: int) -> Concat:
        """Return a copy whose output has room for a later one."""
        return Concat(self.name, self.inputs, self.shape, room, self.continues)

    def continuing(self, first: int, others: Sequence[int]) -> Concat:
        """Return a copy that goes on from layer `first`, which holds all inputs but `others`."""
        return Concat(self.name, (first, *others), self.shape, self.room, continues=True)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        n_channels = sum(x.shape[1] for x in inputs)
        grows = self.continues and self._has_room(inputs[0])
        if (self.room == n_channels and not grows) or any(x.requires_grad for x in inputs):
            return torch.cat(list(inputs), dim=1)
        n, n_first, *size = inputs[0].shape
        if grows:
            wide = inputs[0].as_strided((n, self.room, *size), inputs[0].stride(), inputs[0].storage_offset())
            done = n_first
        else:
            wide = from_positions(inputs[0].new_empty((n, *size, self.room)))
            done = 0
        place = 0
        for x in inputs:
            if place >= done:
                wide[:, place : place + x.shape[1]] = x
            place += x.shape[1]
        return wide[:, :n_channels]

    def _has_room(self, x: Tensor) -> bool:
        """Return whether the map of the concatenation before lies in memory as that one made it."""
        size = x.shape[2:]
        steps = [self.room * math.prod(size[axis:]) for axis in range(len(size) + 1)]
        return x.shape[1] < self.room and min(size) > 1 and x.stride() == (steps[0], 1, *steps[1:])


class SelectChannels(Layer):
    """Some or all channels in a given order: split, slice, channel shuffle."""

    kind: ClassVar[str] = "select_channels"

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int], order: Sequence[int]) -> None:
        super().__init__(name, inputs, shape)
        self.order = tuple(order)
        self.index = torch.tensor(self.order)
        self._contiguous = self.order == tuple(range(self.order[0], self.order[0] + len(self.order)))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        if self._contiguous:
            return x.narrow(1, self.order[0], len(self.order))
        return x.index_select(1, self.index)

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> SelectChannels:
        moved = copy.copy(self)  # a graph's own, so that one on another device is left alone
        moved.index = change(self.index)
        return moved


class Pad(Layer):
    """Constant padding (or, with negative amounts, a crop) that no convolution could take in."""

    kind: ClassVar[str] = "pad"
    reach: Reach = "local"

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        pads: tuple[int, ...],
        value: float,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.pads = pads
        self.outside = value
        self.window = tuple(AxisWindow(1, 1, 1, before) for before in pads[::2])

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return padded(inputs[0], self.pads, self.outside)

    def forward_region(self, inputs: Sequence[Tensor], place: Place) -> Tensor:
        return inputs[0]
