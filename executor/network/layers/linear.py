"""Fully connected layer on vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from obeql.executor.kernels.convolution import Linear as LinearKernel
from obeql.executor.network.layers.activation import Elementwise, can_make_nan
from obeql.executor.network.layers.base import Layer
from obeql.planner.geometry import Reach

__all__ = ["Linear"]


class Linear(Layer):
    """(N, C) -> (N, K); `weight` (K, C)."""

    kind: ClassVar[str] = "linear"
    reach: Reach = "global"

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        weight: Tensor,
        bias: Tensor | None,
        activation: Elementwise | None = None,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.weight = weight
        self.bias = bias
        self.activation = activation
        self._kernel: LinearKernel | None = None

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        if self._kernel is None:
            with torch.inference_mode(False), torch.no_grad():  # a gradient may be asked for later
                self._kernel = LinearKernel(self.weight, self.bias, self.activation)
        return self._kernel(inputs[0])

    def parameters(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def makes_nan(self) -> bool:
        return super().makes_nan() or can_make_nan(self.activation)

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> Linear:
        return self.replaced(change(self.weight), None if self.bias is None else change(self.bias), self.activation)

    def replaced(self, weight: Tensor, bias: Tensor | None, activation: Elementwise | None) -> Linear:
        """Return a copy with other weights or another activation."""
        return Linear(self.name, self.inputs, self.shape, weight, bias, activation)

    def scaled(self, scale: Tensor, shift: Tensor) -> Linear:
        """Fold y * scale + shift, a number an output, into the weights, in float64 as in `Conv.scaled`."""
        weight = self.weight.double() * scale.double().view(-1, 1)
        bias = shift.double() if self.bias is None else self.bias.double() * scale.double() + shift.double()
        return self.replaced(weight, bias, self.activation)

    def macs_per_position(self) -> float:
        return float(self.weight.numel())
