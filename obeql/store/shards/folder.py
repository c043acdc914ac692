"""A folder of shards: of this machine, or an address of an object store that fsspec knows, such as s3://bucket/maps.

Files appear whole or not at all: here under a temporary name first, synced and then renamed; in an object store by one
upload. Used by `shards`, in the process that keeps the database and in workers.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from obeql.errors import StoreError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["Folder", "is_remote"]

#: A temporary file that is older belongs to a process that died.
_STALE_SECONDS = 24 * 3600.0
_TEMPORARY = ".writing"


def is_remote(place: str) -> bool:
    """Return whether a place is an address such as s3://bucket/maps and not a folder of this machine."""
    return "://" in place


@dataclass(frozen=True)
class Folder:
    """Files below a place, by their paths relative to it. Raises StoreError where the place cannot be used."""

    place: str

    @cached_property
    def _remote(self) -> tuple[AbstractFileSystem, str] | None:
        """Return the file system and the path in it; None for a folder of this machine."""
        if not is_remote(self.place):
            return None
        import fsspec  # noqa: PLC0415 - only where it is used

        try:
            system, path = fsspec.core.url_to_fs(self.place)
        except (ImportError, ValueError, OSError) as error:
            raise StoreError(f"the folder of Parquet files {self.place!r} cannot be used: {error}") from error
        return system, str(path).rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return Folder, (self.place,)

    def path(self, name: str) -> str:
        """Return the whole path or address of a file."""
        return f"{self.place.rstrip('/')}/{name}" if is_remote(self.place) else str(Path(self.place) / name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file that is there whole and durably once this returns, and under its name only then."""
        try:
            if self._remote is not None:
                system, root = self._remote
                system.pipe_file(f"{root}/{name}", content)
            else:
                _write_synced(Path(self.place) / name, content)
        except Exception as error:  # fsspec raises whatever its back ends raise
            raise StoreError(f"cannot write the Parquet file {self.path(name)!r}: {_reason(error)}") from error

    def files(self, suffix: str) -> list[str]:
        """Return names of the files with a suffix, sorted.

        There are none where the folder is missing. Half-written ones do not count.
        """
        try:
            if self._remote is not None:
                system, root = self._remote
                found = system.find(root) if system.exists(root) else []
                names = [str(path).removeprefix(root).lstrip("/") for path in found]
            else:
                root_path = Path(self.place)
                names = [path.relative_to(root_path).as_posix() for path in root_path.glob(f"**/*{suffix}")]
        except Exception as error:
            raise StoreError(f"cannot list the folder of Parquet files {self.place!r}: {_reason(error)}") from error
        return sorted(name for name in names if name.endswith(suffix) and not name.rpartition("/")[2].startswith("."))

    def folders(self) -> list[str]:
        """Return the names of the folders directly in it; none where it is missing."""
        try:
            if self._remote is not None:
                system, root = self._remote
                found = system.ls(root, detail=True) if system.exists(root) else []
                return sorted(str(each["name"]).rpartition("/")[2] for each in found if each["type"] == "directory")
            root_path = Path(self.place)
            return sorted(path.name for path in root_path.iterdir() if path.is_dir()) if root_path.is_dir() else []
        except Exception as error:
            raise StoreError(f"cannot list the folder of Parquet files {self.place!r}: {_reason(error)}") from error

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading. Raises OSError."""
        if self._remote is not None:
            system, root = self._remote
            opened: BinaryIO = system.open(f"{root}/{name}", "rb")
            return opened
        return (Path(self.place) / name).open("rb")

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            if self._remote is not None:
                system, root = self._remote
                system.rm_file(f"{root}/{name}")
            else:
                (Path(self.place) / name).unlink()
        except FileNotFoundError:
            return
        except Exception as error:
            raise StoreError(f"cannot remove the Parquet file {self.path(name)!r}: {_reason(error)}") from error

    def remove_all(self) -> None:
        """Remove the folder with what is in it, as far as that is possible."""
        if self._remote is None:
            shutil.rmtree(self.place, ignore_errors=True)
            return
        system, root = self._remote
        with suppress(Exception):
            system.rm(root, recursive=True)

    def tidy(self) -> None:
        """Remove what processes that died left half-written, a day after."""
        if self._remote is None:
            for path in Path(self.place).glob(f"**/.*{_TEMPORARY}"):
                try:
                    if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                        path.unlink()
                except OSError:
                    continue


def _write_synced(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the name is durable once the folder is
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]
