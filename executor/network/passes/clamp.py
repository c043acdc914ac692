"""Turn a scaled activation in front of a convolution into a clamp, whose scale the convolution takes in.

For a channel with scale s > 0, relu(s x + t) = s max(x, -t/s) + t; for s < 0 the maximum is a minimum. The clamp is one
pass over the map instead of two, and s and t go into the weights. Networks with batch norm and activation before
their convolutions (DenseNet) spend a good part of their time there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.activation import Elementwise
from obeql.executor.network.layers.conv import Conv
from obeql.executor.network.layers.pointwise import Affine, Clamp

__all__ = ["clamp_before_convolutions"]

#: Bounds further out than this are left alone: their channels hardly vary, and float16 could not hold them.
_FARTHEST = 1e4


def clamp_before_convolutions(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the graph with every scaled activation clamped that one convolution without padding reads."""
    work = list(layers)
    readers: dict[int, list[int]] = {}
    for k, layer in enumerate(work):
        for j in layer.inputs:
            readers.setdefault(j, []).append(k)
    for i, affine in enumerate(work):
        if not isinstance(affine, Affine) or len(affine.shape) < 3 or len(readers.get(i, ())) != 1:
            continue
        conv = work[readers[i][0]]
        limits = _limits(affine.activation)
        if limits is None or not isinstance(conv, Conv) or any(conv.pads):
            continue
        bounds = _bounds(affine, *limits)
        if bounds is None:
            continue
        low, high, scale, shift = bounds
        work[i] = Clamp(affine.name, affine.inputs, affine.shape, low, high)
        work[readers[i][0]] = conv.reading_scaled(scale, shift)
    return tuple(work)


def _limits(function: Elementwise | None) -> tuple[float, float] | None:
    """Return what an activation clamps to; None for any other function."""
    if function is None or function.kwargs:
        return None
    if function.name == "relu":
        return 0.0, math.inf
    if function.name == "relu6":
        return 0.0, 6.0
    if function.name == "hardtanh":
        low, high = function.args or (-1.0, 1.0)
        return float(low), float(high)
    return None


def _bounds(affine: Affine, least: float, most: float) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Return bounds of x, then scale and shift of the clamped x, (C,) in float64 each.

    Return None where that loses precision.
    """
    scale, shift = affine.scale.double(), affine.shift.double()
    constant = scale == 0
    divisor = torch.where(constant, 1.0, scale)
    ends = torch.stack([(least - shift) / divisor, (most - shift) / divisor])
    # A channel of scale 0 is one number: it stays in the shift.
    low = torch.where(constant, 0.0, ends.amin(0))
    high = torch.where(constant, 0.0, ends.amax(0))
    shift = torch.where(constant, shift.clamp(least, most), shift)
    finite = torch.cat([low[low.isfinite()], high[high.isfinite()]]).abs()
    numbers = torch.stack([scale, shift])
    if not bool(numbers.isfinite().all()) or bool((finite > _FARTHEST).any()):
        return None
    return low, high, scale, shift
