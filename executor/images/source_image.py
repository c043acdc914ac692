"""A decoded image, signal or volume, with its identity: what decoding gives and everything behind it takes.

Before: `decode` has read pixels or values. After: `preprocess`, the store and what draws. The digest of the pixels is
the image's identity in the store, so that a renamed or copied file keeps its heat maps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from obeql.executor.images.pixels import Pixels
from obeql.executor.images.signals import checked, digest_of, signal_picture
from obeql.executor.images.volumes import checked_volume, digest_of_volume, middle_slice
from obeql.planner.input_kinds import InputKind, kind_of

__all__ = ["SourceFacts", "SourceImage", "as_signal", "picture_image", "signal_image", "volume_image"]


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What is known of a decoded image beside its pixels: see `SourceImage`.

    `size` is (height, width) in pixels, of volumes (depth, height, width).
    """

    digest: str
    size: tuple[int, ...]
    series_uid: str | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    n_pages: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """A decoded image, upright, at its own size.

    `pixels` is read-only RGB (H, W, 3): uint8 where the source has 8 bits a channel or fewer, else float32 in 0..1.
    A gray image has three equal channels. `digest` is the hex SHA-256 of kind, dtype, shape and pixels. `shown` is
    the name used in messages and titles; `path` is None for an image that is no file. `ready` is True for arrays
    and tensors: those are used as they are when they already have the model's size. `series_uid` and
    `pixel_spacing_mm` (vertical, horizontal) are what a DICOM file says of its series and scale. `n_pages` counts the
    pages of a file of which the first was taken because none was named, and is 1 otherwise.

    A signal is an image of one row: `pixels` are float32 (1, length, channels) with the values of its source, and
    `is_signal` says so; `rate_hz` is how many samples a second it has, where that is known. `given` is an array of two
    axes as it was handed over: what was taken for a gray image is a signal where a model of signals reads it.

    Of a volume, `pixels` are float32 (depth, height, width, channels) with the values of its source.
    `metadata` is what its file says beside the values: `affine`, 4x4 rows of numbers from voxels (in the order of the
    volume's axes) to millimetres, and `spacing`, millimetres from voxel to voxel on each axis.
    """

    pixels: Pixels
    digest: str
    shown: str
    path: str | None = None
    ready: bool = False
    series_uid: str | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    n_pages: int = 1
    is_signal: bool = False
    rate_hz: float | None = None
    given: npt.NDArray[Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> npt.NDArray[np.float32]:
        """Return the values, channels first: float32 (channels, length) of a signal, (C, D, H, W) of a volume."""
        rows = self.pixels[0] if self.is_signal else self.pixels
        return np.asarray(np.moveaxis(rows, -1, 0), np.float32)

    @property
    def size(self) -> tuple[int, ...]:
        """Return (height, width) in pixels, of a signal (1, length), of a volume (depth, height, width)."""
        return self.pixels.shape[:-1]

    @property
    def kind(self) -> InputKind:
        """Return whether this is a signal, an image or a volume."""
        return kind_of(1 if self.is_signal else self.pixels.ndim - 1)

    @property
    def facts(self) -> SourceFacts:
        """Return what the store remembers of the image."""
        return SourceFacts(self.digest, self.size, self.series_uid, self.pixel_spacing_mm, self.n_pages)

    def unit_pixels(self) -> npt.NDArray[np.float32]:
        """Return the pixels as float32 in 0..1, (H, W, 3); of a signal its curves, of a volume its middle plane."""
        if self.is_signal:
            return signal_picture(self.samples)
        return _unit(self.pixels) if self.kind.name == "image" else middle_slice(self.samples)


def picture_image(pixels: Pixels, shown: str, path: str | None, *, ready: bool) -> SourceImage:
    """Return the image of RGB pixels (H, W, 3), with its digest; `ready` and the rest as of `SourceImage`."""
    # A private copy: later changes of the caller's array must not change what the digest says.
    own: Pixels = np.array(pixels, order="C")
    own.flags.writeable = False
    little = np.ascontiguousarray(own.astype(own.dtype.newbyteorder("<"), copy=False))
    # Arrays skip resizing where they fit, files do not: with equal pixels they can be different model inputs.
    kind = "uint8" if own.dtype == np.uint8 else own.dtype.name  # numpy is slow at naming types
    header = f"{'array' if ready else 'image'} {kind} {own.shape[0]}x{own.shape[1]}x3\n"
    digest = hashlib.sha256(header.encode())
    digest.update(little.data)
    return SourceImage(own, digest.hexdigest(), shown, path, ready)


def signal_image(values: Any, shown: str, path: str | None, rate_hz: float | None = None) -> SourceImage:
    """Return the image of a signal (length,) or (channels, length). Raises ImageError for an array that is none."""
    samples = checked(values, shown)
    pixels = np.array(samples.T[None], order="C")
    pixels.flags.writeable = False
    return SourceImage(pixels, digest_of(samples), shown, path, ready=True, is_signal=True, rate_hz=rate_hz)


def volume_image(
    values: npt.NDArray[Any], shown: str, path: str | None, metadata: Mapping[str, Any] | None = None
) -> SourceImage:
    """Return the image of a volume (depth, height, width) or (channels, depth, height, width), whatever it was read of.

    `metadata` as of `SourceImage`. Raises ImageError for an array that is no volume.
    """
    voxels = checked_volume(values, shown)
    voxels.flags.writeable = False
    pixels = np.moveaxis(voxels, 0, -1)
    return SourceImage(pixels, digest_of_volume(voxels), shown, path, ready=True, metadata=metadata or {})


def as_signal(image: SourceImage) -> SourceImage:
    """Return an image that was an array of two axes as the signal that it is to a model of signals."""
    if image.is_signal or image.given is None:
        return image
    return replace(signal_image(image.given, image.shown, image.path), shown=image.shown)


def _unit(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Return pixels as float32 in 0..1."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    return pixels.astype(np.float32, copy=False)
