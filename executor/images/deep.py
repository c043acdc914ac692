"""Files with more than 8 bits a channel, which Pillow cuts to 8: color in PNG and JPEG 2000, and all of SGI.

Called by `decode` for files that Pillow has opened; TIFF files are read by `tiff`. OpenCV (the extra `deep`)
reads PNG and JPEG 2000 in full, what is not packed in SGI is read here. For all else a warning says what is lost.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from obeql.errors import install
from obeql.executor.images.upright import upright

__all__ = ["is_deep_color", "read_deep_color", "white_of"]


#: Where a JPEG 2000 stream says its size, and the depth of each channel.
_SIZE_OF_STREAM = b"\xff\x4f\xff\x51"
#: Bytes before the pixels of an SGI file.
_SGI_HEADER = 512


def is_deep_color(image: Image.Image, path: Path) -> bool:
    """Return whether an open file has more bits in a channel than the 8 that Pillow reads."""
    if image.format == "JPEG2000":
        return image.mode in ("LA", "RGB", "RGBA") and max(_depths(path), default=8) > 8
    if image.format == "SGI":
        return _sgi_bytes(path) == 2
    modes = (
        tile.args if isinstance(tile.args, str) else tile.args[0] for tile in getattr(image, "tile", ()) if tile.args
    )
    return any(isinstance(mode, str) and mode.startswith(("RGB", "LA")) and ";16" in mode for mode in modes)


def read_deep_color(path: Path, image: Image.Image) -> npt.NDArray[np.float32] | None:
    """Return the pixels (H, W, 3) or (H, W, 4) of such a file, upright, float32 in 0..1: its numbers over 65535.

    None, after a warning, where OpenCV is missing or cannot read the file: Pillow's 8 bits are then what there is.
    """
    if image.format == "SGI":
        return _read_sgi(path, image)
    try:
        import cv2  # noqa: PLC0415
    except ImportError:
        _warn(f"{path}: 16-bit color is read with 8 bits a channel; for all of them {install('deep')}")
        return None
    try:
        found = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        found = None
    fits = (
        found is not None
        and found.dtype == np.uint16
        and found.shape in {(image.height, image.width, n_channels) for n_channels in (3, 4)}
        and (image.format != "JPEG2000" or set(_depths(path)) == {16})
    )
    if found is None or not fits:
        _warn(f"{path}: 16-bit color of a kind that OpenCV does not read; 8 bits of each channel are used")
        return None
    order = [2, 1, 0, *range(3, found.shape[2])]  # OpenCV has blue first
    pixels = found[:, :, order].astype(np.float32) / np.float32(65535)
    return upright(pixels, image.getexif().get(ExifTags.Base.Orientation, 1))


def white_of(image: Image.Image, path: Path | None) -> int:
    """Return the number of white in an open file of gray with more than 8 bits, as Pillow reads it.

    Gray of JPEG 2000 with 9 to 15 bits comes shifted to 16: that of 12 bits has 4095 x 16 = 65520 for white.
    """
    depths = _depths(path) if image.format == "JPEG2000" and path is not None else []
    n_bits = depths[0] if depths and 8 < depths[0] < 16 else 16
    return ((1 << n_bits) - 1) << (16 - n_bits)


def _depths(path: Path) -> list[int]:
    """Return the bits of each channel of a JPEG 2000 file; none where it does not say."""
    content = path.read_bytes()
    at = content.find(_SIZE_OF_STREAM)
    if at < 0 or len(content) < at + 42:
        return []
    n_channels = int.from_bytes(content[at + 40 : at + 42], "big")
    return [(depth & 0x7F) + 1 for depth in content[at + 42 : at + 42 + 3 * n_channels : 3]]


def _sgi_bytes(path: Path) -> int:
    """Return the bytes of a channel of an SGI file."""
    with path.open("rb") as file:
        return file.read(4)[3]


def _read_sgi(path: Path, image: Image.Image) -> npt.NDArray[np.float32] | None:
    """Return the pixels of an SGI file that is not packed: planes of rows from the lowest up."""
    content = path.read_bytes()
    packed, n_channels = content[2] != 0, len(image.getbands())
    count = n_channels * image.height * image.width
    if packed or n_channels == 2 or len(content) < _SGI_HEADER + 2 * count:
        _warn(f"{path}: of its 16 bits a channel 8 are used, because the file is packed; save it as PNG or TIFF")
        return None
    planes = np.frombuffer(content, ">u2", count, _SGI_HEADER).reshape(n_channels, image.height, image.width)
    pixels = planes[:, ::-1].transpose(1, 2, 0).astype(np.float32) / np.float32(65535)
    return np.repeat(pixels, 3, axis=2) if n_channels == 1 else pixels


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=2)
