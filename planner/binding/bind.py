"""Bind a statement: look up every name, check every value, build the logical plan.

Before: the syntax tree. After: `optimize`. Options and clauses are checked first, by themselves, so that a mistake
in them is reported whatever the catalog holds; then the model, then the images. Every error points into the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, overload

from obeql.errors import QueryError, QueryTypeError, UnknownNameError
from obeql.grammar import print_name, print_statement, statements, syntax
from obeql.planner.aggregates import AggregateAim
from obeql.planner.binding.axes import on_axes, region_on_axes
from obeql.planner.binding.classes import class_names, class_number, find_class
from obeql.planner.binding.clause_names import clause
from obeql.planner.binding.clauses import (
    DEFAULT_CLASSES,
    bind_approx,
    bind_cluster,
    bind_device,
    bind_top_cells,
    check_clauses,
    check_listed_windows,
    refuse_unsupported,
    what_lists,
)
from obeql.planner.binding.error_location import is_written, locate, placed_in
from obeql.planner.binding.labels import each_once, labels_of
from obeql.planner.binding.options import check_fill, default_stride, explain_options, place_of, predict_options
from obeql.planner.binding.settings import ALL_GPUS
from obeql.planner.binding.sources import resolve_model, resolve_source
from obeql.planner.binding.values import BadValue, Parameters, parameter_value
from obeql.planner.binding.windows import bind_label_picture, bind_segments, bind_windows
from obeql.planner.catalog import Catalog, ImageRecord, ModelRecord
from obeql.planner.class_selector import ALL, LABEL, ClassSelector
from obeql.planner.grid import Border, WindowGrid, show_on
from obeql.planner.logical.plan import (
    Classify,
    LogicalNode,
    Occlude,
    Preprocess,
    ScanImages,
    ScoreCells,
    StoreRun,
    UnionMaps,
    find,
    grids_of,
)
from obeql.planner.logical.rules import rule_names
from obeql.planner.regions import RegionGrid

__all__ = ["BoundExplain", "BoundPredict", "bind", "bind_alike"]

#: What a cell takes in the file: logit, others, log-odds and arg-max class, 4 bytes each.
_CELL_BYTES = 16

#: Classes that PREDICT shows where FOR TOP is not written, or all if the model has fewer.
PREDICT_TOP = 5


@dataclass(frozen=True, slots=True)
class BoundExplain:
    """An EXPLAIN OCCLUDE whose names exist and whose values fit: what to compute, not yet how.

    `options` are the options of WITH with their values, defaults included; None where planning decides. `device` is
    `auto`, `cpu`, `cuda`, `cuda:<i>` or `cuda:*`. `approx` is {} or holds target, metric and confidence. `disabled`
    are the names of the rules and choices to leave out.
    """

    statement: str
    logical: LogicalNode
    model: ModelRecord
    images: tuple[ImageRecord, ...]
    options: Mapping[str, Any]
    device: str
    memory_bytes: int | None
    approx: Mapping[str, Any] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    #: whether stored cells may answer
    reuse: bool = True
    #: whether every cell was seen to be stored (`with_stored_cells`), so that the network is probably not needed
    complete: bool = False
    #: classes that coming statements of the script ask of the same windows, see `multi_query`
    also: tuple[ClassSelector, ...] = ()
    #: k of TOP k CELLS where not all cells are asked for with EXACT, and the seconds of WITHIN
    top_cells: int | None = None
    within_s: float | None = None
    #: what the SQL around APPROX asks of each map, where a sample of the windows is to tell it
    aggregates: AggregateAim | None = None
    #: address of the Ray cluster whose actors are the workers; None: processes of this machine
    cluster: str | None = None

    @property
    def n_windows(self) -> int:
        """Windows of all images and grids, stored ones included."""
        shown = [image.shown for image in self.images]
        return sum(grid.n_over(shown) for grid in grids_of(self.logical))

    @property
    def workers(self) -> int:
        """Workers that share the images; 0 where this process explains them, as it does a single or a stored one."""
        return 0 if self.complete or len(self.images) == 1 else min(self.options["workers"], len(self.images))

    @property
    def estimates(self) -> bool:
        """Return whether cells may be estimated rather than computed."""
        return bool(self.approx) or self.top_cells is not None or self.within_s is not None


@dataclass(frozen=True, slots=True)
class BoundPredict:
    """A PREDICT: the `k` classes of each image that the model ranks highest, or all of its values."""

    statement: str
    model: ModelRecord
    images: tuple[ImageRecord, ...]
    k: int
    device: str


@overload
def bind(
    statement: statements.ExplainOcclude | statements.PlanStatement,
    catalog: Catalog,
    text: str = ...,
    defaults: Mapping[str, Any] | None = ...,
    parameters: Parameters | None = ...,
) -> BoundExplain: ...


@overload
def bind(
    statement: statements.Predict,
    catalog: Catalog,
    text: str = ...,
    defaults: Mapping[str, Any] | None = ...,
    parameters: Parameters | None = ...,
) -> BoundPredict: ...


def bind(
    statement: statements.ExplainOcclude | statements.PlanStatement | statements.Predict,
    catalog: Catalog,
    text: str = "",
    defaults: Mapping[str, Any] | None = None,
    parameters: Parameters | None = None,
) -> BoundExplain | BoundPredict:
    """Return the bound statement; of PLAN, the statement inside, which may be larger than obeql.max_cells allows.

    `text` is the script the tree was read from, for the place of errors; a tree built by hand has none. `defaults`
    replace the defaults of options, as plain values. `parameters` say what the parameters stand for: numbers,
    strings, lists, and for a source ImageRecords, paths or lists of them.

    Raises UnknownNameError, QueryTypeError (with line, column and caret) and UnsupportedError.
    """
    limit = catalog.setting("max_cells")
    if isinstance(statement, statements.PlanStatement):
        limit = limit if statement.analyze else None
        statement = statement.statement
    given, written = parameters or {}, _written(statement, text)
    with placed_in(text):
        if isinstance(statement, statements.Predict):
            return _bind_predict(statement, catalog, written, given)
        return _bind_explain(statement, catalog, written, defaults or {}, given, limit)


def bind_alike(
    statement: statements.ExplainOcclude,
    like: BoundExplain,
    catalog: Catalog,
    text: str = "",
    parameters: Parameters | None = None,
) -> BoundExplain:
    """Bind a statement whose source and model are those of a bound one, which are not looked up again.

    Reading a source may take long, as of a SELECT over all cells. Raises as `bind` does.
    """
    limit = catalog.setting("max_cells")
    with placed_in(text):
        return _bind_explain(statement, catalog, _written(statement, text), {}, parameters or {}, limit, like)


def _written(statement: statements.ExplainOcclude | statements.Predict, text: str) -> str:
    """Return the statement as it was written, or printed where it was built by hand."""
    return text[statement.span.start : statement.span.end].strip().rstrip(";") or print_statement(statement)


def _bind_predict(
    statement: statements.Predict, catalog: Catalog, written: str, parameters: Parameters
) -> BoundPredict:
    model = resolve_model(statement.model, catalog, parameters)
    options = predict_options(statement.options, parameters)
    _, images = resolve_source(statement.source, catalog, parameters)
    if options["page"] is not None:
        images = tuple(catalog.paged(images, options["page"]))
    k = model.n_classes if model.has_values else min(PREDICT_TOP, model.n_classes)
    if statement.check:
        if model.preprocessing.is_signal:
            message = f"CHECK compares preprocessings of images; model {model.name!r} takes signals."
            raise locate(QueryTypeError(message), statement.model)
        if model.has_values:
            message = f"CHECK compares how sure a network is of its classes; model {model.name!r} returns values."
            raise locate(QueryTypeError(message), statement.model)
        if statement.top is not None:
            message = "CHECK compares preprocessings and shows no classes; leave FOR TOP out."
            raise locate(QueryTypeError(message), statement.top)
    if statement.top is not None:
        if model.has_values:
            raise locate(_no_classes(model), statement.top)
        k = _top(statement.top, model)
    return BoundPredict(written, model, images, k, bind_device(None, catalog))


def _bind_explain(
    statement: statements.ExplainOcclude,
    catalog: Catalog,
    written: str,
    defaults: Mapping[str, Any],
    parameters: Parameters,
    max_cells: int | None,
    like: BoundExplain | None = None,
) -> BoundExplain:
    options = explain_options(statement.options, parameters, defaults)
    pages = options.pop("page")
    check_clauses(statement)
    approx = bind_approx(statement.accuracy)
    device = bind_device(statement.device, catalog)
    cluster = bind_cluster(statement.device, catalog)
    refuse_unsupported(statement, options, device, cluster)
    what = what_lists(statement, options)
    if what is not None:
        spread = options["workers"] > 0 or device == ALL_GPUS
        check_listed_windows(statement, what, options, catalog, spread, cluster is not None)
    if like is None:
        model = resolve_model(statement.model, catalog, parameters)
        source, named = resolve_source(statement.source, catalog, parameters)
        images = each_once(named if pages is None else catalog.paged(named, pages))
    else:
        model, images = like.model, like.images
        source = next(find(like.logical, ScanImages)).source
    classes = _bind_classes(statement, model, images, parameters)
    options["score"] = _bind_score(statement, options, model)
    _check_fill(statement, options, model)
    strides, grids = _bind_all_windows(statement, options, catalog, parameters, model, images)
    name, replace = _bind_into(statement.into, catalog)
    n_cells = _n_cells(classes, model, images, grids)
    _check_cells(n_cells, statement, max_cells)
    memory = options["memory"] if options["memory"] is not None else catalog.setting("memory")
    disabled = _disabled(catalog)
    reuse = statement.reuse and bool(catalog.setting("reuse")) and "reuse_stored_cells" not in disabled
    scan = Preprocess(ScanImages(source, images), model.preprocessing)
    branches = tuple(
        ScoreCells(
            Classify(Occlude(scan, grid, options["fill"]), model, options["precision"]), classes, options["score"]
        )
        for grid in grids
    )
    joined = branches[0] if len(branches) == 1 else UnionMaps(branches)
    return BoundExplain(
        statement=written,
        logical=StoreRun(joined, name, replace),
        model=model,
        images=images,
        options=options,
        device=device,
        memory_bytes=memory,
        approx=approx,
        disabled=disabled,
        notes=_notes(options, strides, model.preprocessing.map_size),
        reuse=reuse,
        top_cells=bind_top_cells(statement),
        within_s=None if statement.within is None else float(statement.within.seconds),
        cluster=cluster,
    )


def _disabled(catalog: Catalog) -> frozenset[str]:
    setting = catalog.setting("disabled_rules") or ()
    return rule_names(setting.split(",") if isinstance(setting, str) else setting)


def _notes(options: Mapping[str, Any], strides: tuple[tuple[int, int], ...], size: tuple[int, int]) -> tuple[str, ...]:
    notes = []
    for patch, stride in zip(options["patch"], strides, strict=True):
        if stride[0] > patch[0] or stride[1] > patch[1]:
            notes.append(
                f"stride {show_on(size, stride)} exceeds patch {show_on(size, patch)}: "
                f"{'samples' if size[0] == 1 else 'pixels'} between windows are never hidden"
            )
    return tuple(notes)


# ---- classes ---------------------------------------------------------------------------------------------


def _bind_score(statement: statements.ExplainOcclude, options: Mapping[str, Any], model: ModelRecord) -> str:
    """Return the score, which for outputs that are values is the value."""
    score = str(options["score"])
    written = any(option.name == "score" for option in statement.options)
    if model.has_values == (score == "value"):
        return score
    if model.has_values and not written:
        return "value"
    message = (
        f"score={score} is for classifiers; model {model.name!r} was created with outputs=value, so score=value."
        if model.has_values
        else f"score=value is for models that were created with outputs=value; {model.name!r} is a classifier: "
        "score=logit is what it returns."
    )
    raise locate(QueryTypeError(message), _value_node(statement, "score"))


def _top(node: syntax.ForTop, model: ModelRecord) -> int:
    if not 1 <= node.k <= model.n_classes:
        limit = f"model {model.name!r} has {model.n_classes}" if node.k >= 1 else "at least one is needed"
        asked = f"FOR TOP {node.k}" if is_written(node) else f"top={node.k}"
        raise locate(QueryTypeError(f"{asked} asks for {node.k} classes; {limit}."), node)
    return node.k


def _bind_classes(
    statement: statements.ExplainOcclude,
    model: ModelRecord,
    images: tuple[ImageRecord, ...],
    parameters: Parameters,
) -> ClassSelector:
    if model.has_values and not isinstance(statement.selector, syntax.ForClasses):
        if statement.selector is None or isinstance(statement.selector, syntax.ForAll):
            return ALL
        raise locate(_no_classes(model), statement.selector)
    match statement.selector:
        case None | syntax.ForPredicted():
            return DEFAULT_CLASSES
        case syntax.ForAll():
            return ALL
        case syntax.ForTop() as top:
            return ClassSelector("top", _top(top, model))
        case syntax.ForLabel() as node:
            _check_labels(node, model, images)
            return LABEL
        case syntax.ForClasses(items=items):
            return ClassSelector("ids", tuple(_class_id(item, model, parameters) for item in items))


def _no_classes(model: ModelRecord) -> QueryTypeError:
    names = ", ".join(map(repr, class_names(model)[:8]))
    return QueryTypeError(
        f"Model {model.name!r} returns values (outputs=value), not classes to rank or to label; "
        f"FOR ALL or FOR CLASS says which: {names}."
    )


def _class_id(node: syntax.Number | syntax.Text | syntax.Parameter, model: ModelRecord, parameters: Parameters) -> int:
    try:
        value = parameter_value(node, parameters) if isinstance(node, syntax.Parameter) else node.value
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, str):
            return find_class(model, value)
        if isinstance(value, int) and not isinstance(value, bool):
            return class_number(model, value)
        raise QueryTypeError(f"A class is a whole number or a name, not {value!r}.")
    except QueryError as wrong:
        raise locate(wrong, node) from None


def _check_labels(node: syntax.ForLabel, model: ModelRecord, images: tuple[ImageRecord, ...]) -> None:
    """Raise unless some image has a label that names a class; an image without one fails by itself, later."""
    labels = [label for image in images for label in labels_of(image)]
    if not labels:
        lacking = "the image has none" if len(images) == 1 else f"none of the {len(images)} images has one"
        message = f"{clause('FOR LABEL', node)} needs images with labels; {lacking}."
        raise locate(QueryTypeError(message), node)
    failure: QueryError | None = None
    for label in dict.fromkeys(labels):
        try:
            find_class(model, label)
        except QueryError as wrong:
            failure = failure or wrong
        else:
            return
    if failure is not None:
        message = f"{clause('FOR LABEL', node)}: no image's label names a class. {failure.message}"
        raise locate(UnknownNameError(message), node)


# ---- windows ---------------------------------------------------------------------------------------------


def _value_node(statement: statements.ExplainOcclude, name: str, item: int | None = None) -> syntax.Node:
    """Return the node an error about an option points at; the statement where the option was not written."""
    for option in statement.options:
        if option.name == name:
            return place_of(option.value, item)
    return statement


def _bind_all_windows(
    statement: statements.ExplainOcclude,
    options: dict[str, Any],
    catalog: Catalog,
    parameters: Parameters,
    model: ModelRecord,
    images: tuple[ImageRecord, ...],
) -> tuple[tuple[tuple[int, int], ...], tuple[WindowGrid, ...]]:
    """Return the strides and grids of the patches, or no stride and the windows that the statement lists."""
    what = what_lists(statement, options)
    _lay_on_axes(statement, options, model)
    mask, segments = options.pop("mask"), options.pop("segments")
    if what is None:
        strides = _bind_strides(statement, options, model)
        return strides, _bind_grids(statement, options, strides, model)
    if statement.windows is not None:
        regions = bind_windows(statement.windows, catalog, parameters, model, images)
    elif mask is not None:
        regions = bind_label_picture(mask, _value_node(statement, "mask"), catalog, model, images)
        options["mask"] = mask
    else:
        regions = bind_segments(segments, _value_node(statement, "segments"), catalog, model, images)
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
            raise locate(wrong, _value_node(statement, "patch", item)) from None
    options["patch"] = tuple(patches)
    if options["stride"] is not None:
        try:
            options["stride"] = on_axes("stride", options["stride"], model)
        except QueryTypeError as wrong:
            raise locate(wrong, _value_node(statement, "stride")) from None


def _check_fill(statement: statements.ExplainOcclude, options: Mapping[str, Any], model: ModelRecord) -> None:
    try:
        check_fill(options["fill"], model.preprocessing)
    except BadValue as wrong:
        raise locate(QueryTypeError(str(wrong)), _value_node(statement, "fill", wrong.item)) from None


def _bind_strides(
    statement: statements.ExplainOcclude, options: Mapping[str, Any], model: ModelRecord
) -> tuple[tuple[int, int], ...]:
    """Return one stride for each patch, after checking that both fit the model's input."""
    size = model.preprocessing.map_size
    input_of = f"the {model.preprocessing.size_text} input of model {model.name!r}"
    strides = []
    for item, patch in enumerate(options["patch"]):
        if patch[0] > size[0] or patch[1] > size[1]:
            message = f"patch {show_on(size, patch)} is larger than {input_of}."
            raise locate(QueryTypeError(message), _value_node(statement, "patch", item))
        stride = options["stride"] or default_stride(patch)
        if stride[0] > size[0] or stride[1] > size[1]:
            message = f"stride {show_on(size, stride)} is larger than {input_of}."
            raise locate(QueryTypeError(message), _value_node(statement, "stride"))
        if options["border"] == "clip" and (stride[0] > patch[0] or stride[1] > patch[1]):
            exceeding = f"{show_on(size, stride)} exceeds {show_on(size, patch)}"
            message = f"border=clip needs a stride within the patch, but {exceeding}."
            raise locate(QueryTypeError(message), _value_node(statement, "border"))
        strides.append(stride)
    return tuple(strides)


def _bind_grids(
    statement: statements.ExplainOcclude,
    options: Mapping[str, Any],
    strides: tuple[tuple[int, int], ...],
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
        top, left, height, width = region
        if top + height > size[0] or left + width > size[1]:
            what = f"{clause('REGION', box)} ({', '.join(map(str, box.numbers))})"
            message = f"{what} reaches outside the {model.preprocessing.size_text} input of model {model.name!r}."
            raise locate(QueryTypeError(message), box)
    border = cast(Border, options["border"])
    grids = []
    for patch, stride in zip(options["patch"], strides, strict=True):
        grid = WindowGrid.over(size, patch, stride, border, region)
        if grid.n_windows == 0 and box is not None and region is not None:
            message = (
                f"{clause('REGION', box)} of {show_on(size, region[2:])} pixels holds no window of patch "
                f"{show_on(size, patch)} and stride {show_on(size, stride)}; windows must lie wholly inside."
            )
            raise locate(QueryTypeError(message), box)
        grids.append(grid)
    return tuple(grids)


def _n_maps(classes: ClassSelector, model: ModelRecord, images: tuple[ImageRecord, ...]) -> int:
    """Return the maps of all images on one grid."""
    if classes.kind == "label":
        return sum(max(1, len(labels_of(image))) for image in images)
    return len(images) * classes.n_maps(model.n_classes)


def _n_cells(
    classes: ClassSelector, model: ModelRecord, images: tuple[ImageRecord, ...], grids: Sequence[WindowGrid]
) -> int:
    """Return the cells of all maps of all images."""
    (grid, *_) = grids
    if isinstance(grid, RegionGrid) and grid.members is not None:
        return sum(_n_maps(classes, model, (image,)) * grid.n_over([image.shown]) for image in images)
    return _n_maps(classes, model, images) * sum(grid.n_windows for grid in grids)


def _check_cells(n_cells: int, statement: statements.ExplainOcclude, limit: int | None) -> None:
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


def _bind_into(node: syntax.Into | None, catalog: Catalog) -> tuple[str | None, bool]:
    if node is None:
        return None, False
    if not node.replace and catalog.run_exists(node.name.value):
        way = f"write INTO OR REPLACE {print_name(node.name.value)}" if is_written(node) else "give replace=True"
        message = f"Run {node.name.value!r} exists already; {way} to replace it."
        raise locate(QueryTypeError(message), node.name)
    return node.name.value, node.replace
