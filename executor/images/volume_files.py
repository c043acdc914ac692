"""From a file or folder to the voxels of a volume or clip, and what is known of them beside their values.

Called by `decode` for models of three axes; `nifti`, `dicom_series` and `clips` read their own files, `pages` of TIFF
files are read here. Values are those of the source; colors of clips are in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from obeql.errors import ImageError
from obeql.executor.images.clips import VIDEO_SUFFIXES, read_frames, read_video
from obeql.executor.images.dicom import is_dicom
from obeql.executor.images.dicom_series import read_series
from obeql.executor.images.locate import natural_key
from obeql.executor.images.locate_volumes import is_slice
from obeql.executor.images.nifti import NIFTI_SUFFIXES, read_nifti
from obeql.executor.images.pages import DECODER_ERRORS
from obeql.executor.images.tiff_tags import is_tiff, n_tiff_pages
from obeql.executor.images.volume_limits import require_small_volume
from obeql.planner.binding.image_paths import Frames

__all__ = ["read_volume"]

_UNREADABLE: tuple[type[Exception], ...] = (*DECODER_ERRORS, Image.DecompressionBombError)

#: Modes of Pillow whose values are handed over as they are.
_PLAIN = frozenset({"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})


def read_volume(
    path: Path, shown: str, page: int | None, frames: Frames, decode: Callable[[Path], npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[Any], dict[str, Any]] | None:
    """Return the voxels of a file or folder, (depth, height, width) or (channels, depth, height, width), and metadata.

    `page` and `frames` are what its path says behind `#`; `decode` reads a picture, RGB (height, width, 3) in 0..1.
    None of a file that is of no kind of volumes. Raises ImageError for one that cannot be read.
    """
    name = path.name.lower()
    if path.is_dir():
        return _read_folder(path, shown, frames, decode)
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        _refuse_frames(frames, shown)
    if name.endswith(NIFTI_SUFFIXES):
        return read_nifti(path, shown, page)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return read_video(path, shown, frames)
    if is_dicom(path):  # some begin as a TIFF file does, for viewers of these
        return read_series(path, shown)
    if is_tiff(path):
        return _read_pages(path, shown), {}
    return None


def _read_folder(
    path: Path, shown: str, frames: Frames, decode: Callable[[Path], npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    files = [child for child in path.iterdir() if child.is_file() and not child.name.startswith(".")]
    if any(is_dicom(file) for file in files):
        _refuse_frames(frames, shown)
        return read_series(path, shown)
    pictures = sorted((file for file in files if is_slice(file)), key=natural_key)
    if not pictures:
        raise ImageError(f"'{shown}' is a folder without DICOM files and pictures: no volume can be made of it")
    return read_frames(pictures, shown, frames, decode)


def _refuse_frames(frames: Frames, shown: str) -> None:
    if frames != Frames():
        raise ImageError(
            f"'{shown}' is no clip: {', '.join(Frames.names())} choose frames of videos and of folders of pictures"
        )


def _read_pages(path: Path, shown: str) -> npt.NDArray[np.float32]:
    """Return the pages of a TIFF file as its planes, gray (pages, height, width) or RGB (3, pages, height, width)."""
    n_pages = n_tiff_pages(path)
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            size, plain = image.size, image.mode in _PLAIN
            n_channels = 1 if plain else 3
            require_small_volume((n_channels, n_pages, size[1], size[0]), shown)
            voxels = np.empty((n_channels, n_pages, size[1], size[0]), np.float32)
            for number in range(n_pages):
                image.seek(number)
                if image.size != size or (image.mode in _PLAIN) != plain:
                    now = f"{image.size[1]}x{image.size[0]} {image.mode} (page {number + 1})"
                    raise ImageError(f"the pages of '{shown}' differ: {size[1]}x{size[0]} (page 1) and {now}")
                one = np.asarray(image if plain else image.convert("RGB"), np.float32)
                voxels[:, number] = one if plain else one.transpose(2, 0, 1)
    except ImageError:
        raise
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImageError(f"'{shown}' cannot be read as a stack of pages: {reason}") from None
    return voxels[0] if plain else voxels
