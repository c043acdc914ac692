"""From a file, PIL image, array or tensor to a `SourceImage`.

Comes after the images of a statement are known and before `preprocess`; Pillow, `tiff`, `deep`, `dicom`, `signals` and
`volume_files` read the files, and `pixels` makes RGB of what they give.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
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
from obeql.executor.images.pixels import (
    channels_last,
    over_white,
    rgb_pixels,
    standard_dtype,
    tiff_pixels,
)
from obeql.executor.images.signals import ARRAY_SUFFIXES, SOUND_SUFFIXES, read_array, read_sound
from obeql.executor.images.source_image import SourceImage, picture_image, signal_image, volume_image
from obeql.executor.images.tiff import read_tiff
from obeql.executor.images.tiff_tags import is_tiff, n_tiff_pages
from obeql.executor.images.volume_files import read_volume
from obeql.planner.binding.image_paths import as_text, file_of, split_frames, split_page

__all__ = ["decode_file", "decode_object"]

#: Formats for which Pillow runs another program (Ghostscript) on the file, or asks the system to draw it.
_RUNS_PROGRAMS = frozenset({"EPS", "WMF"})

#: Spatial axes of volumes and clips
_VOLUME_AXES = 3

#: TIFF's tag that says whether zero is black (1) or white (0)
_PHOTOMETRIC = 262


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
        return signal_image(samples, shown, shown, rate)
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
            return replace(picture_image(tiff_pixels(samples, shown), shown, shown, ready=False), n_pages=there)
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
    return replace(picture_image(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), shown, shown, ready=False), **facts)


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
                return picture_image(tiff_pixels(samples, key), key, None, ready=False)
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
        return signal_image(obj, key, None)
    if not isinstance(obj, np.ndarray):
        raise ImageError(
            f"image '{key}' is a {type(obj).__name__}; allowed are a path, a PIL image, a numpy array and a tensor"
        )
    return _of_array(obj, key, channels_first, n_axes)


def _of_array(array: npt.NDArray[Any], key: str, channels_first: bool, n_axes: int | None) -> SourceImage:
    if n_axes == 1 or (n_axes is None and array.ndim == 1):
        return signal_image(array, key, None)
    if n_axes == 3 or (n_axes is None and array.ndim == 4):
        return volume_image(array, key, None)
    try:
        pixels = standard_dtype(channels_last(array, key, channels_first), key)
    except ImageError:
        looks_like_image = array.ndim == 3 and bool({array.shape[0], array.shape[-1]} & {1, 3, 4})
        if n_axes is not None or array.ndim not in (2, 3) or looks_like_image:
            raise
        return signal_image(array, key, None) if array.ndim == 2 else volume_image(array, key, None)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    elif pixels.shape[2] == 4:
        pixels = over_white(pixels)
    given = np.array(array) if array.ndim == 2 else None
    return replace(picture_image(pixels, key, None, ready=True), given=given)


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
            return picture_image(over_white(deep) if deep.shape[2] == 4 else deep, shown, path, ready=False)
    # Pillow turns 8-bit TIFFs whose zero is white, and hands 16-bit ones over as they are.
    turned = image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    pixels = rgb_pixels(ImageOps.exif_transpose(image), shown, image.format, white_of(image, file))
    return picture_image(1 - pixels if turned else pixels, shown, path, ready=False)


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
