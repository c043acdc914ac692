"""TIFF files of more than 8 bits a sample, or with a plane for each band, which Pillow and OpenCV read wrongly.

Called by `decode` before Pillow. Both libraries scramble such files, cut them to 8 bits, swap bytes twice, or hand
over memory that was never filled. Here the samples are put together from the file's own strips and tiles; Pillow's
libtiff only unpacks these, as plain bytes. What is not known here and known to go wrong there is refused.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from obeql.errors import ImageError
from obeql.executor.images.locate import no_page
from obeql.executor.images.tiff_tags import Tag, Tags, directories
from obeql.executor.images.upright import upright
from obeql.planner.binding.image_paths import with_page

__all__ = ["TiffPixels", "read_tiff"]

Samples = npt.NDArray[Any]

_PLAIN = 1
#: Compressions that give back the bytes that went in: none, LZW, Deflate (two numbers), PackBits, LZMA, Zstandard.
_LOSSLESS = frozenset({_PLAIN, 5, 8, 32946, 32773, 34925, 50000})
#: Those of them that never hold differences, whatever the file says.
_UNPREDICTED = frozenset({_PLAIN, 32773})

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
#: How many bands make the color of a pixel.
_N_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}

_ASSOCIATED, _UNASSOCIATED = 1, 2
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_FLOATS = frozenset({16, 32, 64})

_LARGEST_TILE = 1 << 12
#: Bytes that are unpacked at once.
_PART_BYTES = 1 << 25


@dataclass(frozen=True, slots=True, eq=False)
class TiffPixels:
    """Samples of a picture, upright: `color` (H, W, 1 or 3), and `alpha` (H, W, 1) where there is an opacity.

    Both are of one type: integers as stored, or floating point. `white` is the sample of white, None for floating
    point. `weighted` says that the color is multiplied by the opacity already.
    """

    color: Samples
    alpha: Samples | None
    white: int | None
    weighted: bool


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the samples of a page lie in the file. Sizes are in samples; `segment` is the size of a strip or tile."""

    size: tuple[int, int]
    n_bands: int
    bits: int
    kind: str
    order: str
    compression: int
    photometric: int
    predictor: int
    planes: bool
    tiled: bool
    segment: tuple[int, int]
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    extra: tuple[int, ...]
    orientation: int

    @property
    def bands_together(self) -> int:
        """Bands in a strip or tile."""
        return 1 if self.planes else self.n_bands

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a strip or tile."""
        return -(-self.segment[1] * self.bands_together * self.bits // 8)

    @property
    def n_segments(self) -> int:
        """Strips or tiles of a plane."""
        return -(-self.size[0] // self.segment[0]) * -(-self.size[1] // self.segment[1])


def read_tiff(path: Path, page: int = 1) -> TiffPixels | None:
    """Return the samples of a page of a TIFF file, counted from 1; None where Pillow reads it.

    Raises ImageError for a page that is not there, a kind of file that is not read, and samples that are not in it;
    DecompressionBombError of Pillow where the picture is larger than its limit.
    """
    with path.open("rb") as file:
        n_pages, tags = 0, None
        for n_pages, tags in enumerate(directories(file), start=1):  # noqa: B007  the last number counts
            if n_pages == page:
                break
        if tags is None:
            raise ImageError(f"image '{path}' is truncated or damaged: what describes its pixels is not in the file")
        if n_pages != page:
            raise no_page(with_page(str(path), page), n_pages)
        if (layout := _layout(tags, path)) is None:
            return None
        samples = _samples(file, layout, path)
    return _meant(samples, layout, path)


# ---- how the samples lie ---------------------------------------------------------------------------------------


def _layout(tags: Tags, path: Path) -> _Layout | None:
    """Return the layout of a page.

    Return None where it is Pillow's to read. Raises ImageError where nobody reads it rightly.
    """
    size = tags.one(Tag.LENGTH, 0), tags.one(Tag.WIDTH, 0)
    n_bands = tags.one(Tag.N_SAMPLES, 1)
    bits, kind = _all(tags.values.get(Tag.BITS, (1,))), _all(tags.values.get(Tag.FORMAT, (1,)))
    compression, photometric = tags.one(Tag.COMPRESSION, _PLAIN), tags.one(Tag.PHOTOMETRIC, -1)
    planes = tags.one(Tag.PLANAR, 1) == 2 and n_bands > 1
    if min(*size, n_bands) < 1 or _pillow_reads(tags, bits, kind, photometric, planes, n_bands):
        return None
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and (size[0] * size[1] > limit or size[0] * size[1] * n_bands > 8 * limit):
        raise Image.DecompressionBombError
    if bits is None or kind is None or kind not in _KINDS:
        raise _refused(path, "its bands have different sizes, or numbers that are not real")
    if compression not in _LOSSLESS:
        what = "a plane for each band" if bits <= 8 else f"{bits} bits a sample"
        raise _refused(path, f"it has {what} and the compression number {compression}")
    if photometric not in _N_COLOURS or n_bands < _N_COLOURS[photometric]:
        raise _refused(path, f"it has {bits} bits a sample and colors of kind {photometric}")
    if bits not in _FLOATS if _KINDS[kind] == "f" else not (8 <= bits <= 16 or bits in (32, 64)):
        raise _refused(path, f"it has numbers of {bits} bits")
    predictor = 1 if compression in _UNPREDICTED else tags.one(Tag.PREDICTOR, 1)
    if predictor not in (1, 2, 3) or (predictor != 1 and bits % 8) or (predictor == 3 and _KINDS[kind] != "f"):
        raise _refused(path, f"its samples are predicted in the way number {predictor} from {bits} bits")
    if tags.one(Tag.FILL_ORDER, 1) != 1:
        raise _refused(path, "the bits of its bytes stand in the opposite order")
    tiled = Tag.TILE_OFFSETS in tags.values
    if tiled:
        segment = tags.one(Tag.TILE_LENGTH, 0), tags.one(Tag.TILE_WIDTH, 0)
    else:
        segment = min(tags.one(Tag.ROWS_PER_STRIP, size[0]), size[0]), size[1]
    if min(segment) < 1 or max(segment) > max(*size, _LARGEST_TILE):
        return None
    return _Layout(
        size,
        n_bands,
        bits,
        _KINDS[kind],
        tags.order,
        compression,
        photometric,
        predictor,
        planes,
        tiled,
        segment,
        tags.values.get(Tag.TILE_OFFSETS if tiled else Tag.STRIP_OFFSETS, ()),
        tags.values.get(Tag.TILE_COUNTS if tiled else Tag.STRIP_COUNTS, ()),
        tags.values.get(Tag.EXTRA, ()),
        tags.one(Tag.ORIENTATION, 1),
    )


def _all(values: Sequence[int]) -> int | None:
    """Return the one number that all of `values` are; None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _pillow_reads(tags: Tags, bits: int | None, kind: int | None, photometric: int, planes: bool, n_bands: int) -> bool:
    """Return whether Pillow is right, or says itself what is wrong: up to 8 bits, bands side by side."""
    if bits is None or bits > 8 or planes or kind in (2, 3) or (tags.big and tags.order == ">"):
        return False
    # Gray with an opacity that it is multiplied by, and several further bands, are beyond Pillow.
    n_colors = _N_COLOURS.get(photometric, n_bands)
    return not (bits == 8 and n_bands > (1 if n_colors == 1 else n_colors + 1))


def _refused(path: Path, why: str) -> ImageError:
    return ImageError(f"'{path}' is a TIFF file of a kind that is not read: {why}; save it with 8 or 16 bits, unpacked")


# ---- the samples -------------------------------------------------------------------------------------------------


def _samples(file: BinaryIO, layout: _Layout, path: Path) -> Samples:
    """Return every sample of a page, (H, W, bands), as stored."""
    n_planes = layout.n_bands if layout.planes else 1
    n_bytes = file.seek(0, io.SEEK_END)
    counts = layout.counts
    if not counts and len(layout.offsets) == n_planes == 1 and layout.compression == _PLAIN:
        counts = (layout.row_bytes * layout.size[0],)  # old writers leave the length out
    wanted = layout.n_segments * n_planes
    places = list(zip(layout.offsets, counts, strict=False))[:wanted]
    if len(places) < wanted or any(offset + count > n_bytes or not count for offset, count in places):
        raise ImageError(f"image '{path}' is truncated: the file ends before its last pixel")
    per_plane = layout.n_segments
    planes = [_plane(file, layout, places[first : first + per_plane], path) for first in range(0, wanted, per_plane)]
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def _plane(file: BinaryIO, layout: _Layout, places: Sequence[tuple[int, int]], path: Path) -> Samples:
    """Return the samples of one plane, (H, W, bands together)."""
    (height, width), (high, wide), n_bands = layout.size, layout.segment, layout.bands_together
    n_across = -(-width // wide)
    found: Samples | None = None
    per_part = max(1, _PART_BYTES // (high * layout.row_bytes))
    for first in range(0, len(places), per_part):
        part = places[first : first + per_part]
        rows = [high if layout.tiled else min(high, height - place * high) for place in range(first, first + len(part))]
        unpacked = _unpacked(file, part, rows, layout, path)
        samples = _numbers(unpacked, layout)
        if found is None:
            found = np.empty((height, width, n_bands), samples.dtype)
        start = 0
        for place, n_rows in enumerate(rows, start=first):
            top, left = place // n_across * high, place % n_across * wide
            box = found[top : top + n_rows, left : left + wide]
            box[:] = samples[start : start + box.shape[0], : box.shape[1]]
            start += n_rows
    assert found is not None
    return found


def _unpacked(
    file: BinaryIO, places: Sequence[tuple[int, int]], rows: Sequence[int], layout: _Layout, path: Path
) -> npt.NDArray[np.uint8]:
    """Return the bytes of some strips or tiles, one below the other, (rows, bytes of a row)."""
    packed = []
    for offset, count in places:
        file.seek(offset)
        packed.append(file.read(count))
    shape = sum(rows), layout.row_bytes
    if layout.compression == _PLAIN:
        if any(len(each) < n_rows * shape[1] for each, n_rows in zip(packed, rows, strict=True)):
            raise ImageError(f"image '{path}' is truncated: the file ends before its last pixel")
        plain = b"".join(each[: n_rows * shape[1]] for each, n_rows in zip(packed, rows, strict=True))
        return np.frombuffer(plain, np.uint8).reshape(shape)
    try:
        with TiffImageFile(io.BytesIO(_as_bytes(packed, rows[0], shape, layout.compression))) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:
        raise ImageError(f"image '{path}' is damaged: its strips or tiles cannot be unpacked ({error})") from None


def _as_bytes(packed: Sequence[bytes], n_rows: int, shape: tuple[int, int], compression: int) -> bytes:
    """Return a TIFF file of 8-bit gray, (H, W) `shape`, whose samples are the bytes of `packed` strips of `n_rows`."""
    starts = np.cumsum([0, *map(len, packed)])[:-1]
    n_tags, n_strips = 9, len(packed)
    lists = 8 + 2 + 12 * n_tags + 4
    data = lists + 8 * n_strips
    listed = [(starts + data).astype("<u4").tobytes(), np.array([len(each) for each in packed], "<u4").tobytes()]
    if n_strips == 1:
        where = [int(starts[0]) + data, len(packed[0])]
    else:
        where = [lists, lists + 4 * n_strips]
    tags = (
        (Tag.WIDTH, 1, shape[1]),
        (Tag.LENGTH, 1, shape[0]),
        (Tag.BITS, 1, 8),
        (Tag.COMPRESSION, 1, compression),
        (Tag.PHOTOMETRIC, 1, _BLACK_IS_ZERO),
        (Tag.STRIP_OFFSETS, n_strips, where[0]),
        (Tag.N_SAMPLES, 1, 1),
        (Tag.ROWS_PER_STRIP, 1, n_rows),
        (Tag.STRIP_COUNTS, n_strips, where[1]),
    )
    head = (
        b"II*\0" + struct.pack("<IH", 8, n_tags) + b"".join(struct.pack("<HHII", tag, 4, *rest) for tag, *rest in tags)
    )
    return b"".join((head, bytes(4), *listed, *packed))


def _numbers(unpacked: npt.NDArray[np.uint8], layout: _Layout) -> Samples:
    """Return bytes (rows, bytes of a row) as samples (rows, segment's width, bands together), predictions undone."""
    n_rows, n_bands = len(unpacked), layout.bands_together
    shape = n_rows, layout.segment[1], n_bands
    if layout.bits % 8:
        bits = np.unpackbits(unpacked, axis=1)[:, : shape[1] * n_bands * layout.bits].reshape(*shape, layout.bits)
        weights = (1 << np.arange(layout.bits - 1, -1, -1)).astype(np.uint32)
        return np.asarray(bits @ weights, np.uint16)
    n_bytes = layout.bits // 8
    if layout.predictor == 3:  # differences of bytes, those of equal weight side by side, the heaviest first
        summed = np.cumsum(unpacked.reshape(n_rows, -1, n_bands), axis=1, dtype=np.uint8).reshape(n_rows, n_bytes, -1)
        return summed.transpose(0, 2, 1).copy().view(f">f{n_bytes}").astype(f"=f{n_bytes}").reshape(shape)
    whole = np.ascontiguousarray(unpacked).view(f"{layout.order}u{n_bytes}").astype(f"=u{n_bytes}").reshape(shape)
    if layout.predictor == 2:
        whole = np.cumsum(whole, axis=1, dtype=whole.dtype)
    return whole.view(f"={layout.kind}{n_bytes}")


# ---- what the samples mean ---------------------------------------------------------------------------------------


def _meant(samples: Samples, layout: _Layout, path: Path) -> TiffPixels:
    n_colors = _N_COLOURS[layout.photometric]
    n_extra = layout.n_bands - n_colors
    extra = layout.extra
    if not extra and n_extra == 1 and n_colors == 3:
        extra = (_UNASSOCIATED,)  # what four bands of a file that does not say more are everywhere
    if n_colors == 1 and n_extra > 1:
        raise ImageError(
            f"'{path}' is a TIFF file of {layout.n_bands} bands that does not say which of them are red, green and "
            "blue; save it as RGB"
        )
    opacity = next((place for place, kind in enumerate(extra[:n_extra]) if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
    white = None if layout.kind == "f" else _white(samples[:, :, :n_colors], layout, path)
    upper = 1 if white is None else white
    color = samples[:, :, :n_colors]
    if layout.photometric == _WHITE_IS_ZERO:
        color = np.asarray(upper - color, samples.dtype)
    elif layout.photometric == _CMYK:
        unit = color.astype(np.float64) / upper
        color = np.asarray((1 - unit[:, :, :3]) * (1 - unit[:, :, 3:]), np.float32)
        if opacity is not None:
            samples = np.asarray(samples / upper, np.float32)
        white = None
    alpha = None if opacity is None else samples[:, :, n_colors + opacity, None]
    return TiffPixels(
        upright(color, layout.orientation),
        None if alpha is None else upright(alpha, layout.orientation),
        white,
        opacity is not None and extra[opacity] == _ASSOCIATED,
    )


def _white(color: Samples, layout: _Layout, path: Path) -> int:
    """Return the sample of white. Raises ImageError where integers have no agreed one.

    It is the largest number of the bits, up to 16 without a sign. Wider and signed integers, which no standard gives
    a white, are those of 8 or 16 bits written so, by what is in them.
    """
    if layout.kind == "u" and layout.bits <= 16:
        return int((1 << layout.bits) - 1)
    low, high = int(color.min()), int(color.max())
    if low < 0 or high > 65535:
        signed = "signed " if layout.kind == "i" else ""
        raise ImageError(
            f"image '{path}' has {signed}{layout.bits}-bit integer pixels from {low} to {high}, which have no agreed "
            "white; scale them to 0..1 and pass the array"
        )
    return 255 if high <= 255 else 65535
