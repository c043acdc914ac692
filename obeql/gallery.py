"""The images of a session: files, arrays handed over from Python, and rows of a SELECT.

The part of the catalog that finds images; the executor's decoders read them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from obeql.errors import ImageError, QueryTypeError
from obeql.planner import ImageRecord

if TYPE_CHECKING:
    from obeql.executor.images import SourceImage
    from obeql.store import Store

__all__ = ["Gallery", "is_pixels"]

_PATH_COLUMNS = ("path", "file", "filename")


def is_pixels(value: Any) -> bool:
    """Whether a Python value is an image itself: an array, a tensor or a PIL image."""
    return hasattr(value, "shape") or (hasattr(value, "getbands") and hasattr(value, "convert"))


class Gallery:
    """Finds images, decodes them, and keeps those that were handed over as pixels."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pixels: dict[str, SourceImage] = {}
        self._last: tuple[tuple[str, float, int], SourceImage] | None = None

    def take(self, value: Any, key: str) -> ImageRecord:
        """Keep an image given as pixels under `key`."""
        from obeql.executor.images import decode_object  # noqa: PLC0415

        image = decode_object(value, key)
        known = self._pixels.get(key)
        if known is not None and known.digest != image.digest:
            key = f"{key}_{image.digest[:8]}"
            image = decode_object(value, key)
        self._pixels[key] = image
        return ImageRecord(None, key=key)

    def load(self, image: ImageRecord) -> SourceImage:
        """Decode an image. Raises ImageError when it is gone or damaged."""
        from obeql.executor.images import decode_file  # noqa: PLC0415

        if image.path is not None:
            stamp = _stamp(image.path)
            if stamp is not None and self._last is not None and self._last[0] == stamp:
                return self._last[1]
            decoded = decode_file(image.path)
            if stamp is not None:
                self._last = stamp, decoded
            return decoded
        if image.key in self._pixels:
            return self._pixels[image.key]
        raise ImageError(
            f"Image '{image.shown}' was handed over from Python and its pixels are not stored; hand it over again."
        )

    def listed(self, items: Sequence[Any], name: str) -> list[ImageRecord]:
        """Images of a Python list: paths and pixels, mixed."""
        found: list[ImageRecord] = []
        for i, item in enumerate(items):
            if isinstance(item, ImageRecord):
                found.append(item)
            elif isinstance(item, (str, os.PathLike)):
                found += self.at(os.fspath(item))
            elif is_pixels(item):
                found.append(self.take(item, f"{name}_{i}"))
            else:
                raise QueryTypeError(
                    f"item {i} of the images is a {type(item).__name__}; "
                    "an image is a path, a PIL image, an array or a tensor"
                )
        return found

    def at(self, pattern: str) -> list[ImageRecord]:
        """The image file at a path, or those a glob or folder names. Raises ImageError when there are none."""
        from obeql.executor.images import expand  # noqa: PLC0415

        return [ImageRecord(str(path)) for path in expand(pattern)]

    def selected(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[ImageRecord]:
        """The images of a SELECT by its column path (or file, filename) or image_id; other columns pass through."""
        try:
            relation = self._store.connection.sql(sql, params=dict(parameters) if parameters else None)
            columns = [name.lower() for name in relation.columns] if relation is not None else []
            rows = relation.fetchall() if relation is not None else []
        except duckdb.Error as error:
            raise QueryTypeError(f"The SELECT that names the images fails: {str(error).splitlines()[0]}") from error
        path_column = next((name for name in _PATH_COLUMNS if name in columns), None)
        if path_column is None and len(columns) == 1 and "image_id" not in columns:
            path_column = columns[0]
        if path_column is None and "image_id" not in columns:
            raise QueryTypeError(
                f"The SELECT yields the columns {', '.join(columns)}; it needs one named path or image_id."
            )
        found = []
        seen: set[str | int] = set()
        for row in rows:
            record = self._from_row(dict(zip(columns, row, strict=True)), path_column)
            mark = record.path if record.path is not None else record.image_id or record.shown
            if mark not in seen:
                seen.add(mark)
                found.append(record)
        return found

    def _from_row(self, row: dict[str, Any], path_column: str | None) -> ImageRecord:
        label = row.get("label")
        rest = {k: v for k, v in row.items() if k not in {path_column, "image_id", "label"}}
        if path_column is not None and row[path_column] is not None:
            path = row[path_column]
            if not isinstance(path, str):
                raise QueryTypeError(f"Column {path_column} of the SELECT holds {path!r}; it needs paths as text.")
            return ImageRecord(path, label=None if label is None else str(label), columns=rest)
        image_id = row.get("image_id")
        known = self._store.image(image_id) if isinstance(image_id, int) else None
        if known is None:
            raise QueryTypeError(f"The SELECT yields image_id {image_id!r}, which no image has.")
        return ImageRecord(
            known.path, known.image_id, known.label if label is None else str(label), known.key, rest or known.columns
        )


def _stamp(path: str) -> tuple[str, float, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return path, status.st_mtime, status.st_size
