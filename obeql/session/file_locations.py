"""Where the files are that relative paths name: as written, beside the database, or where they were named first.

A database is often opened from another folder than the one its statements were written in. Its paths stay as they were
given; this module finds what they mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from obeql.planner.binding.image_paths import as_text, bare_path, file_of
from obeql.store import MEMORY

if TYPE_CHECKING:
    from obeql.store import Store

__all__ = ["FileLocations"]

_TOPIC = "folders"

#: The scheme of a model's URI whose target may be a folder.
FOLDERS = "hf"


class FileLocations:
    """Finds files by their paths, and remembers the folders in which relative paths were given."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._remembered: list[str] | None = None

    def find(self, path: str) -> str:
        """Return the path at which a file is found, the path itself where it is found nowhere."""
        return next(self.all(path), path)

    def all(self, path: str) -> Iterator[str]:
        """Yield the paths at which there is a file of this relative path, the likeliest first.

        An absolute path has one.
        """
        if _is_file(path):
            yield path
        if _is_relative(path):
            for folder in self.folders():
                scheme, rest = _split(path)
                if _is_file(found := scheme + str(Path(folder) / rest)):
                    yield found

    def folders(self) -> list[str]:
        """Return the folder of the database, and those in which relative paths were given to it."""
        if self._remembered is None:
            self._remembered = list(self._store.recalled(_TOPIC))
        beside = [] if self._store.path == MEMORY else [str(Path(self._store.path).absolute().parent)]
        return list(dict.fromkeys([*beside, *self._remembered]))

    def looked(self, path: str) -> str:
        """Return what to add to the error of a file that is nowhere: where else its relative path was looked for."""
        if next(self.all(path), None) is not None or not _is_relative(path) or not (folders := self.folders()):
            return ""
        return f" It was looked for in {', '.join(map(repr, folders))}, too."

    def remember(self, paths: Iterable[str | None]) -> None:
        """Remember the present folder where one of the paths of a statement is relative."""
        if self._store.path == MEMORY or self._store.read_only:
            return
        if any(path is not None and _is_relative(path) and _is_file(path) for path in paths):
            here = as_text(str(Path.cwd()))
            if here not in self.folders():
                self._store.remember(_TOPIC, here, True)
                self._remembered = None


def _is_relative(path: str) -> bool:
    path = _split(path)[1]
    return not (path.startswith("~") or os.path.isabs(path))  # noqa: PTH117  Path's raises for long texts


def _split(path: str) -> tuple[str, str]:
    """Return the scheme of a URI that names a folder, and the folder; no scheme for all else."""
    scheme, colon, folder = path.partition(":")
    return (scheme + colon, folder.strip()) if colon and scheme.strip().lower() == FOLDERS else ("", path)


def _is_file(path: str) -> bool:
    scheme, folder = _split(path)
    if scheme:
        return os.path.isdir(os.path.expanduser(folder))  # noqa: PTH111, PTH112
    return os.path.isfile(os.path.expanduser(file_of(bare_path(path))))  # noqa: PTH111, PTH113
