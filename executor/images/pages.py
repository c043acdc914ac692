"""Pages of image files: how many there are, and turning to one; frames of animations and of DICOM files are pages.

Used by `decode` for files that Pillow has opened, and where an image set takes every page of a file.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from obeql.executor.images.dicom import is_dicom, n_frames
from obeql.executor.images.locate import no_page
from obeql.executor.images.tiff_tags import is_tiff, n_tiff_pages

__all__ = ["DECODER_ERRORS", "count_pages", "n_pages", "turn_to"]

#: What Pillow's decoders raise on damaged files.
DECODER_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)

_UNREADABLE: tuple[type[Exception], ...] = (*DECODER_ERRORS, Image.DecompressionBombError)

#: Formats whose further pictures are not pages: layers, and what cameras put beside a photo.
_ONE_PAGE = frozenset({"PSD", "MPO"})


def count_pages(file: Path) -> int:
    """Return how many pages a file has; 1 where that cannot be found out, as of a file that is no image."""
    try:
        if is_tiff(file):
            return n_tiff_pages(file)
        with Image.open(file) as image:
            return n_pages(image, file)
    except UnidentifiedImageError:
        return n_frames(file) if is_dicom(file) else 1
    except _UNREADABLE:
        return 1


def n_pages(image: Image.Image, file: Path) -> int:
    """Return how many pages a file has that Pillow has opened; 1 where that cannot be found out."""
    if image.format in _ONE_PAGE or not getattr(image, "is_animated", False):
        return 1
    try:
        return n_tiff_pages(file) if image.format == "TIFF" else int(getattr(image, "n_frames", 1))
    except DECODER_ERRORS:
        return 1


def turn_to(image: Image.Image, page: int, shown: str) -> None:
    """Go to a page of an open file, counted from 1. Raises ImageError where there is none."""
    there = 1 if image.format in _ONE_PAGE else int(getattr(image, "n_frames", 1))
    if not 1 <= page <= there:
        raise no_page(shown, there)
    image.seek(page - 1)
