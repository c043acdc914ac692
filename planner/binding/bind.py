"""Bind a statement: look up every name, check every value, build the logical plan.

Before: the syntax tree. After: `optimize`. Options and clauses are checked first, by themselves, so that a mistake
in them is reported whatever the catalog holds; then the model, then the images. Every error points into the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from obeql.errors import QueryTypeError
from obeql.grammar import print_name, print_statement, statements, syntax
from obeql.planner.binding.bound import BoundExplain, BoundPredict
from obeql.planner.binding.channels import hidden_channels_of, in_channels
from obeql.planner.binding.clauses import (
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
from obeql.planner.binding.file_parts import take_parts
from obeql.planner.binding.labels import each_once
from obeql.planner.binding.options import explain_options, predict_options
from obeql.planner.binding.selected_classes import bind_classes, bind_score, bind_top, no_classes
from obeql.planner.binding.settings import ALL_GPUS
from obeql.planner.binding.sources import resolve_model, resolve_source
from obeql.planner.binding.values import Parameters
from obeql.planner.binding.window_grids import (
    bind_all_windows,
    bind_fill,
    check_cells,
    gap_notes,
    n_cells_of,
    value_node,
)
from obeql.planner.catalog import Catalog, ModelRecord
from obeql.planner.class_selector import ClassSelector
from obeql.planner.grid import WindowGrid
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
)
from obeql.planner.logical.rules import rule_names

__all__ = ["PREDICT_TOP", "BoundExplain", "BoundPredict", "bind", "bind_alike"]

#: Classes that PREDICT shows where FOR TOP is not written, or all if the model has fewer.
PREDICT_TOP = 5


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
    _, images = resolve_source(statement.source, catalog, parameters, len(model.preprocessing.size))
    parts = take_parts(options, statement.options, model)
    images = tuple(images if parts is None else catalog.in_parts(images, parts))
    k = model.n_classes if model.has_values else min(PREDICT_TOP, model.n_classes)
    if statement.check:
        if not model.preprocessing.is_image:
            takes = model.preprocessing.kind.plural
            message = f"CHECK compares preprocessings of images; model {model.name!r} takes {takes}."
            raise locate(QueryTypeError(message), statement.model)
        if model.has_values:
            message = f"CHECK compares how sure a network is of its classes; model {model.name!r} returns values."
            raise locate(QueryTypeError(message), statement.model)
        if statement.top is not None:
            message = "CHECK compares preprocessings and shows no classes; leave FOR TOP out."
            raise locate(QueryTypeError(message), statement.top)
    if statement.top is not None:
        if model.has_values:
            raise locate(no_classes(model), statement.top)
        k = bind_top(statement.top, model)
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
        source, named = resolve_source(statement.source, catalog, parameters, len(model.preprocessing.size))
        parts = take_parts(options, statement.options, model)
        images = each_once(named if parts is None else catalog.in_parts(named, parts))
    else:
        model, images = like.model, like.images
        take_parts(options, statement.options, model)
        source = next(find(like.logical, ScanImages)).source
    classes = bind_classes(statement, model, images, parameters)
    options["score"] = bind_score(statement, options, model)
    bind_fill(statement, options, model)
    channel = options.pop("channel")
    channels = hidden_channels_of(channel, model, value_node(statement, "channel"))
    strides, grids = bind_all_windows(statement, options, catalog, parameters, model, images)
    grids = in_channels(grids, channels)
    if channel is not None:
        options["channel"] = channel if isinstance(channel, str) else list(channel)
    name, replace = _bind_into(statement.into, catalog)
    n_cells = n_cells_of(classes, model, images, grids)
    check_cells(n_cells, statement, max_cells)
    memory = options["memory"] if options["memory"] is not None else catalog.setting("memory")
    disabled = _disabled(catalog)
    reuse = statement.reuse and bool(catalog.setting("reuse")) and "reuse_stored_cells" not in disabled
    scan = Preprocess(ScanImages(source, images), model.preprocessing)
    return BoundExplain(
        statement=written,
        logical=StoreRun(_maps(scan, grids, model, classes, options), name, replace),
        model=model,
        images=images,
        options=options,
        device=device,
        memory_bytes=memory,
        approx=approx,
        disabled=disabled,
        notes=gap_notes(options, strides, model.preprocessing),
        reuse=reuse,
        top_cells=bind_top_cells(statement),
        within_s=None if statement.within is None else float(statement.within.seconds),
        cluster=cluster,
    )


def _maps(
    scan: Preprocess,
    grids: Sequence[WindowGrid],
    model: ModelRecord,
    classes: ClassSelector,
    options: Mapping[str, Any],
) -> LogicalNode:
    """Return the maps that are asked for: those of one grid, or of several together."""
    branches = tuple(
        ScoreCells(
            Classify(Occlude(scan, grid, options["fill"]), model, options["precision"]), classes, options["score"]
        )
        for grid in grids
    )
    return branches[0] if len(branches) == 1 else UnionMaps(branches)


def _disabled(catalog: Catalog) -> frozenset[str]:
    setting = catalog.setting("disabled_rules") or ()
    return rule_names(setting.split(",") if isinstance(setting, str) else setting)


def _bind_into(node: syntax.Into | None, catalog: Catalog) -> tuple[str | None, bool]:
    if node is None:
        return None, False
    if not node.replace and catalog.run_exists(node.name.value):
        way = f"write INTO OR REPLACE {print_name(node.name.value)}" if is_written(node) else "give replace=True"
        message = f"Run {node.name.value!r} exists already; {way} to replace it."
        raise locate(QueryTypeError(message), node.name)
    return node.name.value, node.replace
