"""Windows that hide some channels only: the others keep what the image shows.

Before an operator runs: with a fill of the image's own values elsewhere, it computes such windows as any others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from obeql.executor.operators.window_fill import Fill, WindowFill

__all__ = ["in_channels"]


@overload
def in_channels(fill: Tensor, pixels: Tensor, channels: Sequence[int] | None) -> Tensor: ...


@overload
def in_channels(fill: Fill, pixels: Tensor, channels: Sequence[int] | None) -> Fill: ...


def in_channels(fill: Fill, pixels: Tensor, channels: Sequence[int] | None) -> Fill:
    """Return what hides `channels` of images `pixels` (N, C, ...), None all of them; values are of an image's shape.

    `fill` is (N, C, 1, ...) or of an image's shape, or what works it out from each window.
    """
    if channels is None:
        return fill
    if isinstance(fill, WindowFill):
        return _InChannels(fill, tuple(channels))
    return torch.where(_hidden(pixels, channels), fill, pixels)


def _hidden(pixels: Tensor, channels: Sequence[int]) -> Tensor:
    """Return which channels of pixels (n, C, ...) are hidden: bool (1, C, 1, ...)."""
    hidden = torch.zeros(pixels.shape[1], dtype=torch.bool, device=pixels.device)
    hidden[list(channels)] = True
    return hidden.view(1, -1, *[1] * (pixels.dim() - 2))


@dataclass(frozen=True, slots=True)
class _InChannels(WindowFill):
    """Another fill in some channels, and what the image shows in the others."""

    fill: WindowFill
    channels: tuple[int, ...]

    def values(self, pixels: Tensor, inside: Tensor | None) -> Tensor:
        return torch.where(_hidden(pixels, self.channels), self.fill.values(pixels, inside), pixels)
