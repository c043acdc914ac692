"""How image files are named by texts: a path, the page of a file of several, and names that are no valid text.

Used wherever paths become records of images, and where those are opened again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import PurePath

__all__ = [
    "Frames",
    "Parts",
    "as_text",
    "bare_path",
    "file_of",
    "image_name",
    "split_frames",
    "split_page",
    "with_frames",
    "with_page",
]

_PAGE = re.compile(r"(.+)#page=([0-9]{1,9})", re.DOTALL)
_FRAMES = re.compile(r"(.+)#((?:frames|every|start)=[0-9]{1,9}(?:,(?:frames|every|start)=[0-9]{1,9})*)", re.DOTALL)
_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")


def as_text(path: str) -> str:
    r"""Return a path as text that can be stored and printed: bytes that are not UTF-8 are written as `\xe9`.

    `file_of` turns them back. A file system holds names as bytes, which Python makes lone surrogates of.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        with suppress(UnicodeEncodeError):  # half a pair of characters stands for no byte
            return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return path


def file_of(text: str) -> str:
    r"""Return the path that `as_text` made a text of; a path that is a file as it stands is left alone."""
    if "\\x" not in text or os.path.exists(text):  # noqa: PTH110  Path's raises for long texts
        return text
    name = os.fsdecode(_BYTE.sub(lambda found: bytes([int(found[1], 16)]), text.encode(errors="surrogateescape")))
    return name if os.path.exists(name) else text  # noqa: PTH110


def split_page(path: str) -> tuple[str, int | None]:
    """Split `stack.tif#page=3` into the file and the page; the page is None where the path names none.

    A path that is a file as it stands names none.
    """
    found = _PAGE.fullmatch(path)
    if found is None or os.path.exists(path):  # noqa: PTH110
        return path, None
    return found[1], int(found[2])


def with_page(path: str, page: int) -> str:
    """Return the path of a page, counted from 1, of a file."""
    return f"{path}#page={page}"


def image_name(path: str) -> str:
    """Return what an image file is called: its name without suffix, and its page, as in `stack_page3`."""
    found = _PAGE.fullmatch(path)
    return _stem(path) if found is None else f"{_stem(found[1])}_page{found[2]}"


def _stem(path: str) -> str:
    """Return a file's name without its suffix; of a NIfTI file that is packed, without both."""
    name = PurePath(path)
    packed = name.suffix.lower() == ".gz" and PurePath(name.stem).suffix.lower() == ".nii"
    return PurePath(name.stem).stem if packed else name.stem


@dataclass(frozen=True, slots=True)
class Frames:
    """Which frames of a clip are taken: `frames` of them, None all, from number `start` on, each `every`th."""

    frames: int | None = None
    every: int = 1
    start: int = 0

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return what the numbers are called, behind `#` and as options of statements."""
        return tuple(each.name for each in fields(cls))

    @classmethod
    def of(cls, given: Mapping[str, int]) -> Frames:
        """Return the frames that some of the numbers name; the others are as without them."""
        return cls(**given)

    def wants(self, number: int) -> bool:
        """Return whether frame `number`, counted from 0, is taken, as far as there are not enough yet."""
        return number >= self.start and (number - self.start) % self.every == 0


#: Parts of files that a statement takes: pages, counted from 1, or `all`; or frames of clips.
Parts = str | tuple[int, ...] | Frames


def split_frames(path: str) -> tuple[str, Frames]:
    """Split `clip.mp4#frames=16,every=2,start=30` into the file and the frames; any of the three may be left out.

    A path that is a file as it stands names no frames.
    """
    found = _FRAMES.fullmatch(path)
    if found is None or os.path.exists(path):  # noqa: PTH110
        return path, Frames()
    said = dict(part.split("=") for part in found[2].split(","))
    return found[1], Frames.of({name: max(int(name != "start"), int(number)) for name, number in said.items()})


def with_frames(path: str, frames: Frames) -> str:
    """Return the path of these frames of a clip."""
    told = {name: getattr(frames, name) for name in Frames.names()}
    plain = {name: getattr(Frames(), name) for name in Frames.names()}
    part = ",".join(f"{name}={number}" for name, number in told.items() if number != plain[name])
    return f"{path}#{part}" if part else path


def bare_path(path: str) -> str:
    """Return the file that a path names, without the page or the frames of it."""
    return split_frames(split_page(path)[0])[0]
