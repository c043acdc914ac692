"""Max pool without padding on many small regions, by maxima of shifted views.

PyTorch's CPU kernel keeps the place of every maximum; on channels-last regions with overlapping windows that costs
more than the maxima. Axis after axis, a few windows at a time so that they stay in the cache: a pass of
whole-vector maxima each, three times as fast for 3x3 windows of stride 1. Maxima are exact, so both ways agree bit by
bit; NaN stays NaN in both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from obeql.executor.kernels.by_axes import BY_AXES
from obeql.executor.kernels.memory_format import as_positions, from_positions, has_channels_last

__all__ = ["max_pool"]

#: Bytes of input that are worked on at a time: with what is in between, a part of a core's own cache.
_CHUNK_BYTES = 1 << 19


def max_pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """Return the largest value of each window of x (N, C, ...), channels-last.

    The result is (N, C, (size - extent) // stride + 1, ...).
    """
    overlaps = min(kernel) > 1 and max(stride) == 1
    if x.device.type != "cpu" or not overlaps or not has_channels_last(x):
        return BY_AXES[len(kernel)].max_pool(x, kernel, stride, 0, dilation)
    n, channels, *shape = x.shape
    rows = as_positions(x)  # contiguous
    sizes = [size - d * (k - 1) for size, k, d in zip(shape, kernel, dilation, strict=True)]
    pooled = x.new_empty((n, *sizes, channels))
    step = max(1, _CHUNK_BYTES // (x.element_size() * channels * math.prod(shape)))
    for start in range(0, n, step):
        part = rows[start : start + step]
        for axis, size in enumerate(sizes):
            out = pooled[start : start + step] if axis == len(sizes) - 1 else None
            part = _largest(part, 1 + axis, size, kernel[axis], dilation[axis], out)
    return from_positions(pooled)


def _largest(x: Tensor, axis: int, n_out: int, kernel: int, dilation: int, out: Tensor | None) -> Tensor:
    """Return the maximum over `kernel` neighbours along an axis."""
    found = torch.maximum(x.narrow(axis, 0, n_out), x.narrow(axis, dilation, n_out), out=out)
    for tap in range(2, kernel):
        torch.maximum(found, x.narrow(axis, tap * dilation, n_out), out=found)
    return found
