"""Bind the windows that a statement lists: the rows of WINDOWS (SELECT ..), of Python, or of a label picture.

Part of binding: rows become checked `Region`s, errors say which row is at fault. What comes after takes a `RegionGrid`
as it takes a grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from obeql.errors import ImageError, QueryError, QueryTypeError, UnknownNameError
from obeql.grammar import syntax
from obeql.planner.binding.clause_names import clause
from obeql.planner.binding.error_location import locate
from obeql.planner.binding.python_windows import table_of
from obeql.planner.binding.sources import select_values
from obeql.planner.binding.values import Parameters, parameter_value, show_pair
from obeql.planner.catalog import Catalog, ImageRecord, ModelRecord, WindowTable
from obeql.planner.regions import Mask, Region, RegionGrid, label_boxes, mask_region

__all__ = ["bind_windows"]

_SIDES = ("top", "left", "height", "width")
#: labels of a picture; a photograph taken for one has many
_MOST_LABELS = 10_000
#: columns that say which image a window is of
_IMAGE_COLUMNS = ("path", "file", "filename", "image_id", "image")


def bind_windows(
    node: syntax.Windows, catalog: Catalog, parameters: Parameters, model: ModelRecord, images: Sequence[ImageRecord]
) -> RegionGrid:
    """Return the windows that WINDOWS lists, in the order of its rows.

    Raises QueryTypeError for rows that are no windows of the model's input, UnknownNameError where none is of an image
    of the statement.
    """
    try:
        source = node.source
        if isinstance(source, syntax.SelectSource):
            table = catalog.windows_selected(source.query, select_values(source, parameters))
        else:
            table = table_of(parameter_value(source, parameters), _size_of(model))
        return _Rows(clause("WINDOWS", node), table, catalog, model).grid(images)
    except QueryError as wrong:
        inside = isinstance(node.source, syntax.SelectSource) and wrong.offset is not None
        start = node.source.span.start + 1 + (wrong.offset or 0) if inside else None
        raise locate(wrong, node.source if isinstance(node.source, syntax.SelectSource) else node, start) from None


def bind_label_picture(
    path: str, node: syntax.Node, catalog: Catalog, model: ModelRecord, images: Sequence[ImageRecord]
) -> RegionGrid:
    """Return a window for each label but 0 of a picture, `mask='organs.png'`. Raises QueryTypeError."""
    try:
        return _Rows("mask", WindowTable(["labels"], [(path,)]), catalog, model).grid(images)
    except QueryError as wrong:
        raise locate(wrong, node) from None


def bind_segments(
    call: str, node: syntax.Node, catalog: Catalog, model: ModelRecord, images: Sequence[ImageRecord]
) -> RegionGrid:
    """Return the segments of each image, `segments=slic(100)`. Raises QueryTypeError, ImageError of a single image.

    One of several images that cannot be read has none; it fails by itself, later.
    """
    rows = []
    for image in images:
        try:
            rows.append((image.shown, catalog.segments(image, call, model.preprocessing)))
        except ImageError:
            if len(images) == 1:
                raise
    try:
        if len(images) == 1:
            return _Rows("segments", WindowTable(["labels"], [rows[0][1:]]), catalog, model).grid(images)
        return _Rows("segments", WindowTable(["path", "labels"], rows), catalog, model).grid(images)
    except QueryError as wrong:
        raise locate(wrong, node) from None


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The rows of a table of windows, and the model whose input they lie in. `what` is the clause in messages."""

    what: str
    table: WindowTable
    catalog: Catalog
    model: ModelRecord
    #: number of each column; of a million rows none is looked up by its name
    places: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.places.update((name, number) for number, name in reversed([*enumerate(self.table.columns)]))

    @property
    def size(self) -> tuple[int, int]:
        return _size_of(self.model)

    def grid(self, images: Sequence[ImageRecord]) -> RegionGrid:
        """Return the windows, with those of each image where the rows say which image they are of."""
        if not self.table.rows:
            raise QueryTypeError(f"{self.what} yields no windows: at least one row is needed.")
        missing = [name for name in _SIDES if self._place(name) is None and self._place("labels") is None]
        if missing and (self._place("mask") is None or len(missing) < len(_SIDES)):
            raise QueryTypeError(
                f"{self.what} yields the columns {', '.join(self.table.columns)}; it lacks {', '.join(missing)}. "
                "Windows are top, left, height, width in pixels of the model's input, or mask; name is optional."
            )
        found = self._plain_boxes()
        if found is None:
            found = [region for number in range(len(self.table.rows)) for region in self._regions(number)]
        if not found:
            raise QueryTypeError(f"{self.what} yields no windows: all labels are 0.")
        regions = [region for _, region in found]
        column = next((name for name in _IMAGE_COLUMNS if self._place(name) is not None), None)
        if column is None:
            return RegionGrid.of(regions, self.size)
        return self._of_images(column, found, images)

    def _of_images(self, column: str, found: Sequence[tuple[int, Region]], images: Sequence[ImageRecord]) -> RegionGrid:
        """Return the windows of the statement's images, each with its own; rows of other images are left out."""
        handles = _handles(column, images)
        kept: list[Region] = []
        members: dict[str, list[int]] = {image.shown: [] for image in images}
        for row, region in found:
            value = self.table.rows[row][self._at(column)]
            if value is None:
                raise QueryTypeError(f"Row {row + 1} of {self.what} names no image: its {column} is NULL.")
            for shown in handles.get(value if isinstance(value, int) else str(value).lower(), ()):
                members[shown].append(len(kept))
                kept.append(region)
        if not kept:
            value = self.table.rows[found[0][0]][self._at(column)]
            raise UnknownNameError(
                f"{self.what} lists no window of an image of the statement: {column} is {value!r} in its first row, "
                f"and the first image is {images[0].shown!r}."
            )
        return RegionGrid.of(kept, self.size, {shown: tuple(places) for shown, places in members.items()})

    def _place(self, name: str) -> int | None:
        """Return the number of a column; `top_px` of the view windows stands for `top`."""
        place = self.places.get(name)
        return self.places.get(f"{name}_px") if place is None else place

    def _at(self, name: str) -> int:
        place = self._place(name)
        assert place is not None
        return place

    def _plain_boxes(self) -> list[tuple[int, Region]] | None:
        """Return what `_regions` makes of all rows, at once, where they are boxes inside the input; else None.

        A query may list a million.
        """
        if self._place("labels") is not None or self._place("mask") is not None:
            return None
        places = [self._at(name) for name in _SIDES]
        boxes = [[row[place] for place in places] for row in self.table.rows]
        if not all(type(value) is int for box in boxes for value in box):
            return None
        top, left, height, width = np.array(boxes).T
        inside = (top >= 0) & (left >= 0) & (top + height <= self.size[0]) & (left + width <= self.size[1])
        if not (inside & (height >= 1) & (width >= 1)).all():
            return None
        named = (
            [self._text(row, "name", "region") for row in range(len(boxes))] if self._is_named else [""] * len(boxes)
        )
        return [(row, Region(named[row] or str(row + 1), *box)) for row, box in enumerate(boxes)]

    @property
    def _is_named(self) -> bool:
        return "name" in self.places or "region" in self.places

    def _regions(self, row: int) -> Iterator[tuple[int, Region]]:
        """Yield the region of a row, with its number; each label of a picture of labels, where a row has one."""
        name = self._text(row, "name", "region") or str(row + 1)
        place = self._place("labels")
        if place is not None:
            for labelled in self._labelled(row, self.table.rows[row][place]):
                yield row, labelled
            return
        place = self._place("mask")
        given = None if place is None else self.table.rows[row][place]
        box = self._box(row)
        mask = None if _is_missing(given) else self._mask(row, given)
        if box is None and mask is None:
            raise QueryTypeError(f"Row {row + 1} of {self.what} has neither a box nor a mask: its mask is NULL.")
        if mask is None:
            assert box is not None
            yield row, Region(name, *box)
            return
        region = mask_region(name, mask, self.size, box)
        if isinstance(region, str):
            raise QueryTypeError(f"Row {row + 1} of {self.what}: {region} of model {self.model.name!r}.")
        yield row, region

    def _labelled(self, row: int, given: Any) -> Iterator[Region]:
        """Yield a region for each label but 0 of a picture of labels, of the size of the model's input."""
        labels = self._plane(row, given, "picture of labels")
        if labels.dtype.kind not in "biu":
            raise QueryTypeError(f"Row {row + 1} of {self.what}: labels are whole numbers, not {labels.dtype}.")
        if labels.shape != self.size:
            raise QueryTypeError(
                f"Row {row + 1} of {self.what}: its labels are {show_pair(labels.shape)}; the input of model "
                f"{self.model.name!r} is {show_pair(self.size)}."
            )
        boxes = label_boxes(labels)
        if len(boxes) > _MOST_LABELS:
            raise QueryTypeError(
                f"Row {row + 1} of {self.what} has {len(boxes):,} labels, more than {_MOST_LABELS:,}: pictures of "
                "labels are stored without loss, as PNG."
            )
        for label, box in boxes.items():
            top, left, height, width = box
            inside = labels[top : top + height, left : left + width] == label
            found = mask_region(str(label), inside, self.size, box)
            assert isinstance(found, Region)
            yield found

    def _text(self, row: int, *names: str) -> str:
        """Return the text of the first column of these that is there; empty for NULL."""
        for name in names:
            if name in self.places:
                value = self.table.rows[row][self.places[name]]
                return "" if _is_missing(value) else str(value)
        return ""

    def _box(self, row: int) -> tuple[int, int, int, int] | None:
        """Return the box of a row inside the model's input; None without such columns, and of NULLs beside a mask."""
        if self._place(_SIDES[0]) is None:
            return None
        values = [self.table.rows[row][self._at(name)] for name in _SIDES]
        if self._place("mask") is not None and all(map(_is_missing, values)):
            return None
        top, left, height, width = (self._whole(row, name, v) for name, v in zip(_SIDES, values, strict=True))
        if height < 1 or width < 1:
            shown = self._shown(row, top, left, height, width)
            raise QueryTypeError(f"{shown} hides nothing: height and width are at least 1 pixel.")
        if top < 0 or left < 0 or top + height > self.size[0] or left + width > self.size[1]:
            shown = self._shown(row, top, left, height, width)
            raise QueryTypeError(
                f"{shown} reaches outside the {show_pair(self.size)} input of model {self.model.name!r}."
            )
        return top, left, height, width

    def _shown(self, row: int, *box: int) -> str:
        return f"Row {row + 1} of {self.what}, ({', '.join(map(str, box))}),"

    def _whole(self, row: int, name: str, value: Any) -> int:
        if type(value) is int:  # as those of a SELECT are
            return value
        shown = f"Row {row + 1} of {self.what}: {name}"
        if _is_missing(value):
            raise QueryTypeError(f"{shown} is NULL; a window has top, left, height and width.")
        value = value.item() if hasattr(value, "item") else value
        try:
            whole = int(value)
        except (TypeError, ValueError, OverflowError):
            raise QueryTypeError(f"{shown} is {value!r:.40}, which is no number of pixels.") from None
        if isinstance(value, (bool, str)) or whole != value:
            raise QueryTypeError(f"{shown} is {_told(value)}; windows lie on whole pixels, as round({name})::INTEGER.")
        return whole

    def _mask(self, row: int, given: Any) -> Mask:
        """Return which pixels a mask hides: those of a picture, or of numbers, that are not 0."""
        return np.asarray(self._plane(row, given, "mask") != 0, np.bool_)

    def _plane(self, row: int, given: Any, what: str) -> Any:
        """Return the numbers of a picture, a file or rows of equal length, (height, width)."""
        try:
            values = self.catalog.label_picture(given) if isinstance(given, str) else np.asarray(given)
        except ImageError as wrong:
            raise QueryTypeError(f"Row {row + 1} of {self.what}: {wrong}") from None
        except ValueError:
            values = np.empty(0)
        if values.ndim != 2 or values.dtype == object or values.dtype.kind not in "biuf":
            raise QueryTypeError(
                f"Row {row + 1} of {self.what}: a {what} is a picture, or numbers in rows of equal length, "
                f"not {given!r:.40}."
            )
        return values


def _told(value: Any) -> str:
    """Return a number or text as a message quotes it, cut to a readable length."""
    return (repr(value) if isinstance(value, str) else str(value))[:40]


def _is_missing(value: Any) -> bool:
    """Return whether a value is NULL, as DuckDB and pandas have it."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType"


def _handles(column: str, images: Sequence[ImageRecord]) -> dict[Any, list[str]]:
    """Return the images by what a column of a table calls them: path, number, or name in small letters."""
    found: dict[Any, list[str]] = {}

    def add(handle: Any, image: ImageRecord) -> None:
        shown = found.setdefault(handle, [])
        if image.shown not in shown:
            shown.append(image.shown)

    for image in images:
        if column == "image_id":
            if image.image_id is not None:
                add(image.image_id, image)
            continue
        add(image.shown.lower(), image)
        if column == "image":
            add(PurePath(image.shown).stem.lower(), image)
    return found


def _size_of(model: ModelRecord) -> tuple[int, int]:
    """Return (height, width) of the input of a model of images or, one row high, of signals."""
    height, width = model.preprocessing.map_size
    return height, width
