"""Maps of any number of spatial axes, with their channels last in memory.

Kernels here and the layers above hold maps so: (N, C, H, W) in PyTorch's `channels_last`, (N, C, D, H, W) in its
`channels_last_3d`. In both, a position's channels lie together, so that positions can be seen as rows of channels.
"""

from __future__ import annotations

from torch import Tensor

from obeql.executor.kernels.by_axes import BY_AXES

__all__ = ["as_positions", "channels_last", "from_positions", "has_channels_last"]


def channels_last(x: Tensor) -> Tensor:
    """Return maps (N, C, ...) with their channels last in memory; as they are where they lie so."""
    return x.contiguous(memory_format=BY_AXES[x.dim() - 2].channels_last)


def has_channels_last(x: Tensor) -> bool:
    """Return whether the channels of maps (N, C, ...) lie last in memory."""
    return x.is_contiguous(memory_format=BY_AXES[x.dim() - 2].channels_last)


def as_positions(x: Tensor) -> Tensor:
    """See maps (N, C, ...) as (N, ..., C), without a copy."""
    return x.movedim(1, -1)


def from_positions(x: Tensor) -> Tensor:
    """See (N, ..., C) as maps (N, C, ...), without a copy."""
    return x.movedim(-1, 1)
