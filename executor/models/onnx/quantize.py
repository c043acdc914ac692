"""ONNX's QuantizeLinear and DequantizeLinear: numbers on a grid of integers, as quantized networks have them.

Listed in `elementwise`. Quantized values travel as floating-point whole numbers, so that every precision and every
layer takes them; what integer kernels compute between the two is what these compute in float32, up to rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from obeql.executor.models.onnx.node import Array, Node

__all__ = ["dequantize", "quantize"]


def quantize(node: Node, x: Tensor, scale: Tensor, zero: Array | None = None) -> Tensor:
    """Return x / scale, rounded half to even and shifted by the zero point, cut off at the range of its type."""
    if zero is None:
        zero = np.zeros((), np.uint8)
    if zero.dtype.kind not in "iu":
        raise node.refuse("quantizes to floating-point numbers, which is not supported")
    range_ = np.iinfo(zero.dtype)
    steps = torch.round(x / _placed(node, scale, x)) + _placed(node, torch.from_numpy(zero.astype(np.float32)), x)
    return torch.clamp(steps, float(range_.min), float(range_.max))


def dequantize(node: Node, x: Tensor, scale: Tensor, zero: Array | None = None) -> Tensor:
    """Return (x - zero point) * scale in the type of the scale."""
    steps = x.to(scale.dtype)
    if zero is not None and zero.any():
        steps = steps - _placed(node, torch.from_numpy(zero.astype(np.float32)), steps)
    return steps * _placed(node, scale, steps)


def _placed(node: Node, values: Tensor, x: Tensor) -> Tensor:
    """Return one number, or one for each place of an axis, as it is to be combined with x."""
    values = values.to(x.device, x.dtype)
    if node.get("block_size", 0):
        raise node.refuse("has a scale for each block of values, which is not supported")
    if values.ndim == 0 or x.ndim == 0:
        return values.reshape(())
    if values.ndim != 1:
        raise node.refuse(
            f"has scales of shape {tuple(values.shape)}; one, or one for each place of an axis is supported"
        )
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.ndim
    shape[node.get("axis", 1)] = -1
    return values.reshape(shape)
