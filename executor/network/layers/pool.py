"""Max and average pools, floor or ceil mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from obeql.executor.kernels.by_axes import BY_AXES
from obeql.executor.kernels.max_pool import max_pool
from obeql.executor.network.layers.base import Layer, Place, padded
from obeql.planner.geometry import AxisWindow, Reach

__all__ = ["AveragePool", "MaxPool"]


class MaxPool(Layer):
    """Largest value of each window; positions outside the map count as minus infinity."""

    kind: ClassVar[str] = "max_pool"
    reach: Reach = "local"
    outside = float("-inf")

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        ceil_mode: bool,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        self.ceil_mode = ceil_mode
        self.window = tuple(AxisWindow(*axis) for axis in zip(kernel, stride, dilation, padding, strict=True))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        if max(self.stride) == 1 and x.device.type == "cpu":  # where ceil mode changes nothing
            around = padded(x, [amount for amount in self.padding for _ in range(2)], self.outside)
            return max_pool(around, self.kernel, self.stride, self.dilation)
        plain = BY_AXES[len(self.kernel)].max_pool
        return plain(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    def forward_region(self, inputs: Sequence[Tensor], place: Place) -> Tensor:
        return max_pool(inputs[0], self.kernel, self.stride, self.dilation)


class AveragePool(Layer):
    """Mean of each window. Near borders the divisor depends on the position, by PyTorch's rules."""

    kind: ClassVar[str] = "average_pool"
    reach: Reach = "local"

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        in_size: tuple[int, ...],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        ceil_mode: bool,
        count_include_pad: bool,
        divisor: int | None,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.ceil_mode, self.count_include_pad, self.divisor = ceil_mode, count_include_pad, divisor
        self.window = tuple(AxisWindow(k, s, 1, p) for k, s, p in zip(kernel, stride, padding, strict=True))
        counts = [
            _counts(size, n, window, count_include_pad)
            for size, n, window in zip(in_size, shape[1:], self.window, strict=True)
        ]
        uniform = all(c == window.kernel for axis, window in zip(counts, self.window, strict=True) for c in axis)
        self._counts = None if uniform or divisor is not None else tuple(torch.tensor(c) for c in counts)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return BY_AXES[len(self.kernel)].average_pool(
            inputs[0], self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad, self.divisor
        )

    def forward_region(self, inputs: Sequence[Tensor], place: Place) -> Tensor:
        x, plain = inputs[0], BY_AXES[len(self.kernel)].average_pool
        if self._counts is None:
            return plain(x, self.kernel, self.stride, 0, divisor_override=self.divisor)
        total = plain(x, self.kernel, self.stride, 0, divisor_override=1)
        divisor = torch.ones((len(x), 1), dtype=torch.int64, device=x.device)  # (N, 1), then an axis more each time
        for start, size, counts in zip(place.starts, place.sizes, self._counts, strict=True):
            of_axis = counts[start[:, None] + torch.arange(size, device=x.device)]  # (N, size)
            divisor = divisor[..., None] * of_axis.view(len(x), *(1,) * (divisor.dim() - 1), size)
        return total / divisor.to(x.dtype)

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> AveragePool:
        if self._counts is None:
            return self
        moved = copy.copy(self)
        moved._counts = tuple(change(counts) for counts in self._counts)
        return moved


def _counts(size: int, n_out: int, window: AxisWindow, include_pad: bool) -> list[int]:
    """Return how many positions of one axis each output position's mean is divided by."""
    counts = []
    for position in range(n_out):
        start = position * window.stride - window.pad
        stop = min(start + window.kernel, size + window.pad)
        counts.append(stop - start if include_pad else min(stop, size) - max(start, 0))
    return counts
