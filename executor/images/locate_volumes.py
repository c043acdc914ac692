"""From a path, folder or glob pattern to volumes: files of these, and folders whose slices are one each.

Beside `locate`, which finds images; for models of three spatial axes.
"""

from __future__ import annotations

import glob
from pathlib import Path

from obeql.errors import ImageError
from obeql.executor.images.clips import VIDEO_SUFFIXES
from obeql.executor.images.dicom import is_dicom
from obeql.executor.images.locate import IMAGE_SUFFIXES, expand, natural_key
from obeql.executor.images.nifti import NIFTI_SUFFIXES
from obeql.executor.images.signals import ARRAY_SUFFIXES
from obeql.planner.binding.image_paths import bare_path, file_of

__all__ = ["expand_volumes", "is_slice", "is_slices"]

#: Suffixes of pictures whose files hold several each: a folder of them is a folder of volumes.
_STACKS = frozenset({".gif", ".tif", ".tiff"})
_SUFFIXES = _STACKS | VIDEO_SUFFIXES | ARRAY_SUFFIXES


def expand_volumes(pattern: str | Path) -> list[Path]:
    """Return the files and folders of volumes that a path, a folder or a glob pattern names, in natural order.

    A file is returned whatever its name, and a folder of DICOM files or pictures is one volume. Other folders stand for
    the volumes directly inside them, patterns for those that they match. What is behind `#` is kept behind each.

    Raises ImageError when nothing matches, and for what no file can be called.
    """
    files = bare_path(str(pattern))
    part = str(pattern)[len(files) :]
    try:
        found = _volumes(Path(file_of(files)).expanduser())
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such ~user, NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"volumes cannot be looked for at '{pattern}': {reason}") from None
    return [Path(f"{path}{part}") for path in found] if found else expand(pattern)


def _volumes(path: Path) -> list[Path]:
    """Return what a path stands for; none where it is a file, or holds and matches none."""
    if path.is_file():
        return []
    if is_slices(path):
        return [path]
    matches = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
    found = {each for each in matches if not each.name.startswith(".") and (is_slices(each) or _is_volume(each))}
    return sorted(found, key=natural_key)


def is_slices(path: Path) -> bool:
    """Return whether a folder holds what makes one volume or clip: DICOM files, or pictures."""
    return path.is_dir() and any(map(is_slice, path.iterdir()))


def is_slice(file: Path) -> bool:
    """Return whether a file may be one slice of a volume or one frame of a clip."""
    if file.name.startswith(".") or not file.is_file():
        return False
    return file.suffix.lower() in IMAGE_SUFFIXES - _STACKS or (not file.suffix and is_dicom(file))


def _is_volume(file: Path) -> bool:
    name = file.name.lower()
    return file.is_file() and (name.endswith(NIFTI_SUFFIXES) or file.suffix.lower() in _SUFFIXES)
