"""Bind the windows of a statement: the grids of its patches on the model's input, or the windows that it lists.

Before: options whose values are right by themselves, and the model. After: `bind` lays the grids into the logical plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from obeql.errors import QueryTypeError
from obeql.grammar import statements, syntax
from obeql.planner.binding.axes import on_axes, region_on_axes
from obeql.planner.binding.clause_names import clause
from obeql.planner.binding.clauses import what_lists
from obeql.planner.binding.error_location import locate
from obeql.planner.binding.labels import labels_of
from obeql.planner.binding.option_values import check_fill, default_stride
from obeql.planner.binding.options import place_of
from obeql.planner.binding.values import BadValue, Parameters
from obeql.planner.binding.windows import bind_label_picture, bind_segments, bind_windows
from obeql.planner.borders import BORDERS, Border
from obeql.planner.catalog import Catalog, ImageRecord, ModelRecord, Preprocessing
from obeql.planner.class_selector import ClassSelector
from obeql.planner.fills import LEAST_LINE, SIGNAL_FILLS
from obeql.planner.grid import WindowGrid, show_on
from obeql.planner.regions import RegionGrid

__all__ = ["bind_all_windows", "bind_fill", "check_cells", "gap_notes", "n_cells_of", "n_maps", "value_node"]

#: What a cell takes in the file: logit, others, log-odds and arg-max class, 4 bytes each.
_CELL_BYTES = 16


def value_node(statement: statements.ExplainOcclude, name: str, item: int | None = None) -> syntax.Node:
    """Return the node an error about an option points at; the statement where the option was not written."""
    for option in statement.options:
        if option.name == name:
            return place_of(option.value, item)
    return statement


def bind_all_windows(
    statement: statements.ExplainOcclude,
    options: dict[str, Any],
    catalog: Catalog,
    parameters: Parameters,
    model: ModelRecord,
    images: tuple[ImageRecord, ...],
) -> tuple[tuple[tuple[int, ...], ...], tuple[WindowGrid, ...]]:
    """Return the strides and grids of the patches, or no stride and the windows that the statement lists."""
    what = what_lists(statement, options)
    if what is not None and len(model.preprocessing.size) > 2:
        message = f"{what} lists windows of images; model {model.name!r} takes volumes: patch and stride lay a grid."
        raise locate(QueryTypeError(message), statement.windows or statement)
    _lay_on_axes(statement, options, model)
    mask, segments = options.pop("mask"), options.pop("segments")
    if what is None:
        strides = _bind_strides(statement, options, model)
        return strides, _bind_grids(statement, options, strides, model)
    if statement.windows is not None:
        regions = bind_windows(statement.windows, catalog, parameters, model, images)
    elif mask is not None:
        regions = bind_label_picture(mask, value_node(statement, "mask"), catalog, model, images)
        options["mask"] = mask
    else:
        regions = bind_segments(segments, value_node(statement, "segments"), catalog, model, images)
        options["segments"] = segments
    options["patch"], options["stride"] = (), None
    options["windows"] = regions.digest
    return (), (regions,)


def _lay_on_axes(statement: statements.ExplainOcclude, options: dict[str, Any], model: ModelRecord) -> None:
    """Give patches and stride a number for each axis of the model's input, as they are written or for all axes."""
    patches = []
    for item, patch in enumerate(options["patch"]):
        try:
            patches.append(on_axes("patch", patch, model))
        except QueryTypeError as wrong:
            raise locate(wrong, value_node(statement, "patch", item)) from None
    options["patch"] = tuple(patches)
    if options["stride"] is not None:
        try:
            options["stride"] = on_axes("stride", options["stride"], model)
        except QueryTypeError as wrong:
            raise locate(wrong, value_node(statement, "stride")) from None


def bind_fill(statement: statements.ExplainOcclude, options: Mapping[str, Any], model: ModelRecord) -> None:
    """Raise QueryTypeError for a fill that the model's input does not take."""
    try:
        check_fill(options["fill"], model.preprocessing)
    except BadValue as wrong:
        raise locate(QueryTypeError(str(wrong)), value_node(statement, "fill", wrong.item)) from None
    if options["fill"] in SIGNAL_FILLS:
        for item, patch in enumerate(options["patch"]):
            if patch[-1] < LEAST_LINE:
                message = (
                    f"fill={options['fill']} keeps the first and the last sample of a window, and "
                    f"patch={patch[-1]} has none between them: take patch={LEAST_LINE} or more."
                )
                raise locate(QueryTypeError(message), value_node(statement, "patch", item))


def _bind_strides(
    statement: statements.ExplainOcclude, options: Mapping[str, Any], model: ModelRecord
) -> tuple[tuple[int, ...], ...]:
    """Return one stride for each patch, after checking that both fit the model's input."""
    size = model.preprocessing.map_size
    input_of = f"the {model.preprocessing.size_text} input of model {model.name!r}"
    border = cast(Border, options["border"])
    strides = []
    for item, patch in enumerate(options["patch"]):
        if _exceeds(patch, size):
            message = f"patch {show_on(size, patch)} is larger than {input_of}."
            raise locate(QueryTypeError(message), value_node(statement, "patch", item))
        stride = options["stride"] or default_stride(patch)
        if _exceeds(stride, size):
            message = f"stride {show_on(size, stride)} is larger than {input_of}."
            raise locate(QueryTypeError(message), value_node(statement, "stride"))
        if BORDERS[border].within_patch and _exceeds(stride, patch):
            exceeding = f"{show_on(size, stride)} exceeds {show_on(size, patch)}"
            message = f"border={border} needs a stride within the patch, but {exceeding}."
            raise locate(QueryTypeError(message), value_node(statement, "border"))
        strides.append(stride)
    return tuple(strides)


def _exceeds(sizes: tuple[int, ...], others: tuple[int, ...]) -> bool:
    """Return whether a size is larger than the other one along any axis."""
    return any(one > other for one, other in zip(sizes, others, strict=True))


def gap_notes(options: Mapping[str, Any], strides: tuple[tuple[int, ...], ...], how: Preprocessing) -> tuple[str, ...]:
    """Return what to say of strides that leave pixels of the model's input between their windows."""
    size, notes = how.map_size, []
    for patch, stride in zip(options["patch"], strides, strict=True):
        if _exceeds(stride, patch):
            notes.append(
                f"stride {show_on(size, stride)} exceeds patch {show_on(size, patch)}: "
                f"{how.kind.unit}s between windows are never hidden"
            )
    return tuple(notes)


def _bind_grids(
    statement: statements.ExplainOcclude,
    options: Mapping[str, Any],
    strides: tuple[tuple[int, ...], ...],
    model: ModelRecord,
) -> tuple[WindowGrid, ...]:
    """Return one grid for each patch, cut to the REGION, which holds at least one window of each."""
    size = model.preprocessing.map_size
    box = statement.region
    region = None
    if box is not None:
        try:
            region = region_on_axes(box.numbers, model)
        except QueryTypeError as wrong:
            raise locate(wrong, box) from None
        ends = tuple(map(sum, zip(region[: len(size)], region[len(size) :], strict=True)))
        if _exceeds(ends, size):
            what = f"{clause('REGION', box)} ({', '.join(map(str, box.numbers))})"
            message = f"{what} reaches outside the {model.preprocessing.size_text} input of model {model.name!r}."
            raise locate(QueryTypeError(message), box)
    border = cast(Border, options["border"])
    grids = []
    for patch, stride in zip(options["patch"], strides, strict=True):
        grid = WindowGrid.over(size, patch, stride, border, region)
        if grid.n_windows == 0 and box is not None and region is not None:
            extent = f"{show_on(size, region[len(size) :])} {model.preprocessing.kind.unit}s"
            message = (
                f"{clause('REGION', box)} of {extent} holds no window of patch {show_on(size, patch)} "
                f"and stride {show_on(size, stride)}; windows must lie wholly inside."
            )
            raise locate(QueryTypeError(message), box)
        grids.append(grid)
    return tuple(grids)


def n_maps(classes: ClassSelector, model: ModelRecord, images: tuple[ImageRecord, ...]) -> int:
    """Return the maps of all images on one grid."""
    if classes.kind == "label":
        return sum(max(1, len(labels_of(image))) for image in images)
    return len(images) * classes.n_maps(model.n_classes)


def n_cells_of(
    classes: ClassSelector, model: ModelRecord, images: tuple[ImageRecord, ...], grids: Sequence[WindowGrid]
) -> int:
    """Return the cells of all maps of all images."""
    (grid, *_) = grids
    if isinstance(grid, RegionGrid) and grid.members is not None:
        return sum(n_maps(classes, model, (image,)) * grid.n_over([image.shown]) for image in images)
    return n_maps(classes, model, images) * sum(grid.n_windows for grid in grids)


def check_cells(n_cells: int, statement: statements.ExplainOcclude, limit: int | None) -> None:
    """Raise when the statement asks for more cells than obeql.max_cells allows."""
    if limit is not None and n_cells > limit:
        raise locate(
            QueryTypeError(
                f"The statement asks for {n_cells:,} cells, more than the {limit:,} of obeql.max_cells, and would "
                f"store about {n_cells * _CELL_BYTES / 1e6:,.0f} MB; PLAN shows the time it takes. "
                "Take a larger stride, fewer images or classes, or raise the setting."
            ),
            statement,
        )
