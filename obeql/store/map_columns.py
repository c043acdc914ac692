"""Heat maps as Arrow rows and back: 2-D planes as nested lists, and the digest that recognizes a stored map.

Used by `maps`, which says where the rows go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from obeql.errors import InternalError
from obeql.planner.cells import CellKey, MapCells, others_of
from obeql.planner.fills import fill_with_channels, hidden_channels
from obeql.store.codec import dump, load
from obeql.store.images import ImageContent

__all__ = [
    "MAP_COLUMNS",
    "MAP_FACTS",
    "MEMBER_COLUMNS",
    "PLANES",
    "Box",
    "ImageMaps",
    "StoredMap",
    "exact_only",
    "map_batch",
    "map_digest",
    "maps_of",
    "member_batch",
    "stored_maps_of",
]

Array = npt.NDArray[Any]

#: Where a box starts on each axis, then how far it reaches: (top, left, height, width) of images.
Box = tuple[float, ...]

#: Quality of a map that has a column of its own; all of it is kept as JSON besides.
_QUALITY: Mapping[str, tuple[pa.DataType, Callable[[Any], Any]]] = {
    "approx": (pa.bool_(), bool),
    "metric": (pa.string(), str),
    "target": (pa.float64(), float),
    "confidence": (pa.float64(), float),
    "bound": (pa.float64(), float),
    "n_exact": (pa.int64(), int),
    "n_audit": (pa.int64(), int),
    "seed": (pa.int64(), int),
}
#: What is known of a map without reading its planes, and with them.
MAP_FACTS = (
    "map.map_id, map.image_hash, map.model_hash, map.preprocessing_hash, map.patch_height, map.patch_width, map.fill, "
    'map."precision", map.class_id, map.n_rows, map.n_cols, map.tops, map.lefts, map.heights, map.widths, '
    "map.clean_logit, map.clean_others, map.clean_top_class"
)
MAP_COLUMNS = f"{MAP_FACTS}, map.logit, map.log_odds, map.top_class, map.exact"
MEMBER_COLUMNS = (
    "member.entry_id, member.run_id, member.image_id, member.class_name, member.stride_height, member.stride_width, "
    "member.input_height, member.input_width, member.source_top, member.source_left, member.source_height, "
    "member.source_width, member.quality, member.label, member.stride_depth, member.input_depth, member.source_front, "
    "member.source_depth"
)
#: The columns of a cell each; `log_odds` is made of two others.
PLANES = ("logit", "others", "log_odds", "top_class", "exact")
_NO_CLASS = -1


@dataclass(frozen=True, slots=True)
class ImageMaps:
    """The maps of one image, to be written together.

    `class_names` names the maps' classes. `input_size` is the size of the model's input in pixels, an axis after the
    other, and `source_box` the part of the source it shows, starts and then extents in source pixels; both None when
    the source is not to be drawn. `strides` has one of each axis for each map; None reads them off the grid.
    `content` is what the image held when it was decoded.
    `extra_maps` belong to no run: they hold cells for statements that come later. `labels` are the labels of the image
    that ask for the maps' classes, where labels do.
    """

    image_id: int
    maps: Sequence[MapCells]
    class_names: Mapping[int, str]
    input_size: tuple[int, ...] | None = None
    source_box: Box | None = None
    strides: Sequence[tuple[int, ...]] | None = None
    content: ImageContent | None = None
    extra_maps: Sequence[MapCells] = ()
    labels: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class StoredMap:
    """A map of a run as read back; `cells.quality` is the run's own promise about it."""

    run_id: int
    map_id: int
    image_id: int
    class_name: str
    cells: MapCells
    stride: tuple[int | None, ...]
    input_size: tuple[int, ...] | None
    source_box: Box | None
    label: str | None = None


def _check(cells: MapCells) -> None:
    """Raise InternalError unless every plane has the shape its grid says."""
    shape = cells.shape
    planes: dict[str, Array | None] = {
        "logit": cells.logit,
        "others": cells.others,
        "top_class": cells.top_class,
        "exact": cells.exact,
    }
    for name, plane in planes.items():
        if plane is not None and plane.shape != shape:
            raise InternalError(f"plane {name!r} of a map has shape {plane.shape}, its grid has {shape}")
    starts, lengths = tuple(map(len, cells.starts)), tuple(map(len, cells.lengths))
    if starts != lengths or (cells.listed and len(set(starts)) > 1):
        raise InternalError(f"a map has windows that start {starts} times along its axes, and end {lengths} times")


def map_digest(cells: MapCells) -> str:
    """Return the hex hash of everything a map row holds: content key, class, grid, and every number."""
    _check(cells)
    hasher = hashlib.blake2b(digest_size=20)
    key = cells.key
    fill = fill_with_channels(key.fill, key.channels)
    content: tuple[object, ...] = (key.image_hash, key.model_hash, key.preprocessing_hash, key.patch, fill)
    content = (*content, key.precision, *(() if cells.listed is None else (cells.listed.digests,)))
    clean = (float(cells.clean_logit).hex(), float(cells.clean_others).hex(), int(cells.clean_top_class))
    hasher.update(dump((content, cells.class_id, cells.logit.shape, cells.exact is None, clean)).encode())
    for array in (*cells.starts, *cells.lengths, cells.top_class):
        hasher.update(np.ascontiguousarray(array, dtype=np.int32).tobytes())
    for plane in (cells.logit, cells.others):
        hasher.update(np.ascontiguousarray(plane, dtype=np.float32).tobytes())
    if cells.exact is not None:
        hasher.update(np.ascontiguousarray(cells.exact, dtype=np.bool_).tobytes())
    return hasher.hexdigest()


def map_batch(map_ids: Sequence[int], digests: Sequence[str], maps: Sequence[MapCells]) -> pa.Table:
    """Return the rows of the table `maps`; what it cannot hold of a map of more than two axes, `axes` keeps."""
    maps = [_folded(cells) for cells in maps]
    missing = [np.isnan(cells.logit) | np.isnan(cells.others) for cells in maps]
    no_class = [mask | (cells.top_class < 0) for cells, mask in zip(maps, missing, strict=True)]
    nowhere = [np.zeros(mask.shape, bool) for mask in missing]
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, as it should be
        log_odds = [(cells.logit - np.asarray(cells.others, np.float64)).astype(np.float32) for cells in maps]
        clean = [np.float32(cells.clean_logit - cells.clean_others) for cells in maps]
    int32, float32, text = pa.int32(), pa.float32(), pa.string()
    return pa.table(
        {
            "map_id": pa.array(map_ids, pa.int64()),
            "digest": pa.array(digests, text),
            "image_hash": pa.array([cells.key.image_hash for cells in maps], text),
            "model_hash": pa.array([cells.key.model_hash for cells in maps], text),
            "preprocessing_hash": pa.array([cells.key.preprocessing_hash for cells in maps], text),
            "patch_height": pa.array([cells.key.patch[-2] for cells in maps], int32),
            "patch_width": pa.array([cells.key.patch[-1] for cells in maps], int32),
            "fill": pa.array([fill_with_channels(cells.key.fill, cells.key.channels) for cells in maps], text),
            "precision": pa.array([cells.key.precision for cells in maps], text),
            "class_id": pa.array([cells.class_id for cells in maps], int32),
            "n_rows": pa.array([len(cells.logit) for cells in maps], int32),
            "n_cols": pa.array([cells.shape[-1] for cells in maps], int32),
            "tops": _list_column([cells.starts[-2] for cells in maps], int32),
            "lefts": _list_column([cells.starts[-1] for cells in maps], int32),
            "heights": _list_column([cells.lengths[-2] for cells in maps], int32),
            "widths": _list_column([cells.lengths[-1] for cells in maps], int32),
            "clean_logit": pa.array([float(cells.clean_logit) for cells in maps], pa.float64()),
            "clean_others": pa.array([float(cells.clean_others) for cells in maps], pa.float64()),
            "clean_log_odds": pa.array([float(value) for value in clean], pa.float64()),
            "clean_top_class": pa.array([int(cells.clean_top_class) for cells in maps], int32),
            "logit": _plane_column([cells.logit for cells in maps], missing, float32),
            "others": _plane_column([cells.others.astype(np.float32) for cells in maps], missing, float32),
            "log_odds": _plane_column(log_odds, missing, float32),
            "top_class": _plane_column([cells.top_class for cells in maps], no_class, int32),
            "exact": _plane_column([cells.exact for cells in maps], nowhere, pa.bool_()),
        }
    )


def member_batch(run_id: int, entries: Sequence[int], map_ids: Sequence[int], images: Sequence[ImageMaps]) -> pa.Table:
    """Return the rows of the table `run_maps`, one a map of `images`, in order."""
    rows = []
    for image in images:
        box = image.source_box or (None,) * 4
        front, top, left = _last_three(box[: len(box) // 2])
        depth, height, width = _last_three(box[len(box) // 2 :])
        input_depth, input_height, input_width = _last_three(image.input_size or (None, None))
        for place, cells in enumerate(image.maps):
            stride = _last_three(image.strides[place] if image.strides else tuple(map(_step, cells.starts)))
            rows.append(
                {
                    "image_id": image.image_id,
                    "class_id": cells.class_id,
                    "class_name": image.class_names.get(cells.class_id, str(cells.class_id)),
                    "stride_depth": stride[0],
                    "stride_height": stride[1],
                    "stride_width": stride[2],
                    "input_depth": input_depth,
                    "input_height": input_height,
                    "input_width": input_width,
                    "source_front": front,
                    "source_depth": depth,
                    "source_top": top,
                    "source_left": left,
                    "source_height": height,
                    "source_width": width,
                    "quality": dump(cells.quality),
                    "label": image.labels.get(cells.class_id),
                    **_stated(cells),
                }
            )
    small = ("class_id", "stride_height", "stride_width", "input_height", "input_width", "stride_depth", "input_depth")
    kinds = dict.fromkeys(small, pa.int32())
    large = ("source_top", "source_left", "source_height", "source_width", "source_front", "source_depth")
    kinds |= dict.fromkeys(large, pa.float64())
    kinds |= {"image_id": pa.int64(), "class_name": pa.string(), "quality": pa.string(), "label": pa.string()}
    kinds |= {name: kind for name, (kind, _) in _QUALITY.items()}
    table = {name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()}
    table["entry_id"] = pa.array(entries, pa.int64())
    table["run_id"] = pa.array([run_id] * len(rows), pa.int64())
    table["map_id"] = pa.array(map_ids, pa.int64())
    return pa.table(table)


def _last_three(numbers: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Return what is stored of one number an axis, of depth, height and width; None of a depth that images lack."""
    depth, height, width = (None, *numbers)[-3:]
    return depth, height, width


def _folded(cells: MapCells) -> MapCells:
    """Return a map with planes of lines along the last axis, (rows, cols)."""
    if cells.logit.ndim == 2:
        return cells
    lines = (-1, cells.shape[-1])
    return replace(
        cells,
        logit=cells.logit.reshape(lines),
        others=cells.others.reshape(lines),
        top_class=cells.top_class.reshape(lines),
        exact=None if cells.exact is None else cells.exact.reshape(lines),
    )


def _step(starts: npt.NDArray[np.int32]) -> int | None:
    """Return the stride a grid shows: its first step, which the border rules leave alone unless it is the only one."""
    return int(starts[1] - starts[0]) if len(starts) > 1 else None


def _stated(cells: MapCells) -> dict[str, Any]:
    """Return the quality columns; a map that states nothing is exact."""
    given = {"approx": False, "n_exact": _count_exact(cells), **cells.quality}
    stated: dict[str, Any] = {}
    for name, (_, convert) in _QUALITY.items():
        value = given.get(name)
        stated[name] = None if value is None else convert(value)
    return stated


def _count_exact(cells: MapCells) -> int:
    computed = ~(np.isnan(cells.logit) | np.isnan(cells.others))
    return int(np.count_nonzero(computed if cells.exact is None else computed & cells.exact))


def maps_of(table: pa.Table) -> list[MapCells]:
    """Return the maps of a result that has MAP_COLUMNS, in its order, without quality."""
    return [_cells(batch, row, {}) for batch, row in _rows(table)]


def stored_maps_of(table: pa.Table) -> list[StoredMap]:
    """Return maps of rows that have MEMBER_COLUMNS and MAP_COLUMNS (or MAP_FACTS), in the order they were written."""
    numbered = []
    for batch, row in _rows(table):
        at = {name: batch[name][row].as_py() for name in _SCALARS}
        is_deep = at["input_depth"] is not None
        stride, size = _numbers(at, "stride", is_deep), _numbers(at, "input", is_deep)
        found = StoredMap(
            run_id=at["run_id"],
            map_id=at["map_id"],
            image_id=at["image_id"],
            class_name=at["class_name"],
            cells=_cells(batch, row, load(at["quality"])),
            stride=stride,
            input_size=None if at["input_height"] is None else size,
            source_box=_source_box(at, is_deep),
            label=at["label"],
        )
        numbered.append((at["entry_id"], found))
    return [found for _, found in sorted(numbered, key=lambda pair: pair[0])]


_SCALARS = ("map_id", *(name.removeprefix("member.") for name in MEMBER_COLUMNS.split(", ")))


_SIDES = ("depth", "height", "width")


def _numbers(at: Mapping[str, Any], name: str, is_deep: bool) -> tuple[Any, ...]:
    """Return what a row says of each axis under a name, such as `stride`; of images of height and width alone."""
    return tuple(at[f"{name}_{side}"] for side in (_SIDES if is_deep else _SIDES[1:]))


def _source_box(at: Mapping[str, Any], is_deep: bool) -> Box | None:
    if at["source_top"] is None:
        return None
    starts = (at["source_front"], at["source_top"], at["source_left"])
    return (*(starts if is_deep else starts[1:]), *_numbers(at, "source", is_deep))


def exact_only(cells: MapCells) -> MapCells:
    """Return the same map with NaN in every cell that is not exact."""
    if cells.exact is None:
        return cells
    hidden = np.float32(np.nan)
    return replace(
        cells,
        logit=np.where(cells.exact, cells.logit, hidden),
        others=np.where(cells.exact, cells.others, np.nan),
        top_class=np.where(cells.exact, cells.top_class, np.int32(_NO_CLASS)),
        exact=None,
    )


def _rows(table: pa.Table) -> Iterator[tuple[dict[str, pa.Array], int]]:
    """Yield each row as (columns of its batch, place in it).

    Batches are not joined, whose lists might pass 2^31 cells.
    """
    for batch in table.to_batches():
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for row in range(batch.num_rows):
            yield columns, row


def _cells(columns: Mapping[str, pa.Array], row: int, quality: dict[str, Any]) -> MapCells:
    def value(name: str) -> Any:
        return columns[name][row].as_py()

    def axis(name: str) -> npt.NDArray[np.int32]:
        return np.array(columns[name][row].values.to_numpy(), dtype=np.int32)

    def plane(name: str, missing: Any) -> Array | None:
        if "logit" not in columns:  # planes were not asked for
            return None if name == "exact" else np.empty((0, 0))
        return _plane(columns[name], row, (value("n_rows"), value("n_cols")), missing)

    fill, channels = hidden_channels(value("fill"))
    exact = plane("exact", False)
    logit = _required(plane("logit", np.nan)).astype(np.float32)
    return MapCells(
        key=CellKey(
            value("image_hash"),
            value("model_hash"),
            value("preprocessing_hash"),
            (value("patch_height"), value("patch_width")),
            fill,
            value("precision"),
            channels,
        ),
        class_id=value("class_id"),
        starts=(axis("tops"), axis("lefts")),
        lengths=(axis("heights"), axis("widths")),
        logit=logit,
        others=others_of(logit, _required(plane("log_odds", np.nan))),
        top_class=_required(plane("top_class", _NO_CLASS)).astype(np.int32),
        clean_logit=value("clean_logit"),
        clean_others=value("clean_others"),
        clean_top_class=value("clean_top_class"),
        exact=None if exact is None else exact.astype(np.bool_),
        quality=quality,
    )


def _required(plane: Array | None) -> Array:
    if plane is None:
        raise InternalError("a stored map lacks one of its planes; the database file was changed by hand")
    return plane


def _list_column(arrays: Sequence[Array], kind: pa.DataType) -> pa.Array:
    """Return one list a row, from 1-D arrays."""
    values = np.concatenate([np.asarray(array) for array in arrays]) if arrays else np.empty(0)
    return pa.ListArray.from_arrays(_offsets([len(array) for array in arrays]), pa.array(values, type=kind))


def _plane_column(
    planes: Sequence[Array | None], missing: Sequence[npt.NDArray[np.bool_]], kind: pa.DataType
) -> pa.Array:
    """Return one 2-D list a row, from (rows, cols) arrays.

    It is NULL where `missing` is true, and for a plane that is None.
    """
    given = [plane for plane in planes if plane is not None]
    masks = [mask for plane, mask in zip(planes, missing, strict=True) if plane is not None]
    values = np.concatenate([plane.ravel() for plane in given]) if given else np.empty(0)
    mask = np.concatenate([mask.ravel() for mask in masks]) if masks else np.empty(0, bool)
    flat = pa.array(values, type=kind, mask=mask if mask.any() else None)
    rows = pa.ListArray.from_arrays(_offsets([plane.shape[1] for plane in given for _ in range(plane.shape[0])]), flat)
    absent = np.array([plane is None for plane in planes], bool)
    offsets = _offsets([0 if plane is None else plane.shape[0] for plane in planes])
    return pa.ListArray.from_arrays(offsets, rows, mask=pa.array(absent) if absent.any() else None)


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), type=pa.int32())


def _plane(column: pa.Array, row: int, shape: tuple[int, int], missing: Any) -> Array | None:
    """Return the (rows, cols) array of one row of a 2-D list column, `missing` for NULL cells.

    Return None for a NULL plane.
    """
    scalar = column[row]
    if not scalar.is_valid:
        return None
    flat = scalar.values.flatten()
    if flat.null_count:
        flat = flat.fill_null(missing)
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(shape)
