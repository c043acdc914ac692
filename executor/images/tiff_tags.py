"""The tags of TIFF files: what each of its pages says of its pixels, as plain numbers.

Read before `tiff`, which puts the pixels together. BigTIFF files and both orders of bytes are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

__all__ = ["Tag", "Tags", "directories", "is_tiff", "n_tiff_pages"]

_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Tag(IntEnum):
    """Tags of the TIFF specification that count here."""

    NEW_SUBFILE_TYPE = 254
    WIDTH = 256
    LENGTH = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    N_SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_COUNTS = 279
    PLANAR = 284
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_COUNTS = 325
    EXTRA = 338
    FORMAT = 339


_TAGS = frozenset(map(int, Tag))
#: Types of whole numbers, and how `struct` calls them.
_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
#: Bits of a page's kind that say that it is a smaller copy, or a mask.
_REDUCED_OR_MASK = 0b101

#: Pages are linked; a file that links them in a circle, or without end, is cut here.
_MOST_PAGES = 100_000
#: Likewise tags of a page, and values of one.
_MOST_TAGS, _MOST_VALUES = 4096, 1 << 22


@dataclass(frozen=True, slots=True)
class Tags:
    """What the tags of a page say, those of `Tag`; the order of the file's bytes, and whether it is a BigTIFF."""

    values: Mapping[int, tuple[int, ...]]
    order: str
    big: bool

    def one(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        return int((self.values.get(tag) or (default,))[0])


def is_tiff(path: Path) -> bool:
    """Return whether a file begins as a TIFF file does."""
    with path.open("rb") as file:
        return file.read(4) in _MARKS


def n_tiff_pages(path: Path) -> int:
    """Return how many pages a TIFF file has; 1 where all but the first are smaller copies of it, or masks."""
    n_pages, n_full = 0, 0
    with path.open("rb") as file:
        for n_pages, tags in enumerate(directories(file), start=1):
            n_full += n_pages > 1 and not tags.one(Tag.NEW_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK
    return n_pages if n_full else 1


def directories(file: BinaryIO) -> Iterator[Tags]:
    """Yield the tags of each page, as far as they can be read."""
    header = file.read(16)
    order = "<" if header[:2] == b"II" else ">"
    big = b"+" in header[2:4]
    (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", header.ljust(16, b"\0"), 8 if big else 4)
    seen: set[int] = set()
    while start and start not in seen and len(seen) < _MOST_PAGES:
        seen.add(start)
        try:
            tags, start = _directory(file, start, order, big)
        except (OSError, struct.error, ValueError, OverflowError):
            return
        yield tags


def _directory(file: BinaryIO, start: int, order: str, big: bool) -> tuple[Tags, int]:
    """Return the tags at a place of the file, and the place of the next page's; 0 after the last."""
    offset = "Q" if big else "I"
    count, entry = (8, struct.Struct(f"{order}HHQ8s")) if big else (2, struct.Struct(f"{order}HHI4s"))
    file.seek(start)
    (n_entries,) = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(count))
    body = file.read(min(n_entries, _MOST_TAGS) * entry.size)
    (after,) = struct.unpack(f"{order}{offset}", file.read(8 if big else 4).ljust(8 if big else 4, b"\0"))
    values: dict[int, tuple[int, ...]] = {}
    for tag, kind, n_values, held in entry.iter_unpack(body[: len(body) // entry.size * entry.size]):
        letter = _NUMBERS.get(kind)
        if letter is None or tag not in _TAGS or tag in values or n_values > _MOST_VALUES:
            continue
        form = f"{order}{n_values}{letter}"
        size = struct.calcsize(form)
        if size > len(held):
            file.seek(struct.unpack(f"{order}{offset}", held)[0])
            held = file.read(size)  # noqa: PLW2901  the value itself, in place of where it lies
        values[tag] = struct.unpack(form, held[:size])
    return Tags(values, order, big), after
