"""From a decoded image to the model's input.

Comes after `decode` and before the clean pass; `Preprocessing` says what to do, `Placement` where pixels end up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from obeql.errors import ImageError, ModelError
from obeql.executor.images.pixels import Pixels
from obeql.executor.images.placement import Placement, place
from obeql.executor.images.signals import model_values, signal_picture
from obeql.executor.images.source_image import SourceImage
from obeql.executor.images.volumes import middle_slice, volume_values
from obeql.planner.catalog import Preprocessing

__all__ = ["ModelInput", "from_model_space", "in_range", "luma", "preprocess", "to_model_space"]

Floats = npt.NDArray[np.float32]

_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """What the network reads, and the same picture for people.

    `values` float32 (C, H, W), of volumes (C, D, H, W): the model's channels, normalized. `pixels` float32 (H, W, 3) in
    0..1: RGB before normalization, gray repeated for a one-channel model; of signals (1, length, C) and of volumes
    (D, H, W, C), the values of the source.
    `placement` maps positions back to the source image.
    """

    values: Floats
    pixels: Floats
    placement: Placement


def preprocess(source: SourceImage, how: Preprocessing) -> ModelInput:
    """Turn an image into the model's input exactly as `how` says.

    8-bit images are resized as 8-bit images: bit for bit Pillow's `Image.resize` for `squash`, torchvision's
    Resize, CenterCrop, ToTensor and Normalize on PIL images for `shortest`. A one-channel model reads Pillow's "L"
    (ITU-R 601 luma), taken before resizing. Floating-point images are resized in float32 with the same filters and
    clipped to 0..1. Arrays already of the model's size are used as they are.

    Raises ModelError when mean and std do not fit the model's channels or std is 0.
    """
    if not how.is_image or source.kind is not how.kind:
        return _numbers(source, how)
    placement = place(source.size, how, ready=source.ready)
    pixels = _crop(_resize(_model_channels(source.pixels, how), placement, how), placement)
    unit = pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
        unit /= np.float32(255)
    rgb = np.repeat(unit, 3, axis=2) if unit.shape[2] == 1 else unit
    return ModelInput(to_model_space(unit, how), np.ascontiguousarray(rgb), placement)


def _numbers(source: SourceImage, how: Preprocessing) -> ModelInput:
    """Turn a signal or a volume, which hold values of a unit of their own, into the model's input."""
    if source.kind is not how.kind:
        raise ImageError(f"'{source.shown}' is {_described(source)}, but the model takes {how.kind.plural}")
    placement = place(source.size, how, ready=source.ready)
    if how.is_signal:
        samples = model_values(source.samples, source.rate_hz, source.shown, how, placement)[:, None]
    else:
        samples = volume_values(source.samples, source.shown, how, placement, _RESAMPLE[how.interpolation])
    seen = np.ascontiguousarray(np.moveaxis(samples, 0, -1))
    return ModelInput(to_model_space(in_range(seen, how), how), seen, placement)


def _described(source: SourceImage) -> str:
    kind = source.kind
    if kind.name == "image":
        return f"an image of {'x'.join(map(str, source.size))} pixels"
    shape = " x ".join(map(str, source.samples.shape))
    axes = "samples" if kind.name == "signal" else " x ".join(kind.axes)
    return f"a {kind.name} of {shape} (channels x {axes})"


def in_range(values: Floats, how: Preprocessing) -> Floats:
    """Map the values of a signal or volume to 0..1, where the model has a range; channels are the last axis."""
    if how.range is None:
        return values
    low, high = how.range
    return np.asarray((values - np.float32(low)) / np.float32(high - low), np.float32)


def to_model_space(unit: Floats, how: Preprocessing) -> Floats:
    """Normalize pixels in 0..1, channels last, to float32 (C, *axes): (H, W, 3) RGB, (H, W, 1) for a gray model."""
    mean, std = _statistics(how, unit.ndim - 1)
    first = np.moveaxis(unit, -1, 0)
    if how.channels == "bgr":
        first = first[::-1]
    normalized = np.subtract(first, mean, order="C")
    normalized /= std
    return np.ascontiguousarray(normalized, np.float32)


def from_model_space(values: Floats, how: Preprocessing) -> Floats:
    """Return what `to_model_space` was given, from float32 (C, *axes), as RGB (H, W, 3) in 0..1: to be looked at.

    Of a signal, a picture of its curves; of a volume its middle plane.
    """
    mean, std = _statistics(how, values.ndim - 1)
    first = values * std + mean
    if how.is_signal:
        return signal_picture(np.asarray(first[:, 0], np.float32))
    if not how.is_image:
        return middle_slice(first)
    if how.channels == "bgr":
        first = first[::-1]
    rgb = np.repeat(first, 3, axis=0) if len(first) == 1 else first
    return np.ascontiguousarray(np.clip(rgb.transpose(1, 2, 0), 0, 1), np.float32)


def luma(rgb: npt.NDArray[Any]) -> Floats:
    """Return ITU-R 601 luma of RGB along the last axis, with Pillow's 16-bit weights.

    Equal channels stay what they are.
    """
    red, green, blue = (rgb[..., i].astype(np.float64) for i in range(3))
    return np.asarray((red * 19595 + green * 38470 + blue * 7471) / 65536, np.float32)


def _statistics(how: Preprocessing, n_axes: int) -> tuple[Floats, Floats]:
    """Return mean and std as (C, 1, ..), to be laid over channels that have so many axes."""
    return _laid_out(tuple(how.mean), tuple(how.std), how.channels, how.n_channels, n_axes)


@lru_cache(64)
def _laid_out(
    means: tuple[float, ...], stds: tuple[float, ...], channels: str | tuple[str, ...], n_channels: int, n_axes: int
) -> tuple[Floats, Floats]:
    both = []
    for name, values in (("mean", means), ("std", stds)):
        # One number stands for every channel; equal numbers, such as the defaults, for a gray model's only one.
        distinct = tuple(dict.fromkeys(values))
        if len(values) != n_channels and len(distinct) != 1:
            raise ModelError(
                f"{name} has {len(values)} values, but a model with channels={channels} takes {n_channels}"
            )
        both.append(np.array(values if len(values) == n_channels else distinct * n_channels, np.float32))
    if not np.all(both[1] > 0):
        raise ModelError(f"std must be positive in every channel, not {stds}")
    mean, std = (values.reshape(-1, *(1,) * n_axes) for values in both)
    return mean, std


def _model_channels(pixels: Pixels, how: Preprocessing) -> Pixels:
    if how.channels != "gray":
        return pixels
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    return luma(pixels)[:, :, None]


def _resize(pixels: Pixels, placement: Placement, how: Preprocessing) -> Pixels:
    if placement.source_size == placement.resized_size:
        return pixels
    height, width = placement.resized_size
    size = width, height
    resample = _RESAMPLE[how.interpolation]
    if pixels.dtype == np.uint8:
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        resized = np.asarray(image.resize(size, resample))
        return resized[:, :, None] if resized.ndim == 2 else resized
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(pixels[:, :, i])).resize(size, resample))
        for i in range(pixels.shape[2])
    ]
    return np.asarray(np.clip(np.stack(planes, axis=2), 0, 1), np.float32)


def _crop(pixels: Pixels, placement: Placement) -> Pixels:
    """Return the part of the resized image that the model reads; outside of it is black."""
    (top, left), (height, width) = placement.crop, placement.model_size
    rows, cols = pixels.shape[:2]
    inside = pixels[max(0, top) : top + height, max(0, left) : left + width]
    if inside.shape[:2] == (height, width):
        return inside
    padded = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    first_row, first_col = max(0, -top), max(0, -left)
    padded[first_row : first_row + min(rows, height), first_col : first_col + min(cols, width)] = inside
    return padded
