"""Layers of networks that work on tokens: positions in a row, some of which belong to no place of the image.

Tokens are a map whose rows are the tokens, (N, C, T, 1): in channels-last memory that is (N, T, C), the layout in which
transformers hold them, and all layers that act on every position alone take them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from obeql.executor.network.layers.base import Layer, Place
from obeql.planner.geometry import Reach

__all__ = ["AddMap", "SelectPositions", "Tokens", "as_map", "as_rows"]


def as_rows(x: Tensor) -> Tensor:
    """Return a map (N, C, H, W) as (N, H * W, C); without a copy where it lies in channels-last memory."""
    n, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, height * width, channels)


def as_map(rows: Tensor) -> Tensor:
    """Return tokens (N, T, C) as a map (N, C, T, 1), without a copy."""
    return rows.transpose(1, 2).unsqueeze(3)


class Tokens(Layer):
    """The positions of maps, row by row, and constant tokens, one after the other: (N, C, T, 1).

    `order` names the parts from first to last: k >= 0 is input k, -k - 1 is `constants[k]` (tokens, C).
    """

    kind: ClassVar[str] = "tokens"
    reach: Reach = "global"

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        order: Sequence[int],
        constants: Sequence[Tensor],
    ) -> None:
        super().__init__(name, inputs, shape)
        self.order = tuple(order)
        self.constants = tuple(constants)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        n = inputs[0].shape[0]
        parts = [as_rows(inputs[k]) if k >= 0 else self.constants[-k - 1].expand(n, -1, -1) for k in self.order]
        return as_map(torch.cat(parts, dim=1))

    def parameters(self) -> list[Tensor]:
        return list(self.constants)

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> Tokens:
        return Tokens(self.name, self.inputs, self.shape, self.order, [change(each) for each in self.constants])


class AddMap(Layer):
    """x + `values` (C, H, W): an embedding of positions, for example."""

    kind: ClassVar[str] = "add_map"

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int], values: Tensor) -> None:
        super().__init__(name, inputs, shape)
        self.values = values
        #: (H * W, C)
        self._rows = values.permute(1, 2, 0).reshape(-1, values.shape[0]).contiguous()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        height, width = self.values.shape[1:]
        return inputs[0] + self._rows.view(height, width, -1).permute(2, 0, 1)

    def forward_region(self, inputs: Sequence[Tensor], place: Place) -> Tensor:
        x, width = inputs[0], self.values.shape[2]
        rows = place.tops[:, None] + torch.arange(place.height, device=x.device)
        cols = place.lefts[:, None] + torch.arange(place.width, device=x.device)
        index = (rows[:, :, None] * width + cols[:, None, :]).reshape(-1)
        added = self._rows.index_select(0, index).view(len(x), place.height, place.width, -1)
        return x + added.permute(0, 3, 1, 2)

    def parameters(self) -> list[Tensor]:
        return [self.values]

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> AddMap:
        return AddMap(self.name, self.inputs, self.shape, change(self.values))


class SelectPositions(Layer):
    """Some positions of a map, counted row by row, in a given order: (N, C, n, 1). A class token, for example."""

    kind: ClassVar[str] = "select_positions"
    reach: Reach = "global"

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int], positions: Sequence[int]) -> None:
        super().__init__(name, inputs, shape)
        self.positions = tuple(positions)
        first = self.positions[0]
        self._contiguous = self.positions == tuple(range(first, first + len(self.positions)))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        rows = as_rows(inputs[0])
        if self._contiguous:
            return as_map(rows.narrow(1, self.positions[0], len(self.positions)).contiguous())
        return as_map(rows[:, list(self.positions)])
