"""Volumes: arrays (depth, height, width) or (channels, depth, height, width), from Python and files of numbers.

Beside `signals`; `decode` hands over what is a volume, and `preprocess` makes it a model's input. A volume is kept with
the values that its source has. A clip is a volume whose slowest axis is time.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from obeql.errors import ImageError
from obeql.executor.images.placement import Placement
from obeql.planner.catalog import Preprocessing

__all__ = ["checked_volume", "digest_of_volume", "gray_span", "middle_slice", "seen_slice", "volume_values"]

Voxels = npt.NDArray[np.float32]


def checked_volume(array: npt.NDArray[Any], shown: str) -> Voxels:
    """Return a volume (channels, depth, height, width), float32, of an array that may lack its one channel.

    Raises ImageError for other shapes, no voxels, values that are no finite numbers.
    """
    shape = "x".join(map(str, array.shape)) or "a single number"
    if array.ndim == 5 and len(array) == 1:
        raise ImageError(f"volume '{shown}' is a batch of shape {shape}; pass the volume in it, `array[0]`")
    if array.ndim not in (3, 4):
        raise ImageError(
            f"volume '{shown}' has shape {shape}; allowed are (depth, height, width) and (channels, depth, height, "
            "width)"
        )
    if array.dtype.kind not in "fiub":
        raise ImageError(f"volume '{shown}' has values of type {array.dtype}; allowed are numbers")
    if array.size == 0:
        raise ImageError(f"volume '{shown}' has no voxels: its shape is {shape}")
    with np.errstate(over="ignore"):
        voxels = np.array(array if array.ndim == 4 else array[None], np.float32, order="C")
    n_bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if n_bad:
        raise ImageError(f"volume '{shown}' has {n_bad} of {voxels.size} values that are NaN or infinite")
    return voxels


def digest_of_volume(voxels: Voxels) -> str:
    """Return the identity of a volume (channels, depth, height, width): the hex SHA-256 of its shape and values."""
    digest = hashlib.sha256(f"volume {'x'.join(map(str, voxels.shape))}\n".encode())
    digest.update(np.ascontiguousarray(voxels.astype("<f4", copy=False)).data)
    return digest.hexdigest()


def volume_values(
    voxels: Voxels, shown: str, how: Preprocessing, placement: Placement, resample: Image.Resampling
) -> Voxels:
    """Return a volume (channels, depth, height, width) as its source has it, of the model's size.

    Where `resize` is crop_pad its middle, with zeros around what is shorter; where it is squash, every axis is resized
    by the filter `resample`. Raises ImageError for other channels than the model's, and, where `resize` is none,
    another size.
    """
    n_channels, *size = voxels.shape
    if n_channels != how.n_channels:
        many = f"{n_channels:,} channel{'s' if n_channels != 1 else ''}"
        raise ImageError(f"volume '{shown}' has {many}, but the model takes {how.n_channels:,}")
    if tuple(size) == how.size:
        return voxels
    if how.resize == "squash":
        return np.stack([_squashed(channel, how.size, resample) for channel in voxels])
    if how.resize != "crop_pad":
        raise ImageError(
            f"volume '{shown}' has {'x'.join(map(str, size))} voxels, but the model takes {how.size_text}; a model "
            "created with resize=crop_pad takes the middle and puts zeros around, with resize=squash all of it"
        )
    here, there = [slice(None)], [slice(None)]
    for start, extent, wanted in zip(placement.crop, size, how.size, strict=True):
        there.append(slice(max(0, start), min(extent, start + wanted)))
        here.append(slice(max(0, -start), max(0, -start) + min(extent, wanted)))
    fitted = np.zeros((n_channels, *how.size), np.float32)
    fitted[tuple(here)] = voxels[tuple(there)]
    return fitted


def _squashed(voxels: Voxels, size: tuple[int, ...], resample: Image.Resampling) -> Voxels:
    """Resize (depth, height, width) axis by axis, each as Pillow resizes a picture in float32."""
    depth, height, width = size
    planes = np.stack([np.asarray(Image.fromarray(plane).resize((width, height), resample)) for plane in voxels])
    lines = Image.fromarray(planes.reshape(len(planes), -1)).resize((height * width, depth), resample)
    return np.asarray(lines, np.float32).reshape(depth, height, width)


def gray_span(voxels: Voxels) -> tuple[float, float]:
    """Return the values of a volume that are shown black and white: all but the least and the largest thousandth."""
    low, high = np.percentile(voxels, (0.1, 99.9))
    if low < high:
        return float(low), float(high)
    return float(voxels.min()), float(voxels.max())


def seen_slice(voxels: Voxels, axis: int, at: int, span: tuple[float, float]) -> Voxels:
    """Return a slice of a volume (channels, depth, height, width) across an axis as a picture to be looked at.

    RGB (rows, columns, 3) in 0..1, between the values of the `span`: three channels are colors, others their mean.
    """
    low, high = span
    cut = np.take(voxels, at, axis + 1)
    unit = np.clip((cut - low) / (high - low), 0, 1) if high > low else np.zeros_like(cut)
    rgb = unit if len(unit) == 3 else np.repeat(unit.mean(axis=0, keepdims=True), 3, axis=0)
    return np.ascontiguousarray(rgb.transpose(1, 2, 0), np.float32)


def middle_slice(voxels: Voxels) -> Voxels:
    """Return the slice in the middle of the first axis of a volume, as `seen_slice` does."""
    return seen_slice(voxels, 0, voxels.shape[1] // 2, gray_span(voxels))
