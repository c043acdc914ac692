"""The form of a shard: a Parquet file with the finished maps of several images, a row a map.

Before it: `planes` has made columns of the maps. After it: `incoming` takes shards into the store, `placed` reads the
planes of those that stay files. A row holds all that the tables `maps` and `run_maps` say of a map, so that a folder of
shards is of use without the database: `path` or `key` name the image, `place` is the map's place among those of its
image, NULL for cells that only later statements want.

The id of a map in a shard says where it is: bit 62 is set, 46 random bits are the shard's, 16 bits are the row.
Databases that share a folder therefore never mean different maps by one id, and no id is one of the sequence.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from obeql.errors import StoreError
from obeql.planner.catalog import ImageRecord
from obeql.store.codec import dump, load
from obeql.store.folder import Folder
from obeql.store.planes import PLANES, ImageMaps, map_batch, map_digest, member_batch

__all__ = [
    "FIRST_ID",
    "MAP_TABLE",
    "MOST_ROWS",
    "SHARD_OF",
    "SUFFIX",
    "ShardFile",
    "open_shard",
    "row_of",
    "shard_bytes",
    "shard_name",
    "shard_of",
]

SUFFIX = ".parquet"
#: Ids of maps in shards begin here; those of the database's sequence never come near.
FIRST_ID = 1 << 62
_ROW_BITS = 16
#: In SQL, the number of the shard that a map is in.
SHARD_OF = f"map_id >> {_ROW_BITS}"
#: Most maps of one shard.
MOST_ROWS = 1 << _ROW_BITS
#: Maps that are read together where one is wanted.
_GROUP_ROWS = 64

_FORM = 1
_KEY = b"obeql"
#: Floats are noise: no dictionary. Classes repeat. A page of each is compressed fast.
_SAME = ("top_class", "exact", "tops", "lefts", "heights", "widths")
_REPEATED = (
    *("image_hash", "model_hash", "preprocessing_hash", "fill", "precision", "path", "class_name", "quality", "metric"),
    *(f"{name}.list.element" for name in _SAME[2:]),
    *(f"{name}.list.element.list.element" for name in _SAME[:2]),
)

#: Columns of the table `maps`, in the shard and there.
MAP_TABLE: tuple[str, ...] = tuple(map_batch([], [], []).column_names)


def shard_of(map_id: int) -> int:
    """The number of the shard that a map is in."""
    return map_id >> _ROW_BITS


def row_of(map_id: int) -> int:
    """The row of a map in its shard."""
    return map_id & (MOST_ROWS - 1)


def shard_name(model_hash: str, shard: int) -> str:
    """Where a shard lies in its folder: a partition for each model."""
    return f"model_hash={model_hash}/{shard:012x}{SUFFIX}"


def shard_bytes(images: Sequence[tuple[ImageRecord, ImageMaps]], origin: str) -> tuple[int, bytes]:
    """The number of a new shard with the maps of these images, and the file; MOST_ROWS maps at most.

    `origin` is the id of the database it is written for.
    """
    maps = [cells for _, image in images for cells in image.maps]
    if len(maps) + sum(len(image.beside) for _, image in images) > MOST_ROWS:
        raise StoreError(
            f"a shard holds {MOST_ROWS:,} maps at most; ask for fewer classes, or SET obeql.store = 'duckdb'"
        )
    members = member_batch(0, [0] * len(maps), [0] * len(maps), [image for _, image in images])
    beside = [cells for _, image in images for cells in image.beside]
    shard = secrets.randbits(62 - _ROW_BITS) | FIRST_ID >> _ROW_BITS
    ids = range(shard << _ROW_BITS, (shard << _ROW_BITS) + len(maps) + len(beside))
    every = [*maps, *beside]
    table = map_batch(ids, [map_digest(cells) for cells in every], every)
    rows = pa.table(
        {name: members[name] for name in members.column_names if name not in ("run_id", "entry_id", *MAP_TABLE)}
    ).drop_columns(["image_id"])
    rows = _append_column(rows, "place", [at for _, image in images for at in range(len(image.maps))], pa.int32())
    padded = pa.concat_tables(
        [rows, pa.table({field.name: pa.nulls(len(beside), field.type) for field in rows.schema})]
    )
    owners = [image for image, each in images for _ in each.maps] + [
        image for image, each in images for _ in each.beside
    ]
    contents = [each.content for _, each in images for _ in each.maps]
    contents += [each.content for _, each in images for _ in each.beside]
    for name in padded.column_names:
        table = table.append_column(name, padded[name])
    table = _append_column(table, "path", [image.path for image in owners], pa.string())
    table = _append_column(table, "key", [image.key for image in owners], pa.string())
    for name, kind in _CONTENT.items():
        values = [None if content is None else getattr(content, name) for content in contents]
        table = _append_column(table, f"image_{name}" if name in ("height", "width") else name, values, kind)
    table = table.replace_schema_metadata({_KEY: dump({"form": _FORM, "shard": str(shard), "origin": origin}).encode()})
    out = BytesIO()
    parquet.write_table(table, out, compression="lz4", row_group_size=_GROUP_ROWS, use_dictionary=list(_REPEATED))
    return shard, out.getvalue()


_CONTENT: Mapping[str, pa.DataType] = {
    "height": pa.int32(),
    "width": pa.int32(),
    "series_uid": pa.string(),
    "pixel_height_mm": pa.float64(),
    "pixel_width_mm": pa.float64(),
}


def _append_column(table: pa.Table, name: str, values: Sequence[Any], kind: pa.DataType) -> pa.Table:
    return table.append_column(name, pa.array(values, kind))


@dataclass(frozen=True)
class ShardFile:
    """A shard that was opened: its number, the id of the database it was written for, and what is in it."""

    folder: Folder
    name: str
    shard: int
    origin: str
    file: parquet.ParquetFile

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """These columns of all rows, or all of them."""
        try:
            return self.file.read(columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.folder, self.name, error) from error

    def facts(self) -> pa.Table:
        """All rows without their planes."""
        return self.read([name for name in self.file.schema_arrow.names if name not in PLANES])

    def rows(self, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """These columns of some rows, in the order given."""
        groups = sorted({row // _GROUP_ROWS for row in rows})
        place = {group: at for at, group in enumerate(groups)}
        try:
            table = self.file.read_row_groups(groups, columns=list(columns))
            return table.take([place[row // _GROUP_ROWS] * _GROUP_ROWS + row % _GROUP_ROWS for row in rows])
        except (OSError, IndexError, pa.ArrowException) as error:
            raise _damaged(self.folder, self.name, error) from error


def open_shard(folder: Folder, name: str) -> ShardFile:
    """Open a shard. Raises StoreError, which names the file, where it is missing, damaged, or no shard."""
    try:
        file = parquet.ParquetFile(folder.open(name))
    except FileNotFoundError as error:
        raise StoreError(
            f"the shard {folder.path(name)!r} is gone; put it back, or drop the runs whose maps it holds"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise _damaged(folder, name, error) from error
    said = load((file.schema_arrow.metadata or {}).get(_KEY, b"").decode() or None)
    number = str(said.get("shard", ""))
    if said.get("form") != _FORM or f"{int(number or 0):012x}" != PurePosixPath(name).stem:
        why = "was renamed" if said.get("form") == _FORM else "is no file that OBEQL has written"
        if isinstance(said.get("form"), int) and said["form"] > _FORM:
            why = "was written by a newer OBEQL"
        raise StoreError(f"{folder.path(name)!r} {why}, and its folder is for shards alone; move it away")
    return ShardFile(folder, name, int(number), str(said.get("origin", "")), file)


def _damaged(folder: Folder, name: str, error: BaseException) -> StoreError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return StoreError(
        f"the shard {folder.path(name)!r} is damaged ({reason}); move it away, and the statement computes its maps anew"
    )
