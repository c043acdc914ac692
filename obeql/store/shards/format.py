"""The form of a shard: a Parquet file with the finished maps of several images, a row a map.

Before it: `map_columns` has made columns of the maps. After it: `loader` takes shards into the store, `external` reads
the planes of those that stay files. A row holds all that the tables `maps` and `run_maps` say of a map, so that a
folder of shards is of use without the database: `path` or `key` name the image, `place` is the map's place among those
of its image, NULL for cells that only later statements want.

The id of a map in a shard says where it is: bit 62 is set, 46 random bits are the shard's, 16 bits are the row.
Databases that share a folder therefore never mean different maps by one id, and no id is one of the sequence.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from obeql.errors import StoreError
from obeql.planner.catalog import ImageRecord
from obeql.store.axes import AXIS_COLUMNS, axis_batch
from obeql.store.codec import dump, load
from obeql.store.histogram_rows import FIRST_ID
from obeql.store.histograms import histograms_of
from obeql.store.map_columns import PLANES, ImageMaps, map_batch, map_digest, member_batch
from obeql.store.shards.folder import Folder

__all__ = [
    "AXIS_TABLE",
    "CONTENTS",
    "FIRST_ID",
    "HISTOGRAM",
    "MAP_TABLE",
    "MOST_ROWS",
    "SHARD_OF",
    "SUFFIX",
    "Shard",
    "check_footer",
    "check_maps",
    "read_rows",
    "read_shard",
    "row_of",
    "shard_bytes",
    "shard_name",
    "shard_of",
]

SUFFIX = ".parquet"
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

#: What a shard says of the image that a map is of, beside its hash; the fields of `ImageContent`.
CONTENTS: Mapping[str, pa.DataType] = {
    "image_height": pa.int32(),
    "image_width": pa.int32(),
    "series_uid": pa.string(),
    "pixel_height_mm": pa.float64(),
    "pixel_width_mm": pa.float64(),
    "image_depth": pa.int32(),
    "pixel_depth_mm": pa.float64(),
}

#: Columns of the table `axis_rows` in the shard, of maps of more than two axes.
AXIS_TABLE: Mapping[str, str] = {f"axis_{name}": name for name in AXIS_COLUMNS}

#: The histogram of each map, which the database keeps beside the table `maps`.
HISTOGRAM = "counts"

#: Columns of the table `maps`, in the shard and there.
MAP_TABLE: tuple[str, ...] = tuple(map_batch([], [], []).column_names)


def shard_of(map_id: int) -> int:
    """Return the number of the shard that a map is in."""
    return map_id >> _ROW_BITS


def row_of(map_id: int) -> int:
    """Return the row of a map in its shard."""
    return map_id & (MOST_ROWS - 1)


def shard_name(model_hash: str, shard: int) -> str:
    """Return where a shard lies in its folder: a partition for each model."""
    return f"model_hash={model_hash}/{shard:012x}{SUFFIX}"


def shard_bytes(images: Sequence[tuple[ImageRecord, ImageMaps]], origin: str) -> tuple[int, bytes]:
    """Return the number of a new shard with the maps of these images, and the file; MOST_ROWS maps at most.

    `origin` is the id of the database it is written for.
    """
    maps = [cells for _, image in images for cells in image.maps]
    if len(maps) + sum(len(image.extra_maps) for _, image in images) > MOST_ROWS:
        raise StoreError(
            f"a Parquet file holds {MOST_ROWS:,} maps at most; ask for fewer classes, or SET obeql.store = 'duckdb'"
        )
    members = member_batch(0, [0] * len(maps), [0] * len(maps), [image for _, image in images])
    extra = [cells for _, image in images for cells in image.extra_maps]
    shard = secrets.randbits(62 - _ROW_BITS) | FIRST_ID >> _ROW_BITS
    ids = range(shard << _ROW_BITS, (shard << _ROW_BITS) + len(maps) + len(extra))
    every = [*maps, *extra]
    table = map_batch(ids, [map_digest(cells) for cells in every], every)
    table = table.append_column(HISTOGRAM, histograms_of(table))
    own = [name for name in members.column_names if name not in ("run_id", "entry_id", "image_id", *MAP_TABLE)]
    for name in own:
        filled = [members[name].combine_chunks(), pa.nulls(len(extra), members[name].type)]
        table = table.append_column(name, pa.concat_arrays(filled))
    axes = axis_batch(every)
    for name, of in AXIS_TABLE.items():
        table = table.append_column(name, axes[of])
    places = [at for _, image in images for at in range(len(image.maps))] + [None] * len(extra)
    owners = [each for each in images for _ in each[1].maps] + [each for each in images for _ in each[1].extra_maps]
    further: dict[str, tuple[Sequence[Any], pa.DataType]] = {
        "place": (places, pa.int32()),
        "path": ([image.path for image, _ in owners], pa.string()),
        "key": ([image.key for image, _ in owners], pa.string()),
    }
    for name, kind in CONTENTS.items():
        contents = (each.content for _, each in owners)
        further[name] = [content and getattr(content, name.removeprefix("image_")) for content in contents], kind
    for name, (values, kind) in further.items():
        table = table.append_column(name, pa.array(values, kind))
    table = table.replace_schema_metadata({_KEY: dump({"form": _FORM, "shard": str(shard), "origin": origin}).encode()})
    out = BytesIO()
    parquet.write_table(table, out, compression="lz4", row_group_size=_GROUP_ROWS, use_dictionary=list(_REPEATED))
    return shard, out.getvalue()


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A shard as read: its name and number, the id of the database it was written for, and its rows."""

    name: str
    number: int
    origin: str
    rows: pa.Table


def read_shard(folder: Folder, name: str, columns: Sequence[str] | None = None) -> Shard:
    """Read what a shard says of its maps, without their planes; `columns` leaves out more.

    Raises StoreError, which names the file, where it is missing, damaged, or no shard.
    """
    with _opened(folder, name) as file:
        said = load((file.schema_arrow.metadata or {}).get(_KEY, b"").decode() or None)
        number = str(said.get("shard", ""))
        if said.get("form") != _FORM or f"{int(number or 0):012x}" != PurePosixPath(name).stem:
            why = "was renamed" if said.get("form") == _FORM else "is no file that OBEQL has written"
            if isinstance(said.get("form"), int) and said["form"] > _FORM:
                why = "was written by a newer OBEQL"
            raise StoreError(f"{folder.path(name)!r} {why}, and its folder is for files of maps alone; move it away")
        columns = columns or [column for column in file.schema_arrow.names if column not in PLANES]
        return Shard(name, int(number), str(said.get("origin", "")), file.read(columns=list(columns)))


def check_footer(folder: Folder, name: str) -> None:
    """Read where the maps of a shard are, and not the maps. Raises StoreError, as above, where that fails."""
    with _opened(folder, name):
        return


def check_maps(folder: Folder, name: str) -> None:
    """Read the maps of a shard with their planes. Raises StoreError, as above, where that fails."""
    with _opened(folder, name) as file:
        for _ in file.iter_batches(batch_size=_GROUP_ROWS, columns=list(MAP_TABLE), use_threads=False):
            continue


def read_rows(folder: Folder, name: str, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Return columns of some rows of a shard, in the order given.

    Other rows are not read. Raises StoreError, as above.
    """
    groups = sorted({row // _GROUP_ROWS for row in rows})
    place = {group: at for at, group in enumerate(groups)}
    with _opened(folder, name) as file:
        table = file.read_row_groups(groups, columns=list(columns))
        return table.take([place[row // _GROUP_ROWS] * _GROUP_ROWS + row % _GROUP_ROWS for row in rows])


#: What helps meanwhile, for statements that would have used what the file holds.
_ANEW = "; with NO REUSE, EXPLAIN OCCLUDE computes its cells again meanwhile"


@contextmanager
def _opened(folder: Folder, name: str) -> Iterator[parquet.ParquetFile]:
    try:
        with folder.open(name) as stream, parquet.ParquetFile(stream) as file:
            yield file
    except FileNotFoundError as error:
        raise StoreError(
            f"the Parquet file {folder.path(name)!r} is gone; put it back, or drop the runs whose maps it holds{_ANEW}"
        ) from error
    except (OSError, IndexError, KeyError, ValueError, pa.ArrowException) as error:
        raise _damaged(folder, name, error) from error


def _damaged(folder: Folder, name: str, error: BaseException) -> StoreError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return StoreError(
        f"the Parquet file {folder.path(name)!r} is damaged ({reason}); put a copy of it back, or move it away and "
        f"drop the runs whose maps it holds{_ANEW}"
    )
