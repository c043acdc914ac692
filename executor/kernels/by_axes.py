"""What PyTorch has by the number of spatial axes: its memory formats, its convolutions, its pools.

Used by the kernels beside and by the layers that fall back on PyTorch's own. Signals are maps of one row, so that what
PyTorch does best, two axes, serves them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BY_AXES", "Operations"]


@dataclass(frozen=True, slots=True)
class Operations:
    """PyTorch's operations on maps (N, C, ...) of one number of spatial axes.

    `reorder_weight` is the name, in `torch._C._nn`, of oneDNN's packing of the weights of a convolution.
    """

    channels_last: torch.memory_format
    convolution: Callable[..., Tensor]
    reorder_weight: str
    max_pool: Callable[..., Tensor]
    average_pool: Callable[..., Tensor]
    adaptive_average_pool: Callable[..., Tensor]


#: By the number of spatial axes.
BY_AXES: Mapping[int, Operations] = {
    2: Operations(
        channels_last=torch.channels_last,
        convolution=F.conv2d,
        reorder_weight="mkldnn_reorder_conv2d_weight",
        max_pool=F.max_pool2d,
        average_pool=F.avg_pool2d,
        adaptive_average_pool=F.adaptive_avg_pool2d,
    ),
    3: Operations(
        channels_last=torch.channels_last_3d,
        convolution=F.conv3d,
        reorder_weight="mkldnn_reorder_conv3d_weight",
        max_pool=F.max_pool3d,
        average_pool=F.avg_pool3d,
        adaptive_average_pool=F.adaptive_avg_pool3d,
    ),
}
