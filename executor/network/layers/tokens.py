"""Layers of networks that work on tokens: positions in a row, some of which belong to no place of the image.

Tokens are a map whose first axis are the tokens, (N, C, T, 1): in channels-last memory that is (N, T, C), the layout in
which transformers hold them, and all layers that act on every position alone take them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from obeql.executor.kernels.memory_format import as_positions, channels_last, from_positions
from obeql.executor.network.layers.base import Layer, Place
from obeql.planner.geometry import Reach

__all__ = ["AddMap", "SelectPositions", "Tokens", "as_map", "as_rows"]


def as_rows(x: Tensor) -> Tensor:
    """Return a map (N, C, ...) as (N, positions, C); without a copy where it lies in channels-last memory."""
    return as_positions(x).reshape(len(x), -1, x.shape[1])


def as_map(rows: Tensor, n_axes: int) -> Tensor:
    """Return tokens (N, T, C) as a map (N, C, T, 1, ...) of so many axes, without a copy."""
    return from_positions(rows.view(*rows.shape[:2], *(1,) * (n_axes - 1), rows.shape[2]))


class Tokens(Layer):
    """The positions of maps, row by row, and constant tokens, one after the other: (N, C, T, 1, ...).

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
        return as_map(torch.cat(parts, dim=1), len(self.shape) - 1)

    def parameters(self) -> list[Tensor]:
        return list(self.constants)

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> Tokens:
        return Tokens(self.name, self.inputs, self.shape, self.order, [change(each) for each in self.constants])


class AddMap(Layer):
    """x + `values` (C, ...): an embedding of positions, for example."""

    kind: ClassVar[str] = "add_map"

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int], values: Tensor) -> None:
        super().__init__(name, inputs, shape)
        self.values = values
        #: the same, with channels last in memory
        self._values = channels_last(values[None])

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return inputs[0] + self._values

    def forward_region(self, inputs: Sequence[Tensor], place: Place) -> Tensor:
        x, n_axes = inputs[0], len(place.sizes)
        at = []
        for axis, (start, size) in enumerate(zip(place.starts, place.sizes, strict=True)):
            positions = start[:, None] + torch.arange(size, device=x.device)
            at.append(positions.view(len(x), *(size if k == axis else 1 for k in range(n_axes))))
        return x + from_positions(as_positions(self._values)[0][tuple(at)])

    def parameters(self) -> list[Tensor]:
        return [self.values]

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> AddMap:
        return AddMap(self.name, self.inputs, self.shape, change(self.values))


class SelectPositions(Layer):
    """Some positions of a map, counted row by row, in a given order: (N, C, n, 1, ...). A class token, for example."""

    kind: ClassVar[str] = "select_positions"
    reach: Reach = "global"

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int], positions: Sequence[int]) -> None:
        super().__init__(name, inputs, shape)
        self.positions = tuple(positions)
        first = self.positions[0]
        self._contiguous = self.positions == tuple(range(first, first + len(self.positions)))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        rows, n_axes = as_rows(inputs[0]), len(self.shape) - 1
        if self._contiguous:
            return as_map(rows.narrow(1, self.positions[0], len(self.positions)).contiguous(), n_axes)
        return as_map(rows[:, list(self.positions)], n_axes)
