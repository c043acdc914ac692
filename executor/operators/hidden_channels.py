"""Windows that hide some channels only: the others keep what the image shows.

Before an operator runs: with a fill of the image's own values elsewhere, it computes such windows as any others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["in_channels"]


def in_channels(fill: Tensor, pixels: Tensor, channels: Sequence[int] | None) -> Tensor:
    """Return what hides `channels` of images `pixels` (N, C, ...), None all of them; of an image's shape.

    `fill` is (N, C, 1, ...) or of an image's shape.
    """
    if channels is None:
        return fill
    hidden = torch.zeros(pixels.shape[1], dtype=torch.bool, device=pixels.device)
    hidden[list(channels)] = True
    return torch.where(hidden.view(1, -1, *[1] * (pixels.dim() - 2)), fill, pixels)
