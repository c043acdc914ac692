"""From a path, folder or glob pattern to image files.

Comes before decoding; used when an image set is created and when a statement names a path.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from obeql.errors import ImageError, nearest
from obeql.executor.images.signals import ARRAY_SUFFIXES, SOUND_SUFFIXES
from obeql.planner.binding.image_paths import bare_path, file_of

__all__ = ["IMAGE_SUFFIXES", "expand", "missing_file", "natural_key", "no_page"]

#: Suffixes (lower case) that count as images where a folder or a pattern without a suffix is given.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".dcm", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tga", ".tif", ".tiff", ".webp"}
)


def expand(pattern: str | Path) -> list[Path]:
    """Return the image files that a path, a folder or a glob pattern names, in natural order (`a2` before `a10`).

    `#page=3`, or `#frames=16,every=2` of clips, behind any of them is kept behind each file.

    An existing file is returned whatever its name, also when the name holds `*`, `?` or `[`. A folder stands for
    the images directly inside it. In a pattern `**` crosses folders and `~` is the home folder; hidden files do not
    match. Folders, and patterns whose last part spells out no suffix (`scans/*`), yield known image suffixes alone, and
    where there is none, those of signals; `scans/*.raw` yields what it says. Paths keep the form they were given in
    (relative stays relative).

    Raises ImageError when nothing matches, and for what no file can be called.
    """
    files = bare_path(str(pattern))
    part = str(pattern)[len(files) :]
    try:
        found = _expand(file_of(files))
        return [Path(f"{path}{part}") for path in found] if part else found
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such ~user, NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"images cannot be looked for at '{pattern}': {reason}") from None


def _expand(pattern: str | Path) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = _images(child for child in path.iterdir() if not child.name.startswith("."))
        if not found:
            raise ImageError(f"folder '{pattern}' holds no image; known suffixes are {_suffix_list()}")
        return sorted(found, key=natural_key)
    if not glob.has_magic(str(path)):
        raise missing_file(path)
    # Path.glob knows neither absolute patterns nor, before 3.13, `**` that matches files.
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207
    files = [Path(match) for match in matches if Path(match).is_file()]
    found = files if _spells_suffix(path.name) else _images(files)
    if not found:
        raise ImageError(_no_match(str(pattern), path, len(files)))
    return sorted(set(found), key=natural_key)


def natural_key(path: Path) -> list[tuple[tuple[int, int, str], ...]]:
    """Sort key: folder by folder, digits as numbers, letters without case; equal keys differ by the exact text."""
    return [(*_pieces(part.lower()), (2, 0, part)) for part in path.parts]


def _pieces(part: str) -> Iterable[tuple[int, int, str]]:
    for piece in re.split(r"([0-9]+)", part):
        if piece:
            yield (0, int(piece), "") if piece.isdecimal() else (1, 0, piece)


def missing_file(path: Path) -> ImageError:
    """Return the error for a file that does not exist, with the nearest names of its folder."""
    folder = path.parent
    if not folder.is_dir():
        above = folder.parent
        hint = nearest(folder.name, (c.name for c in _children(above) if c.is_dir()))
        return ImageError(f"image '{path}' does not exist: there is no folder '{folder}'.{hint}")
    hint = nearest(path.name, (child.name for child in _children(folder) if child.is_file()))
    return ImageError(f"image '{path}' does not exist.{hint}")


def no_page(shown: str, n_pages: int) -> ImageError:
    """Return the error for a page that a file does not have."""
    there = "it has one page" if n_pages == 1 else f"it has {n_pages} pages, counted from 1"
    return ImageError(f"there is no image '{shown}': {there}")


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _images(paths: Iterable[Path]) -> list[Path]:
    """Return the image files among paths; where there is none, the files of signals: arrays are often masks."""
    files = [path for path in paths if path.is_file()]
    found = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    return found or [path for path in files if path.suffix.lower() in SOUND_SUFFIXES | ARRAY_SUFFIXES]


def _spells_suffix(name: str) -> bool:
    """Return whether the last part of a pattern ends in a literal suffix, as `*.raw` does and `*`, `*.*` do not."""
    suffix = Path(name).suffix
    return len(suffix) > 1 and not glob.has_magic(suffix)


def _no_match(shown: str, path: Path, n_files: int) -> str:
    if n_files:
        noun = "1 file but no image" if n_files == 1 else f"{n_files} files but no image"
        return f"pattern '{shown}' matches {noun}; known suffixes are {_suffix_list()} (or spell the suffix out)"
    literal: list[str] = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        literal.append(part)
    folder = Path(*literal) if literal else Path()
    if not folder.is_dir():
        return f"pattern '{shown}' matches no file: there is no folder '{folder}'"
    return f"pattern '{shown}' matches no file"


def _suffix_list() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES))
