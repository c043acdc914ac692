"""Images, image sets and predictions in the store.

An image is known by its path, or by its key when it was handed over from Python; what it held when it was decoded is
a hash beside it, and maps refer to that hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from obeql.errors import StoreError, UnknownNameError, nearest
from obeql.planner.binding.image_paths import image_name
from obeql.planner.catalog import ImageRecord, ImageSet
from obeql.store.codec import dump, load, utc_now
from obeql.store.driver import Database

if TYPE_CHECKING:
    from obeql.executor.images import SourceFacts

__all__ = ["ImageContent", "ImageRows", "PredictionRow"]

_LATEST = (
    "SELECT image_id, path, key, label, columns, name FROM obeql_store.image_rows "
    "QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY entry_id DESC) = 1"
)
_IMAGE = "image_id, path, key, label, columns"
_LIVE_SETS = (
    "SELECT entry_id, name, source FROM (FROM obeql_store.image_set_rows "
    "QUALIFY row_number() OVER (PARTITION BY lower(name) ORDER BY entry_id DESC) = 1) WHERE live"
)


class ImageContent(NamedTuple):
    """What an image held when it was decoded: hash, size in source pixels, and what a DICOM file says beside that."""

    image_hash: str
    height: int
    width: int
    series_uid: str | None = None
    pixel_height_mm: float | None = None
    pixel_width_mm: float | None = None
    depth: int | None = None
    pixel_depth_mm: float | None = None

    @classmethod
    def of(cls, facts: SourceFacts) -> ImageContent:
        """Return what the store remembers of a decoded image."""
        *depth, height, width = facts.size
        *deep, tall, wide = facts.pixel_spacing_mm or (None, None)
        first = [*depth, None][0], [*deep, None][0]
        return cls(facts.digest, height, width, facts.series_uid, tall, wide, *first)


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """What a model says of an unoccluded image for one class; `rank` counts from 1, best first."""

    image_id: int
    image_hash: str
    model_hash: str
    class_id: int
    class_name: str
    probability: float | None
    logit: float
    rank: int
    model: str = ""
    preprocessing_hash: str = ""


class ImageRows:
    """The part of a store that keeps images, image sets and predictions."""

    _database: Database

    def register_images(self, images: Sequence[ImageRecord]) -> list[ImageRecord]:
        """Return the images with `image_id` set, in order; the same path (or key) keeps its id.

        A label or further columns that are new are stored; an image that comes without a label takes the one stored.
        """
        with self._database.transaction():
            return self._register(images)

    def image(self, image_id: int) -> ImageRecord | None:
        """Return the image of this id, or None."""
        found = self._images("image_id = ?", [image_id])
        return found[0] if found else None

    def images_of(self, image_ids: Sequence[int]) -> dict[int, ImageRecord]:
        """Return the images of these ids, by id; ids that no image has are absent."""
        if not image_ids:
            return {}
        rows = self._database.rows_beside(
            f"SELECT {_IMAGE} FROM ({_LATEST}) WHERE image_id IN (SELECT image_id FROM obeql_batch)",
            pa.table({"image_id": pa.array(image_ids, pa.int64())}),
        )
        return {row[0]: _image(*row) for row in rows}

    def key_hashes(self, keys: Sequence[str]) -> dict[str, set[str]]:
        """Return the hashes of what images that were handed over from Python hold, by their keys in lower case."""
        rows = self._database.rows_beside(
            "SELECT lower(image.key), list(DISTINCT content.image_hash) "
            "FROM (SELECT DISTINCT image_id, key FROM obeql_store.image_rows WHERE path IS NULL) AS image "
            "JOIN (SELECT image_id, arg_max(image_hash, entry_id) AS image_hash FROM obeql_store.image_contents "
            "GROUP BY image_id) AS content USING (image_id) "
            "WHERE lower(image.key) IN (SELECT lower(key) FROM obeql_batch) GROUP BY ALL",
            pa.table({"key": pa.array(keys, pa.string())}),
        )
        return {key: set(hashes) for key, hashes in rows}

    def run_images(self, run_id: int) -> list[ImageRecord]:
        """Return the images that a run has maps of, by id."""
        return self._images("image_id IN (SELECT image_id FROM obeql_store.run_maps WHERE run_id = ?)", [run_id])

    def image_named(self, name: str) -> list[ImageRecord]:
        """Return all images whose file stem (or key) is `name`, matched case-insensitively, by id."""
        return self._images(
            "image_id IN (SELECT image_id FROM obeql_store.image_rows WHERE lower(name) = lower(?))", [name]
        )

    def image_names(self) -> list[str]:
        """Return the file stems (or keys) of all images, sorted, each once."""
        rows = self._database.rows(
            "SELECT DISTINCT name FROM obeql_store.image_rows WHERE name IS NOT NULL ORDER BY name"
        )
        return [name for (name,) in rows]

    def note_image(self, image_id: int, content: ImageContent) -> None:
        """Remember what an image held when it was decoded. Earlier contents stay."""
        with self._database.transaction():
            self._note_contents({image_id: content})

    def _note_contents(self, contents: Mapping[int, ImageContent]) -> None:
        """Note several images at once, as `note_image` does one, inside a transaction of the caller."""
        ids = list(contents)
        rows = self._database.rows_beside(
            "SELECT image_id, image_hash, height, width, series_uid, pixel_height_mm, pixel_width_mm, depth, "
            "pixel_depth_mm "
            "FROM obeql_store.image_contents WHERE image_id IN (SELECT image_id FROM obeql_batch) "
            "QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY entry_id DESC) = 1",
            pa.table({"image_id": pa.array(ids, pa.int64())}),
        )
        known = {image_id: ImageContent(*content) for image_id, *content in rows}
        new = [image_id for image_id in ids if known.get(image_id) != contents[image_id]]
        if not new:
            return
        columns = zip(*(contents[image_id] for image_id in new), strict=True)
        hashes, heights, widths, uids, tall, wide, depths, deep = columns
        self._database.append(
            "image_contents",
            pa.table(
                {
                    "entry_id": pa.array(self._database.next_ids("entry_ids", len(new)), pa.int64()),
                    "image_id": pa.array(new, pa.int64()),
                    "image_hash": pa.array(hashes, pa.string()),
                    "height": pa.array(heights, pa.int32()),
                    "width": pa.array(widths, pa.int32()),
                    "series_uid": pa.array(uids, pa.string()),
                    "pixel_height_mm": pa.array(tall, pa.float64()),
                    "pixel_width_mm": pa.array(wide, pa.float64()),
                    "depth": pa.array(depths, pa.int32()),
                    "pixel_depth_mm": pa.array(deep, pa.float64()),
                    "written_at": pa.array([utc_now()] * len(new), pa.timestamp("us")),
                }
            ),
        )

    def image_hash(self, image_id: int) -> str | None:
        """Return the hash of what an image held when it was decoded last, or None before that."""
        rows = self._database.rows(
            "SELECT image_hash FROM obeql_store.image_contents WHERE image_id = ? ORDER BY entry_id DESC LIMIT 1",
            [image_id],
        )
        return str(rows[0][0]) if rows else None

    def image_hashes(self, paths: Sequence[str]) -> dict[str, str]:
        """Return the hash of what each file held when it was decoded last, by path; files never decoded are absent."""
        rows = self._database.rows_beside(
            "SELECT path, arg_max(image_hash, content.entry_id) FROM obeql_store.image_contents AS content "
            "JOIN (SELECT DISTINCT image_id, path FROM obeql_store.image_rows) USING (image_id) "
            "WHERE path IN (SELECT path FROM obeql_batch) GROUP BY path",
            pa.table({"path": pa.array(paths, pa.string())}),
        )
        return dict(rows)

    @cached_property
    def _depth(self) -> str:
        """Return the depth of contents in SQL; files of earlier versions that are open for reading only lack it."""
        named = "SELECT 1 FROM duckdb_columns() WHERE database_name = current_database() AND "
        named += "schema_name = 'obeql_store' AND table_name = 'image_contents' AND column_name = 'depth'"
        return "depth" if not self._database.read_only or self._database.rows(named) else "NULL::INTEGER"

    def content_sizes(self, hashes: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Return (height, width) in source pixels of image contents by their hash, of volumes with the depth first.

        Contents never noted are absent.
        """
        rows = self._database.rows_beside(
            f"SELECT image_hash, arg_min(({self._depth}, height, width), entry_id) FROM obeql_store.image_contents "
            "WHERE image_hash IN (SELECT image_hash FROM obeql_batch) GROUP BY image_hash",
            pa.table({"image_hash": pa.array(sorted(hashes), pa.string())}),
        )
        return {image_hash: tuple(int(side) for side in size if side is not None) for image_hash, size in rows}

    def put_image_set(
        self, images: ImageSet, replace: bool = False, contents: Mapping[str, ImageContent] | None = None
    ) -> ImageSet:
        """Store a named list of images and return it with every `image_id` set.

        `contents` say what images hold that were handed over from Python, by their keys. The same images again change
        nothing. Raises StoreError when the name stands for other images and `replace`
        is false.
        """
        with self._database.transaction():
            known = self.image_set(images.name)
            numbered = self._register(images.images)
            held = {_id(image): (contents or {}).get(image.key or "") for image in numbered if image.path is None}
            self._note_contents({image_id: content for image_id, content in held.items() if content is not None})
            if known is not None:
                if [_identity(image) for image in known.images] == [_identity(image) for image in numbered]:
                    return known
                if not replace:
                    raise StoreError(
                        f"an image set {known.name!r} exists with other images or labels ({len(known.images)} images "
                        f"there, {len(numbered)} here); write CREATE OR REPLACE IMAGES (replace=True) "
                        "or choose another name"
                    )
            (entry_id,) = self._database.next_ids("entry_ids")
            self._database.append_row(
                "image_set_rows",
                entry_id=entry_id,
                live=True,
                name=images.name,
                source=images.source,
                n_images=len(numbered),
                written_at=utc_now(),
            )
            self._database.append("image_set_members", _member_batch(entry_id, numbered))
        return ImageSet(images.name, images.source, tuple(numbered))

    def image_set(self, name: str) -> ImageSet | None:
        """Return the image set of this name, matched case-insensitively, or None."""
        rows = self._database.rows(f"{_LIVE_SETS} AND lower(name) = lower(?)", [name])
        return self._image_set(*rows[0]) if rows else None

    def image_sets(self) -> list[ImageSet]:
        """Return all image sets, by name."""
        return [self._image_set(*row) for row in self._database.rows(f"{_LIVE_SETS} ORDER BY lower(name)")]

    def image_set_names(self) -> list[str]:
        """Return the names of all image sets, sorted."""
        return [name for _, name, _ in self._database.rows(f"{_LIVE_SETS} ORDER BY lower(name)")]

    def drop_image_set(self, name: str) -> None:
        """Forget a set's name; its images and their maps stay. Raises UnknownNameError."""
        with self._database.transaction():
            rows = self._database.rows(f"{_LIVE_SETS} AND lower(name) = lower(?)", [name])
            if not rows:
                hint = nearest(name, self.image_set_names())
                raise UnknownNameError(f"there is no image set {name!r} to drop.{hint}")
            self._database.append_row(
                "image_set_rows",
                entry_id=self._database.next_ids("entry_ids")[0],
                live=False,
                name=rows[0][1],
                written_at=utc_now(),
            )

    def put_predictions(self, rows: Sequence[PredictionRow]) -> None:
        """Store predictions; a later one for the same content, model and class takes the place of the earlier."""
        if not rows:
            return
        with self._database.transaction():
            (entry_id,) = self._database.next_ids("entry_ids")
            columns = PredictionRow.__dataclass_fields__
            batch = pa.table({name: [getattr(row, name) for row in rows] for name in columns})
            self._database.append("prediction_rows", batch.append_column("entry_id", pa.array([entry_id] * len(rows))))

    def _images(self, condition: str, parameters: Sequence[Any]) -> list[ImageRecord]:
        rows = self._database.rows(f"SELECT {_IMAGE} FROM ({_LATEST}) WHERE {condition} ORDER BY image_id", parameters)
        return [_image(*row) for row in rows]

    def _image_set(self, entry_id: int, name: str, source: str) -> ImageSet:
        members = self._database.rows(
            f"SELECT {_IMAGE} FROM obeql_store.image_set_members WHERE set_entry_id = ? ORDER BY place",
            [entry_id],
        )
        return ImageSet(name, source, tuple(_image(*row) for row in members))

    def _register(self, images: Sequence[ImageRecord]) -> list[ImageRecord]:
        """Do what `register_images` does, inside a transaction of the caller."""
        known = self._known(images)
        handles = [_handle(image) for image in images]
        n_fresh = len({handle for handle in handles if handle} - known.keys()) + handles.count(None)
        fresh = iter(self._database.next_ids("image_ids", n_fresh))
        numbered: list[ImageRecord] = []
        changed: dict[int, ImageRecord] = {}
        for image, handle in zip(images, handles, strict=True):
            before = known.get(handle) if handle is not None else None
            if before is None:
                now = replace(image, image_id=next(fresh))
                changed[_id(now)] = now
            else:
                label = before.label if image.label is None else image.label
                now = replace(image, image_id=before.image_id, label=label, path=before.path, key=before.key)
                stored = replace(now, columns={**before.columns, **image.columns})
                if _identity(stored) != _identity(before):
                    changed[_id(now)] = stored
            if handle is not None:
                known[handle] = changed.get(_id(now), before or now)
            numbered.append(now)
        if changed:
            rows = list(changed.values())
            entries = self._database.next_ids("entry_ids", len(rows))
            self._database.append("image_rows", _image_batch(entries, rows))
        return numbered

    def _known(self, images: Sequence[ImageRecord]) -> dict[tuple[str, str | int], ImageRecord]:
        """Return the stored images that `images` name, by each of the handles they can be named by."""
        wanted = pa.table(
            {
                "path": pa.array([image.path for image in images], pa.string()),
                "key": pa.array([image.key for image in images], pa.string()),
                "image_id": pa.array([image.image_id for image in images], pa.int64()),
            }
        )
        found = self._database.rows_beside(
            f"SELECT {_IMAGE} FROM ({_LATEST}) AS stored WHERE stored.path IN (SELECT path FROM obeql_batch) "
            "OR (stored.path IS NULL AND stored.key IN (SELECT key FROM obeql_batch)) "
            "OR stored.image_id IN (SELECT image_id FROM obeql_batch)",
            wanted,
        )
        known: dict[tuple[str, str | int], ImageRecord] = {}
        for image in (_image(*row) for row in found):
            known["id", _id(image)] = image
            if handle := _handle(image):
                known[handle] = image
        return known


def _handle(image: ImageRecord) -> tuple[str, str | int] | None:
    """Return what an image is recognized by; None when nothing names it, and it is then always a new one."""
    if image.path is not None:
        return ("path", image.path)
    if image.key is not None:
        return ("key", image.key)
    return ("id", image.image_id) if image.image_id is not None else None


def _id(image: ImageRecord) -> int:
    assert image.image_id is not None, "registered images carry their id"
    return image.image_id


def _identity(image: ImageRecord) -> tuple[int | None, str | None, str]:
    return image.image_id, image.label, dump(image.columns)


def _image(image_id: int, path: str | None, key: str | None, label: str | None, columns: str | None) -> ImageRecord:
    return ImageRecord(path=path, image_id=image_id, label=label, key=key, columns=load(columns))


def _common_columns(images: Sequence[ImageRecord]) -> dict[str, pa.Array]:
    return {
        "image_id": pa.array([image.image_id for image in images], pa.int64()),
        "path": pa.array([image.path for image in images], pa.string()),
        "key": pa.array([image.key for image in images], pa.string()),
        "label": pa.array([image.label for image in images], pa.string()),
        "columns": pa.array([dump(image.columns) for image in images], pa.string()),
    }


def _image_batch(entries: Sequence[int], images: Sequence[ImageRecord]) -> pa.Table:
    names = [image_name(image.path) if image.path is not None else image.key for image in images]
    return pa.table(
        {
            "entry_id": pa.array(entries, pa.int64()),
            "name": pa.array(names, pa.string()),
            "written_at": pa.array([utc_now()] * len(images), pa.timestamp("us")),
            **_common_columns(images),
        }
    )


def _member_batch(set_entry_id: int, images: Sequence[ImageRecord]) -> pa.Table:
    return pa.table(
        {
            "set_entry_id": pa.array([set_entry_id] * len(images), pa.int64()),
            "place": pa.array(range(len(images)), pa.int64()),
            **_common_columns(images),
        }
    )
