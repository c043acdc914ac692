"""The values that hide a window, in the space of the model's input.

Comes after `preprocess`; the operators write these values where a window lies (they select, never multiply).
"""

from __future__ import annotations

import math
import re

import numpy as np
import numpy.typing as npt

from obeql.errors import InternalError, QueryTypeError, nearest
from obeql.executor.images.preprocess import ModelInput, in_range, luma, to_model_space
from obeql.planner.catalog import Preprocessing
from obeql.planner.fills import BLUR_SIGMA, CONSTANTS, FILL_VALUES, FILLS, IMAGE_FILLS, SIGNAL_FILLS, fill_numbers

__all__ = ["fill_values"]

_TRIPLE = re.compile(r"\(([^,()]+),([^,()]+),([^,()]+)\)")


def fill_values(fill: str | tuple[float, ...], image: ModelInput, how: Preprocessing) -> npt.NDArray[np.float32]:
    """Return what a hidden pixel becomes: float32 (C,) for a constant, (C, H, W) for `blur`, of volumes (C, D, H, W).

    `fill` is a name of FILLS, or (r, g, b) in 0..1 as a tuple or as the text "(r,g,b)"; colors are RGB whatever the
    model's channel order and pass through its preprocessing. `mean` averages `image.values` in float64. `blur` is a
    Gaussian of BLUR_SIGMA times the shorter side, cut at 3 sigma, border pixels repeated.

    Of signals and volumes, `fill` may be numbers, one or one a channel, in their own unit; black and white are the ends
    of the model's range.

    Raises QueryTypeError for another name, a color outside 0..1, and a fill that is worked out from each window.
    """
    if fill in SIGNAL_FILLS:
        raise QueryTypeError(
            f"fill={fill} is a line between the ends of a window: allowed here are {', '.join(IMAGE_FILLS)}."
        )
    constant = _constant_color(fill, how) if how.is_image else _constant_number(fill, how)
    if constant is not None:
        return constant
    if fill == "mean":
        return np.asarray(image.values.mean(axis=tuple(range(1, image.values.ndim)), dtype=np.float64), np.float32)
    if fill == "zero":
        return np.zeros(image.values.shape[0], np.float32)
    if fill == "blur":
        return _blurred(image.values, BLUR_SIGMA * min(how.size))
    raise InternalError(f"fill {fill!r} has no values")


def _constant_color(fill: str | tuple[float, ...], how: Preprocessing) -> npt.NDArray[np.float32] | None:
    color = _color(fill)
    return None if color is None else _model_color(color, how)


def _constant_number(fill: str | tuple[float, ...], how: Preprocessing) -> npt.NDArray[np.float32] | None:
    """Return a constant fill of signals and volumes (C,), in the model's space; None of a fill that is none.

    Colors are places in the model's range: black its low end, white its high one. Numbers are values of the source.
    """
    if isinstance(fill, str) and fill in CONSTANTS:
        if how.range is None:
            raise QueryTypeError(
                f"fill={fill} is a place in the range of a model, and this one has none: give it range=(low, high), or "
                "a number as fill."
            )
        unit = np.full((1, 1, how.n_channels), CONSTANTS[fill], np.float32)
        return to_model_space(unit, how)[:, 0, 0]
    if isinstance(fill, str) and fill in FILLS:
        return None
    values = fill_numbers(fill) if isinstance(fill, str) else tuple(fill)
    if values is None:
        raise QueryTypeError(f"fill '{fill}' is unknown; allowed are {FILL_VALUES}.{nearest(str(fill), FILLS)}")
    if len(values) not in (1, how.n_channels):
        raise QueryTypeError(f"fill has {len(values)} numbers, but the model has {how.n_channels} channels.")
    spread = np.array(values if len(values) == how.n_channels else values * how.n_channels, np.float32)
    return to_model_space(in_range(spread.reshape(1, 1, -1), how), how)[:, 0, 0]


def _color(fill: str | tuple[float, ...]) -> tuple[float, float, float] | None:
    """Return RGB of a constant color, None for the other known fills."""
    if isinstance(fill, str):
        if fill in CONSTANTS:
            return (CONSTANTS[fill],) * 3
        if fill in FILLS:
            return None
        match = _TRIPLE.fullmatch(fill.replace(" ", ""))
        try:
            color = tuple(map(float, match.groups())) if match else ()
        except ValueError:
            color = ()
        if not color:
            names = ", ".join(IMAGE_FILLS)
            raise QueryTypeError(
                f"fill '{fill}' is unknown; allowed are {names} and (r,g,b) in 0..1.{nearest(fill, FILLS)}"
            )
    else:
        color = tuple(fill)
    if len(color) != 3 or not all(0 <= value <= 1 for value in color):
        shown = ", ".join(f"{value:g}" for value in color)
        raise QueryTypeError(f"fill ({shown}) must be three numbers in 0..1: red, green, blue")
    return color[0], color[1], color[2]


def _model_color(color: tuple[float, float, float], how: Preprocessing) -> npt.NDArray[np.float32]:
    rgb = np.array(color, np.float32).reshape(1, 1, 3)
    unit = luma(rgb)[:, :, None] if how.channels == "gray" else rgb
    return to_model_space(unit, how)[:, 0, 0]


def _blurred(values: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    """Return the Gaussian blur of (C, H, W), of volumes (C, D, H, W), along every spatial axis, float64 inside."""
    radius = max(1, math.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    blurred = values.astype(np.float64)
    for axis in (axis for axis in range(1, values.ndim) if values.shape[axis] > 1):
        widths = [(0, 0)] * values.ndim
        widths[axis] = (radius, radius)
        padded = np.pad(blurred, widths, mode="edge")
        blurred = np.zeros(values.shape, np.float64)
        for i, tap in enumerate(taps):
            part = (slice(None),) * axis + (slice(i, i + values.shape[axis]),)
            blurred += tap * padded[part]
    return blurred.astype(np.float32)
