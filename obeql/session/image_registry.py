"""The images of a session: files, arrays handed over from Python, and rows of a SELECT.

The part of the catalog that finds images; the executor's decoders read them.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from obeql.errors import ImageError, QueryTypeError
from obeql.planner import ImageRecord, ImageSet
from obeql.planner.binding.image_paths import (
    Frames,
    Parts,
    as_text,
    bare_path,
    file_of,
    split_page,
    with_frames,
    with_page,
)
from obeql.session.derived_tables import DerivedTables
from obeql.session.file_locations import FileLocations
from obeql.session.sql_errors import said_and_offset
from obeql.store import ImageContent

if TYPE_CHECKING:
    from obeql.executor.images import SourceImage
    from obeql.store import Store

__all__ = ["ImageRegistry", "is_pixels"]

_PATH_COLUMNS = ("path", "file", "filename")

#: The column of a SELECT that holds signals themselves, as lists.
_SIGNAL_COLUMN = "signal"

#: What a SELECT names its images by, in the words of errors.
_NAMING_COLUMNS = (
    f"a column {_PATH_COLUMNS[0]} (or {', '.join(_PATH_COLUMNS[1:])}) of texts, or image_id, "
    f"or {_SIGNAL_COLUMN} of lists"
)

#: Pixels of images without a name that are kept from one statement to the next, so that results can be drawn.
_PASSING_BYTES = 256 * 2**20

#: Stands for an image until it has a key.
_UNKNOWN = ImageRecord(None)


def is_pixels(value: Any) -> bool:
    """Return whether a value is pixels: an array, a tensor or a PIL image (a number of numpy's is not); or a batch."""
    if hasattr(value, "shape"):
        return getattr(value, "ndim", 1) != 0
    return hasattr(value, "getbands") and hasattr(value, "convert")


class ImageRegistry:
    """Finds images, decodes them, and keeps those that were handed over as pixels.

    Pixels in an image set are kept while the session lasts. Those handed to a single statement are known by their
    content, and the oldest are let go when they add up.
    """

    def __init__(self, store: Store, places: FileLocations, tables: DerivedTables) -> None:
        self._store = store
        self._places = places
        self._tables = tables
        self._kept: dict[str, SourceImage] = {}
        self._passing: OrderedDict[str, SourceImage] = OrderedDict()
        self._last: tuple[tuple[Any, ...], SourceImage] | None = None

    def let_go(self) -> None:
        """Forget the oldest pixels of past statements beyond what is worth keeping; called before a statement."""
        size = sum(image.pixels.nbytes for image in self._passing.values())
        while size > _PASSING_BYTES:
            _, image = self._passing.popitem(last=False)
            size -= image.pixels.nbytes

    def load(self, image: ImageRecord, n_axes: int | None = None, content: str | None = None) -> SourceImage:
        """Decode an image for a model of so many spatial axes; None: as whatever it is.

        Raises ImageError when it is gone or damaged.
        Of files that its relative path may mean, the first with the hash `content` is taken, or else the first.
        """
        if image.path is not None:
            found = self._places.all(image.path)
            try:
                first = self._read(next(found, image.path), n_axes)
            except ImageError as error:
                raise ImageError(f"{error}{self._places.looked(image.path)}") from None
            if content is None or first.digest == content:
                return first
            others = (self._read(each, n_axes) for each in found)
            return next((each for each in others if each.digest == content), first)
        held = self._held(image)
        if held is not None:
            return _read_by(held, n_axes)
        raise ImageError(
            f"Image '{image.shown}' was handed over from Python and its pixels are not stored; hand it over again."
        )

    def remember(self, images: Iterable[ImageRecord]) -> None:
        """Remember where images are that a statement named by relative paths."""
        self._places.remember(image.path for image in images)

    def _read(self, path: str, n_axes: int | None) -> SourceImage:
        from obeql.executor.images import decode_file  # noqa: PLC0415

        stamp = _stamp(path, n_axes)
        if stamp is not None and self._last is not None and self._last[0] == stamp:
            return self._last[1]
        decoded = decode_file(path, n_axes)
        if stamp is not None:
            self._last = stamp, decoded
        return decoded

    def digest(self, image: ImageRecord, n_axes: int) -> str | None:
        """Return the content hash of an image that was handed over as pixels and is still held, else None."""
        held = self._held(image)
        return None if held is None else _read_by(held, n_axes).digest

    def listed(
        self,
        items: Sequence[Any],
        name: str | None,
        shown: str,
        model: str | None = None,
        n_axes: int | None = None,
    ) -> list[ImageRecord]:
        """Return images of a Python list: paths, pixels and records, mixed.

        A batch (N, C, H, W) or (N, H, W, C) is N of them.

        Pixels are called `<name>_<place>`, and by their content when there is no name. `shown` is what messages
        call the list, `model` the one that reads them: arrays are images or signals, as it takes them. Without one,
        `n_axes` says which they are, where that is known.
        """
        from obeql.executor.images import decode_object  # noqa: PLC0415

        found: list[ImageRecord] = []
        pixels: dict[int, tuple[str | None, SourceImage]] = {}
        known = None if model is None else self._store.model(model)
        n_axes = n_axes if known is None else len(known.preprocessing.size)
        items = [part for item in items for part in _one_by_one(item, n_axes)]
        for place, item in enumerate(items):
            which = f"{shown}, item {place}" if len(items) > 1 else shown
            if isinstance(item, ImageRecord):
                found.append(item)
            elif isinstance(item, (str, os.PathLike)):
                found += self.at(os.fspath(item), n_axes)
            elif is_pixels(item):
                pixels[len(found)] = None if name is None else f"{name}_{place}", decode_object(item, which, n_axes)
                found.append(_UNKNOWN)
            else:
                raise QueryTypeError(
                    f"{which} is a {type(item).__name__}; an image is a path, a PIL image, an array or a tensor."
                )
        for place, record in zip(pixels, self._take(pixels.values()), strict=True):
            found[place] = record
        return found

    def at(self, pattern: str, n_axes: int | None = None) -> list[ImageRecord]:
        """Return the image file at a path, or those a glob or folder names. Raises ImageError when there are none.

        A folder of slices is one volume to a model of three axes.
        """
        from obeql.executor.images import expand, expand_volumes  # noqa: PLC0415

        if self._places.find(pattern) != pattern:  # of a database that is opened from elsewhere
            return [ImageRecord(as_text(pattern))]
        return [ImageRecord(as_text(str(path))) for path in (expand_volumes if n_axes == 3 else expand)(pattern)]

    def in_parts(self, images: Sequence[ImageRecord], parts: Parts | None) -> tuple[ImageRecord, ...]:
        """Return parts of image files: pages by their numbers, counted from 1, or `all`, or frames of clips.

        None leaves the images as they are; pages leave images that are no files, and both leave paths that name a part
        themselves. Raises QueryTypeError for frames of an image that is no file.
        """
        if parts is None:
            return tuple(images)
        if isinstance(parts, Frames):
            handed = next((image.shown for image in images if image.path is None), None)
            if handed is not None:
                raise QueryTypeError(
                    f"frames, every and start choose frames of files; {handed!r} is an array: slice it instead"
                )
            paths = [str(image.path) for image in images]
            return tuple(
                replace(image, path=with_frames(path, parts)) if bare_path(path) == path else image
                for image, path in zip(images, paths, strict=True)
            )
        pages = parts
        from obeql.executor.images import count_pages  # noqa: PLC0415

        found: list[ImageRecord] = []
        for image in images:
            if image.path is None or split_page(image.path)[1] is not None:
                found.append(image)
                continue
            file = Path(file_of(self._places.find(image.path))).expanduser()
            numbers = range(1, count_pages(file) + 1) if isinstance(pages, str) else pages
            several = len(numbers) > 1 or not isinstance(pages, str)
            found += [replace(image, path=with_page(image.path, page)) if several else image for page in numbers]
        return tuple(found)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return the columns of a SELECT, in small letters, and its rows. Errors of DuckDB pass through."""

        def read(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], list[tuple[Any, ...]]]:
            relation = self._tables.sql(connection, sql, dict(parameters) if parameters else None)
            return (
                ([name.lower() for name in relation.columns], relation.fetchall()) if relation is not None else ([], [])
            )

        return self._store.on_connection(read)

    def selected(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[ImageRecord]:
        """Return the images of a SELECT, each once for each of its labels.

        Its column path (or file, filename) or image_id says which they are.

        Other columns pass through, those of the first row that names an image. Raises QueryTypeError for a SELECT that
        fails or names no images.
        """

        try:
            columns, rows = self.rows(sql, parameters)
        except duckdb.Error as error:
            said, offset = said_and_offset(error, sql, self._store.ask)
            hint = " Name the folder as a path: '*.png' finds such files." if "Invalid unicode" in str(error) else ""
            raise QueryTypeError(f"The SELECT that names the images fails: {said}{hint}", offset=offset) from error
        if _SIGNAL_COLUMN in columns:
            return self._signals(columns, rows)
        path_column = next((name for name in _PATH_COLUMNS if name in columns), None)
        if path_column is None and len(columns) == 1 and "image_id" not in columns:
            path_column = columns[0]
        if path_column is None and "image_id" not in columns:
            raise QueryTypeError(f"The SELECT yields the columns {', '.join(columns)}; it needs {_NAMING_COLUMNS}.")
        found: dict[tuple[str | int, str | None], ImageRecord] = {}
        records = [dict(zip(columns, row, strict=True)) for row in rows]
        known = self._store.images_of([i for row in records if isinstance(i := row.get("image_id"), int)])
        for number, row in enumerate(records, start=1):
            record = self._from_row(row, path_column, number, known)
            handle = record.path if record.path is not None else record.image_id or record.shown
            found.setdefault((handle, record.label), record)
        return list(found.values())

    def _signals(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[ImageRecord]:
        """Return the signals of a SELECT by its column of lists, called by its column name where there is one.

        Raises QueryTypeError for a row without a signal, ImageError for lists that are none.
        """
        from obeql.executor.images import decode_object  # noqa: PLC0415

        found: list[tuple[str | None, SourceImage]] = []
        records = [dict(zip(columns, row, strict=True)) for row in rows]
        for number, row in enumerate(records, start=1):
            name = None if row.get("name") is None else str(row["name"])
            values = row[_SIGNAL_COLUMN]
            if not isinstance(values, (list, tuple)):
                told = "NULL" if values is None else f"a {type(values).__name__}"
                raise QueryTypeError(
                    f"Row {number} of the SELECT has no signal: its {_SIGNAL_COLUMN} is {told}; it must be a list of "
                    "numbers (FLOAT[]), or of channels (FLOAT[][])."
                )
            found.append((name, decode_object(list(values), name or f"row {number}", 1)))
        kept = self._take(found)
        named = {_SIGNAL_COLUMN, "name", "label"}
        return [
            replace(
                image,
                label=None if row.get("label") is None else str(row["label"]),
                columns={column: value for column, value in row.items() if column not in named},
            )
            for image, row in zip(kept, records, strict=True)
        ]

    def put_set(self, images: ImageSet, replace_set: bool) -> ImageSet:
        """Store a named list of images, with what those handed over as pixels hold. Raises StoreError."""
        held = ((image.key, self._held(image)) for image in images.images)
        contents = {
            key: ImageContent.of(source.facts) for key, source in held if key is not None and source is not None
        }
        stored = self._store.put_image_set(images, replace_set, contents)
        self.remember(images.images)
        return stored

    def _held(self, image: ImageRecord) -> SourceImage | None:
        if image.path is not None or image.key is None:
            return None
        return self._kept.get(image.key) or self._passing.get(image.key)

    def _take(self, images: Iterable[tuple[str | None, SourceImage]]) -> list[ImageRecord]:
        """Keep images given as pixels, each with its name; a name whose image holds other pixels is lengthened."""
        images = list(images)
        asked = [name for name, _ in images if name is not None and name not in self._kept]
        stored = self._store.key_hashes(asked) if asked else {}
        records = []
        for name, image in images:
            if name is None:
                key = f"image_{image.digest[:12]}"
                self._passing[key] = replace(image, shown=key)
                self._passing.move_to_end(key)
            else:
                held = {self._kept[name].digest} if name in self._kept else stored.get(name.lower(), set())
                key = name if held <= {image.digest} else f"{name}_{image.digest[:8]}"
                self._kept[key] = replace(image, shown=key)
            records.append(ImageRecord(None, key=key))
        return records

    def _from_row(
        self, row: dict[str, Any], path_column: str | None, number: int, known: Mapping[int, ImageRecord]
    ) -> ImageRecord:
        label = None if row.get("label") is None else str(row["label"])
        rest = {k: v for k, v in row.items() if k not in {path_column, "image_id", "label"}}
        if path_column is not None and row[path_column] is not None:
            path = row[path_column]
            if not isinstance(path, str):
                raise QueryTypeError(
                    f"Column {path_column} of the SELECT holds {path!r}, which is no path; it needs {_NAMING_COLUMNS}."
                )
            return ImageRecord(path, label=label, columns=rest)
        image_id = row.get("image_id")
        if image_id is None:
            raise QueryTypeError(f"Row {number} of the SELECT names no image: its {path_column or 'image_id'} is NULL.")
        image = known.get(image_id) if isinstance(image_id, int) else None
        if image is None:
            raise QueryTypeError(f"The SELECT yields image_id {image_id!r}, which no image has.")
        return ImageRecord(image.path, image.image_id, label or image.label, image.key, rest or image.columns)


def _one_by_one(item: Any, n_axes: int | None) -> Sequence[Any]:
    """Return the images of a batch, an array or tensor with an axis more than an image has; else the item itself.

    Without a model, four axes are a batch of images where one of them counts colors; else they are a volume.
    """
    if not is_pixels(item) or getattr(item, "ndim", 0) != (n_axes or 2) + 2:
        return [item]
    if n_axes is None and not {item.shape[1], item.shape[3]} & {1, 3, 4}:
        return [item]
    return list(item)


def _read_by(held: SourceImage, n_axes: int | None) -> SourceImage:
    """Return what was handed over as a model of so many axes reads it: an array of two may be a signal."""
    from obeql.executor.images import as_signal  # noqa: PLC0415

    return as_signal(held) if n_axes == 1 else held


def _stamp(path: str, n_axes: int | None) -> tuple[Any, ...] | None:
    """Return what tells whether the file at a path is still the one that was read."""
    try:
        file = Path(file_of(bare_path(path)))
        status = file.stat()
        if file.is_dir():  # which does not tell when a slice in it changes
            return None
    except OSError:
        return None
    return path, n_axes, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
