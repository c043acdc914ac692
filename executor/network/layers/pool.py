"""Max and average pools, floor or ceil mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from obeql.executor.kernels.max_pool import max_pool
from obeql.executor.network.layers.base import Layer, Place
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
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        ceil_mode: bool,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        self.ceil_mode = ceil_mode
        rows, cols = zip(kernel, stride, dilation, padding, strict=True)
        self.window = (AxisWindow(*rows), AxisWindow(*cols))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        if self.stride == (1, 1) and x.device.type == "cpu":  # where ceil mode changes nothing
            rows, cols = self.padding
            return max_pool(F.pad(x, (cols, cols, rows, rows), value=self.outside), self.kernel, (1, 1), self.dilation)
        return F.max_pool2d(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

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
        in_size: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        ceil_mode: bool,
        count_include_pad: bool,
        divisor: int | None,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.ceil_mode, self.count_include_pad, self.divisor = ceil_mode, count_include_pad, divisor
        rows, cols = zip(kernel, stride, (1, 1), padding, strict=True)
        self.window = (AxisWindow(*rows), AxisWindow(*cols))
        counts = [
            _counts(size, n, window, count_include_pad)
            for size, n, window in zip(in_size, shape[1:], self.window, strict=True)
        ]
        uniform = all(c == window.kernel for axis, window in zip(counts, self.window, strict=True) for c in axis)
        self._counts = None if uniform or divisor is not None else tuple(torch.tensor(c) for c in counts)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return F.avg_pool2d(
            inputs[0], self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad, self.divisor
        )

    def forward_region(self, inputs: Sequence[Tensor], place: Place) -> Tensor:
        x = inputs[0]
        if self._counts is None:
            return F.avg_pool2d(x, self.kernel, self.stride, 0, divisor_override=self.divisor)
        total = F.avg_pool2d(x, self.kernel, self.stride, 0, divisor_override=1)
        rows, cols = self._counts
        n_rows = rows[place.tops[:, None] + torch.arange(place.height, device=x.device)]  # (N, h)
        n_cols = cols[place.lefts[:, None] + torch.arange(place.width, device=x.device)]  # (N, w)
        return total / (n_rows[:, None, :, None] * n_cols[:, None, None, :]).to(x.dtype)

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
