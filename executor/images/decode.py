"""From a file, PIL image, array or tensor to RGB pixels with an identity.

Comes after the images of a statement are known and before `preprocess`; `pillow`, `tiff`, `deep` and `dicom` read the
files. The digest of the pixels is the image's identity in the store, so that a renamed or copied file keeps its heat
maps.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from obeql.errors import ImageError
from obeql.executor.images.deep import is_deep_color, read_deep_color, white_of
from obeql.executor.images.dicom import is_dicom, read_dicom
from obeql.executor.images.locate import missing_file
from obeql.executor.images.pages import DECODER_ERRORS, n_pages, turn_to
from obeql.executor.images.signals import (
    ARRAY_SUFFIXES,
    SOUND_SUFFIXES,
    checked,
    digest_of,
    read_array,
    read_sound,
    signal_picture,
)
from obeql.executor.images.tiff import TiffPixels, read_tiff
from obeql.executor.images.tiff_tags import is_tiff, n_tiff_pages
from obeql.executor.images.volume_files import read_volume
from obeql.executor.images.volumes import checked_volume, digest_of_volume, middle_slice
from obeql.planner.binding.image_paths import as_text, file_of, split_frames, split_page
from obeql.planner.input_kinds import InputKind, kind_of

__all__ = ["Pixels", "SourceFacts", "SourceImage", "as_signal", "decode_file", "decode_object", "volume_image"]

Pixels = npt.NDArray[np.uint8 | np.float32]

#: Formats for which Pillow runs another program (Ghostscript) on the file, or asks the system to draw it.
_RUNS_PROGRAMS = frozenset({"EPS", "WMF"})

#: Float pixels may leave 0..1 by this much, as rounding makes them; they are clipped.
_ROUNDING = 1e-6

#: Spatial axes of volumes and clips
_VOLUME_AXES = 3

#: TIFF's tag that says whether zero is black (1) or white (0)
_PHOTOMETRIC = 262

_ARRAYS = "(H, W), (H, W, 1), (H, W, 3), (H, W, 4) or (C, H, W)"


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
        """(height, width) in pixels, of a signal (1, length), of a volume (depth, height, width)."""
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


def decode_file(path: str | Path, n_axes: int | None = None) -> SourceImage:
    """Decode an image file that Pillow can read, a TIFF file of more than 8 bits, a DICOM file, or a signal.

    Sound files are signals. Arrays in .npy and .npz files are what a model of `n_axes` takes, a signal where that is
    1, a volume where it is 3; None: an image where they can be one.

    The EXIF orientation is applied. Transparent pixels are laid over white, which is what viewers, browsers and
    paper show; bands beyond the colors that are no opacity are left out. Palettes, 1-bit, CMYK and gray with alpha
    become RGB; 16-bit gray is divided by 65535 and keeps its precision, and so does 16-bit color of TIFF files, and of
    others where `deep.read_deep_color` can read it. Color profiles are not applied. DICOM files are shown as
    `dicom.read_dicom` says. Of an animation, a stack or a DICOM file of several frames the first picture is taken, or
    the one that the path names: `stack.tif#page=3`, counted from 1.

    To a model of three axes NIfTI files, DICOM series, stacks, videos and folders of slices are volumes, as
    `volume_files` reads them.

    Raises ImageError for a file that is missing, empty, a folder, no image, damaged, of a kind that cannot be read
    rightly, larger than Pillow's limit, or without the page.
    """
    found, page = split_page(str(path))
    if n_axes == _VOLUME_AXES and (volume := _volume_file(found, page, str(path))) is not None:
        return volume
    file = _existing(Path(file_of(found)))
    shown = as_text(str(path) if page is not None else str(file))
    suffix = file.suffix.lower()
    if suffix in SOUND_SUFFIXES:
        samples, rate = read_sound(file, shown)
        return _signal(samples, shown, shown, rate)
    if suffix in ARRAY_SUFFIXES:
        return replace(_of_array(read_array(file, shown), shown, False, n_axes), path=shown)
    try:
        return _decode_known(file, shown, page)
    except UnidentifiedImageError:
        raise ImageError(f"'{shown}' {_why_unreadable(file)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(shown) from None
    except PermissionError:
        raise ImageError(f"image '{shown}' may not be read (permission denied)") from None
    except DECODER_ERRORS as error:
        raise _damaged(shown, error) from None


def _volume_file(found: str, page: int | None, path: str) -> SourceImage | None:
    """Return the volume of a file or folder, or of some frames of a clip; None of what is no volume by its kind."""
    found, frames = split_frames(found)
    try:
        file = Path(file_of(found)).expanduser()
        if not file.exists():
            return None
    except (OSError, RuntimeError, ValueError):  # which `_existing` words
        return None
    shown = as_text(path)
    read = read_volume(file, shown, page, frames, lambda picture: decode_file(picture).unit_pixels())
    if read is None:
        return None
    voxels, metadata = read
    series_uid = metadata.pop("series_uid", None)
    return replace(volume_image(voxels, shown, shown, metadata), series_uid=series_uid)


def _decode_known(file: Path, shown: str, page: int | None) -> SourceImage:
    """Decode a file by its own reader or by Pillow, or as DICOM where it has that mark; raises what they raise."""
    if is_tiff(file):
        samples = read_tiff(file, 1 if page is None else page)
        if samples is not None:
            there = n_tiff_pages(file) if page is None else 1
            return replace(_finish(_of_tiff(samples, shown), shown, shown, ready=False), n_pages=there)
    try:
        with Image.open(file, formats=_formats()) as image:
            there = n_pages(image, file) if page is None else 1
            if page is not None and page != 1:
                turn_to(image, page, shown)
            return replace(_decode_pil(image, shown, file), n_pages=there)
    except UnidentifiedImageError:
        if not is_dicom(file):
            raise
    pixels, facts = read_dicom(file, page)
    return replace(_finish(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), shown, shown, ready=False), **facts)


def _of_tiff(samples: TiffPixels, shown: str) -> Pixels:
    """RGB pixels (H, W, 3) of a TIFF file's samples, laid over white where they have an opacity."""
    scaled = [_scaled(each, samples.white, shown) for each in (samples.color, samples.alpha) if each is not None]
    color = np.broadcast_to(scaled[0], (*scaled[0].shape[:2], 3))
    if samples.alpha is None:
        return color
    if not samples.weighted:
        return _over_white(np.concatenate([color, scaled[1]], axis=2))
    if color.dtype == np.uint8:
        return np.asarray(np.minimum(color.astype(np.int32) + (255 - scaled[1].astype(np.int32)), 255), np.uint8)
    return np.asarray(np.minimum(color + (1 - scaled[1]), 1), np.float32)


def _scaled(samples: npt.NDArray[Any], white: int | None, shown: str) -> Pixels:
    if white is None:
        return _standard_dtype(samples, shown)
    if white == 255:
        return samples.astype(np.uint8)
    return np.asarray(np.clip(samples.astype(np.float32) / np.float32(white), 0, 1), np.float32)


def _existing(path: Path) -> Path:
    try:
        path = path.expanduser()
        if path.is_dir():
            raise ImageError(f"image '{path}' is a folder; name a file in it, or all of them with '{path / '*'}'")
        if not path.is_file():
            raise missing_file(path)
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such ~user, NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"image '{path}' cannot be opened: {reason}") from None
    return path


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that Pillow decodes by itself."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _RUNS_PROGRAMS)


def decode_object(obj: Any, key: str, n_axes: int | None = 2) -> SourceImage:
    """Decode an image or a signal handed over from Python, called `key` in messages.

    Arrays are what a model of `n_axes` takes: where that is 1, signals (length) or (channels, length), where it is 3,
    volumes (depth, height, width) or (channels, depth, height, width); None, images where they can be one, else signals
    or volumes.

    Takes a PIL image (treated as a file is), a path, or a numpy array or torch tensor of shape (H, W), (H, W, 1),
    (H, W, 3), (H, W, 4) or (C, H, W) with C = 1, 3, 4: uint8, uint16, bool, or floating point in 0..1. Where a shape
    can be read both ways, channels are last in an array and first in a tensor. Channels are R, G, B(, alpha).

    Raises ImageError for any other type, shape, dtype, an empty array, NaN, infinity, or values outside 0..1.
    """
    if isinstance(obj, (str, Path)):
        return decode_file(obj, n_axes)
    if isinstance(obj, Image.Image):
        try:
            if (file := _unread_tiff(obj)) is not None and (samples := read_tiff(file, obj.tell() + 1)) is not None:
                return _finish(_of_tiff(samples, key), key, None, ready=False)
            return _decode_pil(obj, key, None)
        except DECODER_ERRORS as error:
            raise _damaged(key, error) from None
    channels_first = False
    # A tensor can only exist once torch has been imported, so torch need not be imported to recognize one.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(obj, torch.Tensor):
        channels_first = True
        tensor = obj.detach().cpu()
        obj = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if n_axes == 1 and isinstance(obj, list):
        return _signal(obj, key, None)
    if not isinstance(obj, np.ndarray):
        raise ImageError(
            f"image '{key}' is a {type(obj).__name__}; allowed are a path, a PIL image, a numpy array and a tensor"
        )
    return _of_array(obj, key, channels_first, n_axes)


def as_signal(image: SourceImage) -> SourceImage:
    """Return an image that was an array of two axes as the signal that it is to a model of signals."""
    if image.is_signal or image.given is None:
        return image
    return replace(_signal(image.given, image.shown, image.path), shown=image.shown)


def _of_array(array: npt.NDArray[Any], key: str, channels_first: bool, n_axes: int | None) -> SourceImage:
    if n_axes == 1 or (n_axes is None and array.ndim == 1):
        return _signal(array, key, None)
    if n_axes == 3 or (n_axes is None and array.ndim == 4):
        return volume_image(array, key, None)
    try:
        pixels = _standard_dtype(_channels_last(array, key, channels_first), key)
    except ImageError:
        looks_like_image = array.ndim == 3 and bool({array.shape[0], array.shape[-1]} & {1, 3, 4})
        if n_axes is not None or array.ndim not in (2, 3) or looks_like_image:
            raise
        return _signal(array, key, None) if array.ndim == 2 else volume_image(array, key, None)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    elif pixels.shape[2] == 4:
        pixels = _over_white(pixels)
    given = np.array(array) if array.ndim == 2 else None
    return replace(_finish(pixels, key, None, ready=True), given=given)


def _signal(values: Any, shown: str, path: str | None, rate_hz: float | None = None) -> SourceImage:
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


def _unread_tiff(image: Image.Image) -> Path | None:
    """Return the file of a TIFF that Pillow has opened and not read yet: it would not read every kind rightly."""
    name = getattr(image, "filename", "")
    if image.format != "TIFF" or not name or not getattr(image, "tile", ()):
        return None
    file = Path(os.fsdecode(name))
    return file if file.is_file() else None


def _decode_pil(image: Image.Image, shown: str, file: Path | None) -> SourceImage:
    path = None if file is None else shown
    if 0 in image.size:
        raise ImageError(f"image '{shown}' has no pixels: it is {image.height} x {image.width} (height x width)")
    limit = Image.MAX_IMAGE_PIXELS
    # For sizes between one and two times the limit Pillow only warns.
    if path is not None and limit is not None and image.width * image.height > limit:
        raise _too_large(shown)
    if file is not None and is_deep_color(image, file):
        image.load()  # which finds damage that OpenCV does not tell of
        if (deep := read_deep_color(file, image)) is not None:
            return _finish(_over_white(deep) if deep.shape[2] == 4 else deep, shown, path, ready=False)
    # Pillow turns 8-bit TIFFs whose zero is white, and hands 16-bit ones over as they are.
    turned = image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    pixels = _rgb(ImageOps.exif_transpose(image), shown, image.format, white_of(image, file))
    return _finish(1 - pixels if turned else pixels, shown, path, ready=False)


def _rgb(image: Image.Image, shown: str, form: str | None, white: int) -> Pixels:
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
        return np.repeat(_standard_dtype(np.asarray(image)[:, :, None], shown), 3, axis=2)
    if image.has_transparency_data or mode in ("La", "RGBa"):
        return _over_white(np.asarray(image.convert("RGBA")))
    try:
        return np.array(image if mode == "RGB" else image.convert("RGB"))
    except ValueError:
        raise ImageError(f"image '{shown}' has pixels of mode {mode}, which cannot be turned into RGB") from None


def _over_white(rgba: npt.NDArray[Any]) -> Pixels:
    """Lay (H, W, 4) pixels over white; opaque pixels keep their exact values."""
    if rgba.dtype == np.uint8:
        color, alpha = rgba[:, :, :3].astype(np.uint32), rgba[:, :, 3:].astype(np.uint32)
        return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    alpha = rgba[:, :, 3:]
    return np.asarray(rgba[:, :, :3] * alpha + (1 - alpha), np.float32)


def _channels_last(array: npt.NDArray[Any], key: str, channels_first: bool) -> npt.NDArray[Any]:
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


def _standard_dtype(array: npt.NDArray[Any], key: str) -> Pixels:
    """uint8 stays; uint16 and floating point become float32 in 0..1; anything else is an error."""
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


def _unit(pixels: Pixels) -> npt.NDArray[np.float32]:
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    return pixels.astype(np.float32, copy=False)


def _finish(pixels: Pixels, shown: str, path: str | None, *, ready: bool) -> SourceImage:
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


def _too_large(shown: str) -> ImageError:
    limit = Image.MAX_IMAGE_PIXELS
    return ImageError(
        f"image '{shown}' has more than {limit} pixels, Pillow's limit against decompression bombs; "
        "set PIL.Image.MAX_IMAGE_PIXELS higher if you trust the file"
    )


def _damaged(shown: str, error: BaseException) -> ImageError:
    reason = str(error).strip() or type(error).__name__
    if "truncated" in reason.lower() or isinstance(error, EOFError):
        return ImageError(f"image '{shown}' is truncated: the file ends before its last pixel")
    return ImageError(f"image '{shown}' is damaged: {reason}")


def _why_unreadable(path: Path) -> str:
    if path.stat().st_size == 0:
        return "is empty (0 bytes)"
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6", b"\xd7\xcd\xc6\x9a")):
        return "is a drawing (EPS or WMF), which other programs would have to run; save it as PNG"
    return "is not an image that Pillow or pydicom can read (PNG, JPEG, TIFF, BMP, GIF, WebP, DICOM and others)"
