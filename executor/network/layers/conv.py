"""Convolution with folded batch norm and, where there is one, the activation behind it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from obeql.executor.kernels.convolution import Convolution
from obeql.executor.kernels.memory_format import channels_last
from obeql.executor.network.layers.activation import Elementwise, can_make_nan
from obeql.executor.network.layers.base import Layer, Place, padded
from obeql.planner.geometry import AxisWindow, Reach

__all__ = ["Conv"]


class Conv(Layer):
    """Convolution over two or three axes, any groups, dilation, stride, and padding before and after on each axis.

    `weight` (C_out, C_in / groups, *kernel); `pads` = (top, bottom, left, right), of volumes (front, back, top, ...).
    """

    kind: ClassVar[str] = "conv"
    reach: Reach = "local"
    #: whether NaN may come in or be made here, so that it has to come out
    keeps_nan: bool = False
    #: whether maps and weights lie in (N, C, ...) memory
    plain_memory: bool = False

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        pads: tuple[int, ...],
        activation: Elementwise | None = None,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.weight = weight
        self.bias = bias
        self.stride = stride
        self.dilation = dilation
        self.groups = groups
        self.pads = pads
        self.activation = activation
        axes = zip(weight.shape[2:], stride, dilation, pads[::2], strict=True)
        self.window = tuple(AxisWindow(*axis) for axis in axes)
        if self.pointwise:
            self.reach = "pointwise"
            self.window = None
        self._unpadded = (0,) * len(stride)
        self._kernel: Convolution | None = None

    @property
    def pointwise(self) -> bool:
        return max(*self.weight.shape[2:], *self.stride) == 1 and not any(self.pads)

    @property
    def kernel(self) -> Convolution:
        if self._kernel is None:
            with torch.inference_mode(False), torch.no_grad():  # a gradient may be asked for later
                self._kernel = Convolution(
                    self.weight,
                    self.bias,
                    self.stride,
                    self.dilation,
                    self.groups,
                    self.activation,
                    self.keeps_nan,
                    self.plain_memory,
                )
        return self._kernel

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        before, after = self.pads[::2], self.pads[1::2]
        if before == after:
            return self.kernel(inputs[0], before)
        return self.kernel(padded(inputs[0], self.pads), self._unpadded)

    def forward_region(self, inputs: Sequence[Tensor], place: Place) -> Tensor:
        return self.kernel(inputs[0], self._unpadded)

    def in_plain_memory(self) -> Conv:
        twin = copy.copy(self)
        twin.plain_memory, twin._kernel = True, None
        return twin

    def parameters(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def makes_nan(self) -> bool:
        return super().makes_nan() or can_make_nan(self.activation)

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> Conv:
        return self.replaced(change(self.weight), None if self.bias is None else change(self.bias), self.activation)

    def replaced(self, weight: Tensor, bias: Tensor | None, activation: Elementwise | None) -> Conv:
        """Return a copy with other weights or another activation."""
        return Conv(
            self.name,
            self.inputs,
            self.shape,
            weight,
            bias,
            self.stride,
            self.dilation,
            self.groups,
            self.pads,
            activation,
        )

    def scaled(self, scale: Tensor, shift: Tensor) -> Conv:
        """Fold y * scale + shift, a number a channel, into the weights. Only without an activation in between.

        The result is float64 until `map_parameters` rounds it once to the dtype of a run, so that a float64 run
        computes what the unfolded network computes.
        """
        weight = self.weight.double() * scale.double().view(-1, *(1,) * (self.weight.dim() - 1))
        bias = shift.double() if self.bias is None else self.bias.double() * scale.double() + shift.double()
        return self.replaced(weight, bias, self.activation)

    def reading_scaled(self, scale: Tensor, shift: Tensor) -> Conv:
        """Fold x * scale + shift, a number an input channel, into the weights. Only without padding; float64 likewise.

        What the convolution reads is x then.
        """
        n_out, n_read = self.weight.shape[:2]
        group = torch.arange(n_out) // (n_out // self.groups)
        channels = group[:, None] * n_read + torch.arange(n_read)
        channels = channels.view(n_out, n_read, *(1,) * len(self.stride))
        weight = self.weight.double()
        bias = (weight * shift.double()[channels]).flatten(1).sum(1)
        bias = bias if self.bias is None else bias + self.bias.double()
        return self.replaced(weight * scale.double()[channels], bias, self.activation)

    def macs_per_position(self) -> float:
        return float(self.weight.numel())


def as_conv_weight(weight: Tensor, n_axes: int) -> Tensor:
    """Return (K, C) of a linear layer that runs at every position, as the (K, C, 1, ...) of a convolution."""
    return channels_last(weight.reshape(*weight.shape, *(1,) * n_axes))
