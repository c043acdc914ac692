"""Layers that act on every position alone: scale and shift, sums and products, layer norm over channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from obeql.executor.kernels.memory_format import as_positions, from_positions
from obeql.executor.network.layers.activation import Elementwise, can_make_nan
from obeql.executor.network.layers.base import Layer

__all__ = ["Affine", "ChannelMean", "ChannelNorm", "Clamp", "Combine", "scale_and_shift"]


def scale_and_shift(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return an inference batch norm as two numbers a channel, float64: (C,), (C,)."""
    scale = (variance.double() + epsilon).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    shift = shift if bias is None else shift + bias.double()
    return scale, shift


class Affine(Layer):
    """x * scale + shift with a number a channel: a batch norm that no convolution could take in, or a layer scale."""

    kind: ClassVar[str] = "affine"

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        scale: Tensor,
        shift: Tensor,
        activation: Elementwise | None = None,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.scale = scale
        self.shift = shift
        self.activation = activation

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        # Inference batch norm with mean 0 and variance 1 is one pass over x, in either memory format.
        zero, one = torch.zeros_like(self.shift), torch.ones_like(self.shift)
        y = F.batch_norm(x, zero, one, self.scale, self.shift, False, 0.0, 0.0)
        return y if self.activation is None else self.activation.in_place(y)

    def parameters(self) -> list[Tensor]:
        return [self.scale, self.shift]

    def makes_nan(self) -> bool:
        return super().makes_nan() or can_make_nan(self.activation)

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> Affine:
        return self.replaced(change(self.scale), change(self.shift), self.activation)

    def replaced(self, scale: Tensor, shift: Tensor, activation: Elementwise | None) -> Affine:
        """Return a copy with other numbers or another activation."""
        return Affine(self.name, self.inputs, self.shape, scale, shift, activation)

    def scaled(self, scale: Tensor, shift: Tensor) -> Affine:
        """Fold a further y * scale + shift in, in float64 as in `Conv.scaled`."""
        folded = self.shift.double() * scale.double() + shift.double()
        product = self.scale.double() * scale.double()
        return self.replaced(product, folded, self.activation)


class Clamp(Layer):
    """x limited to [low, high] with two numbers a channel, (C,) each; infinite ones are none."""

    kind: ClassVar[str] = "clamp"

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int], low: Tensor, high: Tensor) -> None:
        super().__init__(name, inputs, shape)
        self.low = low
        self.high = high

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        shape = (-1, *(1,) * (x.dim() - 2))
        return torch.clamp(x, self.low.view(shape), self.high.view(shape))

    def parameters(self) -> list[Tensor]:
        return [self.low, self.high]

    def makes_nan(self) -> bool:
        return any(bool(tensor.isnan().any()) for tensor in self.parameters())

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> Clamp:
        return Clamp(self.name, self.inputs, self.shape, change(self.low), change(self.high))


class Combine(Layer):
    """Sum, difference, product or quotient of two inputs.

    An input of one position, (C, 1, ...) beside (C, H, ...), is the gate of a squeeze-excite block: it depends on the
    whole map, so such a layer is global. One of a single channel, (1, H, ...), acts on all channels of its position.
    """

    kind: ClassVar[str] = "combine"
    _FUNCTIONS: ClassVar[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "div": torch.div,
        "maximum": torch.maximum,
        "minimum": torch.minimum,
    }

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        function: str,
        broadcast: bool,
        activation: Elementwise | None = None,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.function = function
        self.reach = "global" if broadcast else "pointwise"
        self.activation = activation

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        y = self._FUNCTIONS[self.function](inputs[0], inputs[1])
        return y if self.activation is None else self.activation.in_place(y)

    def makes_nan(self) -> bool:
        return self.function == "div" or can_make_nan(self.activation)

    def replaced(self, activation: Elementwise | None) -> Combine:
        """Return a copy with another activation."""
        return Combine(self.name, self.inputs, self.shape, self.function, self.reach == "global", activation)


class ChannelMean(Layer):
    """(N, C, ...) -> (N, 1, ...), the mean over the channels of each position."""

    kind: ClassVar[str] = "channel_mean"

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return inputs[0].mean(dim=1, keepdim=True)


class ChannelNorm(Layer):
    """Layer norm over the channels of each position (ConvNeXt), or over a vector."""

    kind: ClassVar[str] = "channel_norm"

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        weight: Tensor | None,
        bias: Tensor | None,
        epsilon: float,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.weight = weight
        self.bias = bias
        self.epsilon = epsilon

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        channels = [x.shape[1]]
        if x.dim() == 2:
            return F.layer_norm(x, channels, self.weight, self.bias, self.epsilon)
        # In channels-last memory the permuted view is contiguous: no copy either way.
        return from_positions(F.layer_norm(as_positions(x), channels, self.weight, self.bias, self.epsilon))

    def parameters(self) -> list[Tensor]:
        return [t for t in (self.weight, self.bias) if t is not None]

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> ChannelNorm:
        weight = None if self.weight is None else change(self.weight)
        bias = None if self.bias is None else change(self.bias)
        return ChannelNorm(self.name, self.inputs, self.shape, weight, bias, self.epsilon)

    def scaled(self, scale: Tensor, shift: Tensor) -> ChannelNorm:
        """Fold a further y * scale + shift, a number a channel, in, in float64 as in `Conv.scaled`."""
        weight = scale.double() if self.weight is None else self.weight.double() * scale.double()
        bias = shift.double() if self.bias is None else self.bias.double() * scale.double() + shift.double()
        return ChannelNorm(self.name, self.inputs, self.shape, weight, bias, self.epsilon)
