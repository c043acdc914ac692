"""Samples as RGB pixels: of arrays, of PIL images of any mode, of TIFF files; 8 bits, or float32 in 0..1.

Before: `decode` has read a file, or has an array. After: `source_image`, which gives pixels an identity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from obeql.errors import ImageError
from obeql.executor.images.tiff import TiffPixels

__all__ = ["Pixels", "channels_last", "over_white", "rgb_pixels", "standard_dtype", "tiff_pixels"]

Pixels = npt.NDArray[np.uint8 | np.float32]

#: Float pixels may leave 0..1 by this much, as rounding makes them; they are clipped.
_ROUNDING = 1e-6

_ARRAYS = "(H, W), (H, W, 1), (H, W, 3), (H, W, 4) or (C, H, W)"


def tiff_pixels(samples: TiffPixels, shown: str) -> Pixels:
    """Return RGB pixels (H, W, 3) of a TIFF file's samples, laid over white where they have an opacity."""
    scaled = [_scaled(each, samples.white, shown) for each in (samples.color, samples.alpha) if each is not None]
    color = np.broadcast_to(scaled[0], (*scaled[0].shape[:2], 3))
    if samples.alpha is None:
        return color
    if not samples.weighted:
        return over_white(np.concatenate([color, scaled[1]], axis=2))
    if color.dtype == np.uint8:
        return np.asarray(np.minimum(color.astype(np.int32) + (255 - scaled[1].astype(np.int32)), 255), np.uint8)
    return np.asarray(np.minimum(color + (1 - scaled[1]), 1), np.float32)


def _scaled(samples: npt.NDArray[Any], white: int | None, shown: str) -> Pixels:
    """Return samples as pixels, where `white` is the number of white; None: as their type has it."""
    if white is None:
        return standard_dtype(samples, shown)
    if white == 255:
        return samples.astype(np.uint8)
    return np.asarray(np.clip(samples.astype(np.float32) / np.float32(white), 0, 1), np.float32)


def rgb_pixels(image: Image.Image, shown: str, form: str | None, white: int) -> Pixels:
    """Return RGB pixels (H, W, 3) of a PIL image of any mode, read from a file of the format `form`, if any.

    `white` is the number of white in 16 bits of gray.
    """
    mode = image.mode
    if mode.startswith("I;16"):
        deep = np.asarray(image)
        gray = deep.astype(np.float32) / np.float32(white)
        if isinstance(clear := image.info.get("transparency"), int):  # the one gray value that is not shown
            gray[deep == clear] = 1
        return np.repeat(gray[:, :, None], 3, axis=2)
    if mode == "I":
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise ImageError(
                f"image '{shown}' has 32-bit integer pixels from {wide.min()} to {wide.max()}, which have no agreed "
                "white; scale them to 0..1 and pass the array"
            )
        # PNG and PGM files that Pillow reads so have 16 bits; other integers are those of 8 or 16 bits written wider.
        most = 255 if form in (None, "TIFF") and wide.max() <= 255 else 65535
        gray = wide.astype(np.float32) / np.float32(most)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if mode == "F":
        return np.repeat(standard_dtype(np.asarray(image)[:, :, None], shown), 3, axis=2)
    if image.has_transparency_data or mode in ("La", "RGBa"):
        return over_white(np.asarray(image.convert("RGBA")))
    try:
        return np.array(image if mode == "RGB" else image.convert("RGB"))
    except ValueError:
        raise ImageError(f"image '{shown}' has pixels of mode {mode}, which cannot be turned into RGB") from None


def over_white(rgba: npt.NDArray[Any]) -> Pixels:
    """Lay (H, W, 4) pixels over white; opaque pixels keep their exact values."""
    if rgba.dtype == np.uint8:
        color, alpha = rgba[:, :, :3].astype(np.uint32), rgba[:, :, 3:].astype(np.uint32)
        return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    alpha = rgba[:, :, 3:]
    return np.asarray(rgba[:, :, :3] * alpha + (1 - alpha), np.float32)


def channels_last(array: npt.NDArray[Any], key: str, channels_first: bool) -> npt.NDArray[Any]:
    """View an array as (H, W, C), C = 1, 3 or 4."""
    shape = "x".join(map(str, array.shape)) or "a single number"
    if array.ndim == 4 and len(array) == 1:
        raise ImageError(f"image '{key}' is a batch of shape {shape}; pass the image in it, `array[0]`")
    if array.ndim not in (2, 3):
        raise ImageError(f"image '{key}' has shape {shape}; allowed are {_ARRAYS}")
    if array.ndim == 2:
        array = array[:, :, None]
    else:
        first, last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 3, 4)
        if not first and not last:
            raise ImageError(f"image '{key}' has shape {shape} without an axis of 1, 3 or 4 channels; use {_ARRAYS}")
        if first and (channels_first or not last):
            array = array.transpose(1, 2, 0)
    if array.size == 0:
        raise ImageError(f"image '{key}' has no pixels: its shape is {shape}")
    return array


def standard_dtype(array: npt.NDArray[Any], key: str) -> Pixels:
    """Return uint8 as it is, uint16 and floating point as float32 in 0..1. Raises ImageError for anything else."""
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    if array.dtype == np.bool_:
        return np.where(array, np.uint8(255), np.uint8(0))
    if array.dtype == np.uint16:
        return array.astype(np.float32) / np.float32(65535)
    if array.dtype.kind != "f":
        raise ImageError(
            f"image '{key}' has pixels of type {array.dtype}; allowed are uint8 (0..255), uint16 (0..65535), bool "
            "and floating point (0..1)"
        )
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        n_bad = int(np.count_nonzero(~np.isfinite(array)))
        raise ImageError(f"image '{key}' has {n_bad} of {array.size} values that are NaN or infinite")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        way = "divide them by 255."
        if low < 0 or high > 255:
            way = (
                "hand over pixels before normalization, and give mean=.. and std=.. to create_model: "
                "the model then normalizes them."
            )
        raise ImageError(
            f"image '{key}' has values from {low:.4g} to {high:.4g}; floating-point pixels lie in 0..1: {way}"
        )
    return np.asarray(np.clip(array, 0, 1), np.float32)
