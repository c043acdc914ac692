"""ONNX's Resize: nearest and linear, by scales or to sizes, with ONNX's own rules for where a pixel comes from.

Scales count as they stand, not as the quotient of the rounded size: 32 pixels times 0.7 are 22, and the i-th of them
lies at i / 0.7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from obeql.executor.models.onnx.node import Array, Node

__all__ = ["resize", "upsample"]

Floats = npt.NDArray[np.float32]

#: where output positions lie in the input, from (positions, scale, input size, output size), in float32 as ONNX Runtime
_PLACES: Mapping[str, Callable[[Floats, np.float32, int, int], Floats]] = {
    "asymmetric": lambda at, scale, size, wanted: at / scale,
    "half_pixel": lambda at, scale, size, wanted: (at + np.float32(0.5)) / scale - np.float32(0.5),
    "pytorch_half_pixel": lambda at, scale, size, wanted: (
        (at + np.float32(0.5)) / scale - np.float32(0.5) if wanted > 1 else at * 0
    ),
    "align_corners": lambda at, scale, size, wanted: (
        at * np.float32(size - 1) / np.float32(wanted - 1) if wanted > 1 else at * 0
    ),
}

#: What ONNX Runtime takes for a tie between two pixels, which positions in float32 may miss.
_TIE = 1e-6

#: in float64, where adding a half to the last number below a tie is not rounded up to it
_ROUNDINGS: Mapping[str, Callable[[Floats], npt.NDArray[np.floating[Any]]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda at: np.ceil(at.astype(np.float64) - 0.5 - _TIE),
    "round_prefer_ceil": lambda at: np.floor(at.astype(np.float64) + 0.5 + _TIE),
}


def resize(
    node: Node, x: Tensor, roi: object = None, scales: Array | None = None, sizes: Array | None = None
) -> Tensor:
    """Resize the maps x (N, C, H, W), whose batch and channels stay."""
    mode, where = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    target, factors = _target(node, x, scales, sizes)
    if where in _PLACES and mode in ("nearest", "linear") and target == list(x.shape[2:]):
        return x  # as ONNX Runtime does, also where a scale such as 1.1 says that pixels lie between others
    if where in _PLACES and mode == "nearest":
        rounding = node.get("nearest_mode", "round_prefer_floor")
        repeats = (where == "asymmetric" and rounding == "floor") or (
            where == "half_pixel" and rounding.startswith("round")
        )
        if repeats and all(float(factor).is_integer() for factor in factors):
            return F.interpolate(x, target, mode="nearest")
        for axis in (2, 3):
            places = _places(where, x.shape[axis], target[axis - 2], factors[axis - 2])
            index = _ROUNDINGS[rounding](places).astype(np.int64).clip(0, x.shape[axis] - 1)
            x = x.index_select(axis, torch.from_numpy(index).to(x.device))
        return x
    # PyTorch puts the one pixel of an output of one into the middle.
    elsewhere = where == "asymmetric" or (where == "pytorch_half_pixel" and min(target) == 1)
    if mode == "linear" and where in _PLACES and not node.get("antialias", 0):
        if elsewhere:
            return _linear(x, where, target, factors)
        height, width = (float(factor) for factor in factors)
        corners = where == "align_corners"
        result: Tensor = torch.ops.aten.upsample_bilinear2d.default(x, target, corners, height, width)
        return result
    raise node.refuse(f"resizes with mode={mode}, coordinates={where}, which is not supported")


def upsample(node: Node, x: Tensor, scales: Array | None = None) -> Tensor:
    """Resize as ONNX did before Resize: by scales, nearest or linear, with pixels placed at i / scale."""
    placed = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    factors = np.asarray(node.get("scales"), np.float32) if scales is None else scales
    return resize(replace(node, attributes={**node.attributes, **placed}), x, None, factors)


def _target(node: Node, x: Tensor, scales: Array | None, sizes: Array | None) -> tuple[list[int], list[np.float32]]:
    """Return the height and width to resize to, and the factors that map positions."""
    axes = [axis % x.ndim for axis in node.get("axes", range(x.ndim))]
    if x.ndim != 4 or node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("resizes something else than maps, or keeps their aspect ratio, which is not supported")
    factors = [np.float32(1)] * 4
    target = list(x.shape)
    if sizes is not None and sizes.size == len(axes):
        for axis, size in zip(axes, sizes.reshape(-1).tolist(), strict=True):
            target[axis] = int(size) if axis else x.shape[0]  # a batch that was fixed when the file was written
            factors[axis] = np.float32(target[axis]) / np.float32(x.shape[axis])
    elif scales is not None and scales.size == len(axes):
        for axis, factor in zip(axes, scales.reshape(-1), strict=True):
            factors[axis] = np.float32(factor)
            target[axis] = int(np.floor(np.float32(x.shape[axis]) * factors[axis])) if axis > 1 else x.shape[axis]
    else:
        raise node.refuse("resizes neither by scales nor to sizes, which is not supported")
    if target[1] != x.shape[1] or factors[0] != 1 or factors[1] != 1:
        raise node.refuse("resizes the batch or the channels, which is not supported")
    return target[2:], factors[2:]


def _places(where: str, size: int, wanted: int, factor: np.float32) -> Floats:
    return _PLACES[where](np.arange(wanted, dtype=np.float32), factor, size, wanted).astype(np.float32)


def _linear(x: Tensor, where: str, target: list[int], factors: list[np.float32]) -> Tensor:
    """Interpolate between the two nearest input positions on each axis, the last ones beyond the border."""
    for axis in (2, 3):
        size = x.shape[axis]
        places = _places(where, size, target[axis - 2], factors[axis - 2]).clip(0, size - 1)
        low = np.floor(places).astype(np.int64)
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        share = torch.from_numpy(places - low).to(x.device, x.dtype).reshape(shape)
        first, second = (
            x.index_select(axis, torch.from_numpy(index).to(x.device)) for index in (low, (low + 1).clip(0, size - 1))
        )
        x = first * (1 - share) + second * share
    return x
