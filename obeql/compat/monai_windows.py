"""MONAI's windows: where they lie, what hides them, how much each counts in the map; numbers as MONAI 1.6 has them.

Used by `monai`, which runs the network on them and puts the map together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from obeql.executor.operators.window_fill import WindowFill

__all__ = ["Faded", "TimesMean", "as_many", "fading_kernel", "importance", "starts", "windows"]

#: Widths of Gaussians over a window, as shares of its side: of what hides it, and of its weight in the map.
_FADING_SIGMA, _WEIGHT_SIGMA = 0.25, 0.125
_LEAST_WEIGHT = 1e-3
#: standard deviations after which a smoothing kernel ends
_TRUNCATED = 4.0


class Faded(WindowFill):
    """Pixels times a kernel (1, C, h, w) of the window's size: MONAI's mode `gaussian`."""

    def __init__(self, kernel: Tensor) -> None:
        self._kernel = kernel

    def values(self, pixels: Tensor, inside: Tensor | None) -> Tensor:
        if inside is None:
            return pixels * self._kernel
        factors = torch.ones_like(pixels, memory_format=torch.contiguous_format)
        kernels = self._kernel.expand(len(pixels), *self._kernel.shape[1:])
        return pixels * factors.masked_scatter(inside.expand(pixels.shape), kernels)


class TimesMean(WindowFill):
    """Pixels times their mean over the window: MONAI's mode `mean_patch`, which multiplies where it means to add."""

    def values(self, pixels: Tensor, inside: Tensor | None) -> Tensor:
        axes = tuple(range(1, pixels.dim()))
        if inside is None:
            return pixels * pixels.mean(dim=axes, keepdim=True)
        hidden = inside.expand(pixels.shape).to(pixels.dtype)
        return pixels * (pixels * hidden).sum(dim=axes, keepdim=True) / hidden.sum(dim=axes, keepdim=True)


def as_many(value: Any, n: int, name: str) -> tuple[Any, ...]:
    """Return one value an axis. Raises ValueError for a sequence of another length."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (value,) * n
    if len(value) != n:
        raise ValueError(f"{name} is one number, or one for each of {n} spatial axes; {len(value)} were given.")
    return tuple(value)


def starts(size: int, length: int, overlap: float) -> list[int]:
    """Return where windows of an axis start; the last one is shifted inward to end at the border."""
    step = length if length == size else max(1, int(length * (1 - overlap)))
    n = 1 + max(0, math.ceil((size - length) / step))
    return [min(number * step, size - length) for number in range(n)]


def windows(axes: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[tuple[slice, ...]]:
    """Return all windows of some axes of starts, the last axis fastest."""
    return [
        tuple(slice(start, start + length) for start, length in zip(corner, lengths, strict=True))
        for corner in product(*axes)
    ]


def importance(lengths: Sequence[int], gaussian: bool, like: Tensor) -> Tensor:
    """Return what each position of a window counts in the map, of shape `lengths`."""
    weights = torch.ones(tuple(lengths), dtype=torch.float32, device=like.device)
    for axis, length in enumerate(lengths if gaussian else ()):
        place = torch.arange(length, dtype=torch.float32, device=like.device) - (length - 1) / 2.0
        bell = torch.exp(place**2 / (-2 * (_WEIGHT_SIGMA * length) ** 2))
        weights = weights * bell.reshape(-1, *[1] * (len(lengths) - axis - 1))
    return weights.clamp(min=max(float(weights.min()), _LEAST_WEIGHT)).to(like.dtype)


def fading_kernel(lengths: Sequence[int], like: Tensor) -> Tensor:
    """Return what pixels of a window are multiplied by, (1, C, *lengths): 0 in its middle, 1 far from it."""
    bump = torch.ones(tuple(lengths), dtype=torch.float32, device=like.device)
    for axis, length in enumerate(lengths):
        bump = bump * _smoothed_point(length).to(like.device).reshape(-1, *[1] * (len(lengths) - axis - 1))
    low, high = bump.min(), bump.max()
    kernel = torch.zeros_like(bump) if bool(low == high) else (high - bump) / (high - low)
    return kernel.to(like.dtype).expand(1, like.shape[1], *lengths)


def _smoothed_point(length: int) -> Tensor:
    """Return 1 at the middle of an axis, smoothed by a Gaussian; (length,)."""
    sigma = torch.tensor(_FADING_SIGMA * length, dtype=torch.float32)
    tail = int(max(float(sigma) * _TRUNCATED, 0.5) + 0.5)
    place = torch.arange(length, dtype=torch.float32) - length // 2
    scale = 0.70710678 / sigma
    bell = 0.5 * ((scale * (place + 0.5)).erf() - (scale * (place - 0.5)).erf())
    return torch.where(place.abs() <= tail, bell.clamp(min=0), 0.0)
