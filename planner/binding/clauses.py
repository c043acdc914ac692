"""Check the clauses of EXPLAIN OCCLUDE by themselves, before any name is looked up.

Part of binding. What this version parses but does not carry out is refused here, in one place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from obeql.errors import QueryTypeError, UnsupportedError, nearest
from obeql.grammar import statements, syntax
from obeql.planner.binding.clause_names import clause
from obeql.planner.binding.error_location import is_written, locate
from obeql.planner.binding.settings import ALL_GPUS, DEVICES, RAY, device_name
from obeql.planner.binding.values import BadValue
from obeql.planner.catalog import Catalog
from obeql.planner.class_selector import PREDICTED
from obeql.planner.input_kinds import kind_of

__all__ = [
    "DEFAULT_CLASSES",
    "METRICS",
    "bind_approx",
    "bind_cluster",
    "bind_device",
    "bind_top_cells",
    "check_clauses",
    "check_listed_windows",
    "refuse_unsupported",
    "what_lists",
]

DEFAULT_CLASSES = PREDICTED

#: How the quality of an approximate map is measured; the first is the default.
METRICS = ("ssim", "top10pct", "pearson", "maxerr")
DEFAULT_CONFIDENCE = 0.95

#: What a thread can be made to wait for is limited; nobody waits so long.
_MOST_SECONDS = 365 * 86400


def check_clauses(statement: statements.ExplainOcclude) -> None:
    """Raise QueryTypeError for numbers that make no sense: WITHIN 0, TOP 0 CELLS, REGION (-1, ..)."""
    within, top_cells, region = statement.within, statement.top_cells, statement.region
    if within is not None and not 0 < within.seconds <= _MOST_SECONDS:
        message = f"{clause('WITHIN', within)} takes more than 0 seconds, up to a year, not {within.seconds:g}."
        raise locate(QueryTypeError(message), within)
    if top_cells is not None and top_cells.k < 1:
        message = f"{clause('TOP .. CELLS', top_cells)} takes at least 1 cell, not {top_cells.k}."
        raise locate(QueryTypeError(message), top_cells)
    if region is not None:
        _check_region(region)
    if within is not None and isinstance(statement.accuracy, syntax.Exact):
        message = (
            f"{clause('EXACT', within)} asks for every cell and {clause('WITHIN', within)} for those that fit in the "
            "time; give one of them."
        )
        raise locate(QueryTypeError(message), within)
    if top_cells is not None and (within or isinstance(statement.accuracy, syntax.Approx)):
        message = (
            f"{clause('TOP .. CELLS', top_cells)} goes with {clause('EXACT', top_cells)} or alone, not with "
            f"{clause('APPROX', top_cells)} or {clause('WITHIN', top_cells)}."
        )
        raise locate(QueryTypeError(message), top_cells)
    if isinstance(statement.selector, syntax.ForTop) and statement.selector.k < 1:
        message = f"{clause('FOR TOP', statement.selector)} takes at least 1 class, not {statement.selector.k}."
        raise locate(QueryTypeError(message), statement.selector)


def what_lists(statement: statements.ExplainOcclude, options: Mapping[str, Any]) -> str | None:
    """Return which clause or option lists the windows, None where a grid has them. Raises QueryTypeError for two."""
    found = [name for name in ("mask", "segments") if options[name] is not None]
    if statement.windows is not None:
        found.insert(0, clause("WINDOWS", statement))
    if len(found) > 1:
        node = next((option for option in statement.options if option.name == found[-1]), statement)
        raise locate(QueryTypeError(f"{found[0]} and {found[1]} both list the windows; give one of them."), node)
    return found[0] if found else None


def check_listed_windows(
    statement: statements.ExplainOcclude,
    what: str,
    options: Mapping[str, Any],
    catalog: Catalog,
    spread: bool,
    on_cluster: bool,
) -> None:
    """Raise for clauses and options that do not go with windows that are listed, by `what` of the statement.

    QueryTypeError, for clauses of grids, on a cluster and where maps are to become files. `spread` says that several
    processes are to share the images.
    """
    for option in statement.options:
        if option.name in ("patch", "stride", "border"):
            message = f"{what} lists the windows, and {option.name} lays out a grid; give one of them."
            raise locate(QueryTypeError(message), option)
    if statement.region is not None:
        message = f"{what} lists the windows, and {clause('REGION', statement)} cuts a grid; give one of them."
        raise locate(QueryTypeError(message), statement.region)
    for name, node in _estimating(statement):
        message = (
            f"{clause(name, statement)} estimates windows from their neighbors on a grid; those that {what} lists "
            "have none, and all of them are computed: leave it out."
        )
        raise locate(QueryTypeError(message), node)
    written = next((option for option in statement.options if option.name == what), statement.windows or statement)
    # Parquet files of maps have no column for names and masks.
    if catalog.setting("store") == "parquet":
        message = f"{what} keeps its values in the database: SET obeql.store = 'duckdb' first."
        raise locate(QueryTypeError(message), written)
    if spread and catalog.setting("store_folder") is not None:
        message = f"Workers hand maps of {what} to the database, not to files: RESET obeql.store_folder first."
        raise locate(QueryTypeError(message), written)
    if on_cluster:
        message = f"ON ray with {what} is not implemented: workers=2 shares the images among processes here."
        raise locate(QueryTypeError(message), written)


def _estimating(statement: statements.ExplainOcclude) -> list[tuple[str, syntax.Node]]:
    """Return the clauses of a statement that ask for maps of which not every window is computed."""
    clauses: dict[str, syntax.Node | None] = {
        "APPROX": statement.accuracy if isinstance(statement.accuracy, syntax.Approx) else None,
        "WITHIN": statement.within,
        "TOP .. CELLS": None if isinstance(statement.accuracy, syntax.Exact) else statement.top_cells,
    }
    return [(name, node) for name, node in clauses.items() if node is not None]


def _check_region(region: syntax.Region) -> None:
    """Raise QueryTypeError for a box that begins outside every image or is empty."""
    numbers, n_axes = region.numbers, len(region.numbers) // 2
    shown = f"({', '.join(map(str, numbers))})"
    kind = kind_of(n_axes)
    starts, extents = _listed(kind.starts), _listed([f"a {name}" for name in kind.extents])
    what = f"{clause('REGION', region)} {kind.box_text}"
    if min(numbers[:n_axes]) < 0:
        are = "are" if n_axes > 1 else "is"
        message = f"{what} begins inside the model's input: {starts} {are} at least 0, not as in {shown}."
    elif min(numbers[n_axes:]) < 1:
        message = f"{what} takes {extents} of at least 1 {kind.unit}, not {shown}."
    else:
        return
    raise locate(QueryTypeError(message), region)


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def bind_approx(node: syntax.Exact | syntax.Approx | None) -> dict[str, Any]:
    """Return {} for exact maps, else the quality asked for: target in (0, 1], metric, confidence in (0, 1)."""
    if not isinstance(node, syntax.Approx):
        return {}
    if not 0 < node.quality <= 1:
        message = f"{clause('APPROX', node)} takes a quality above 0 and at most 1, not {node.quality:g}."
        raise locate(QueryTypeError(message), node, node.quality_span.start)
    metric = METRICS[0] if node.metric is None else node.metric.lower()
    if metric not in METRICS:
        listed = f"{', '.join(METRICS[:-1])} or {METRICS[-1]}"
        message = f"{clause('METRIC', node)} takes {listed}, not {node.metric!r}.{nearest(metric, METRICS)}"
        raise locate(QueryTypeError(message), node, node.metric_span.start)
    confidence = DEFAULT_CONFIDENCE if node.confidence is None else node.confidence
    if not 0 < confidence < 1:
        message = f"{clause('CONFIDENCE', node)} takes a number above 0 and below 1, not {confidence:g}."
        raise locate(QueryTypeError(message), node, node.confidence_span.start)
    return {"target": float(node.quality), "metric": metric, "confidence": float(confidence)}


def bind_top_cells(statement: statements.ExplainOcclude) -> int | None:
    """Return the k of TOP k CELLS; None without it, and with EXACT, which asks for all cells anyway."""
    if statement.top_cells is None or isinstance(statement.accuracy, syntax.Exact):
        return None
    return statement.top_cells.k


def bind_device(node: syntax.Device | None, catalog: Catalog) -> str:
    """Return the device of ON, or of obeql.device. Raises QueryTypeError for words that name none."""
    if node is None or node.name == RAY:  # whose workers compute on the device of the setting
        return str(catalog.setting("device") or DEVICES[0])
    try:
        return device_name(clause("ON", node), node.name)
    except BadValue as wrong:
        raise locate(QueryTypeError(str(wrong)), node, node.span.end - len(node.name)) from None


def bind_cluster(node: syntax.Device | None, catalog: Catalog) -> str | None:
    """Return the address of the Ray cluster that is to share the images; None for this machine without Ray.

    The address is that of obeql.ray_address, else of the variable RAY_ADDRESS, else `local`: started for the statement.
    """
    if (node is None or node.name != RAY) and catalog.setting("engine") != RAY:
        return None
    return str(catalog.setting("ray_address") or os.environ.get("RAY_ADDRESS") or "local")


def refuse_unsupported(
    statement: statements.ExplainOcclude, options: Mapping[str, Any], device: str, cluster: str | None
) -> None:
    """Raise UnsupportedError, naming the clause, for what is well-formed and not implemented."""
    if cluster is not None and device.startswith("cuda:") and device != ALL_GPUS:
        raise UnsupportedError(f"Ray chooses the GPU of each worker: write cuda in place of {device}.")
    if statement.within is not None and (options["workers"] > 0 or device == ALL_GPUS or cluster is not None):
        where = RAY if cluster else device
        what = f"ON {where}" if is_written(statement) else f"device={where!r}"
        what = f"workers={options['workers']}" if options["workers"] > 0 else what
        raise UnsupportedError(
            f"{clause('WITHIN', statement)} with {what} is not implemented: "
            "one process divides the time among the images."
        )
