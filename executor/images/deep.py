"""Files of 16 bits a channel in color, which Pillow cuts to 8: read in full with OpenCV (`pip install "obeql[deep]"`).

Called by `decode` for files that Pillow has opened; TIFF files are read by `tiff`. Without OpenCV a warning says what
is lost.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from obeql.executor.images.upright import upright

__all__ = ["is_deep_color", "read_deep_color"]


def is_deep_color(image: Image.Image) -> bool:
    """Return whether an open file has 16 bits in each channel of several; Pillow reads 8 of them."""
    modes = (
        tile.args if isinstance(tile.args, str) else tile.args[0] for tile in getattr(image, "tile", ()) if tile.args
    )
    return any(isinstance(mode, str) and mode.startswith(("RGB", "LA")) and ";16" in mode for mode in modes)


def read_deep_color(path: Path, image: Image.Image) -> npt.NDArray[np.float32] | None:
    """Return the pixels (H, W, 3) or (H, W, 4) of such a file, upright, float32 in 0..1: its numbers over 65535.

    None, after a warning, where OpenCV is missing or cannot read the file: Pillow's 8 bits are then what there is.
    """
    try:
        import cv2  # noqa: PLC0415
    except ImportError:
        _warn(f'{path}: 16-bit color is read with 8 bits a channel; for all of them: pip install "obeql[deep]"')
        return None
    try:
        found = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        found = None
    if found is None or found.dtype != np.uint16 or found.ndim != 3 or found.shape[:2] != (image.height, image.width):
        _warn(f"{path}: 16-bit color of a kind that OpenCV does not read; 8 bits of each channel are used")
        return None
    order = [2, 1, 0, *range(3, found.shape[2])]  # OpenCV has blue first
    pixels = found[:, :, order].astype(np.float32) / np.float32(65535)
    return upright(pixels, image.getexif().get(ExifTags.Base.Orientation, 1))


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=2)
