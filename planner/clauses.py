"""Check the clauses of EXPLAIN OCCLUDE by themselves, before any name is looked up.

Part of binding. What this version parses but does not carry out is refused here, in one place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from obeql.errors import QueryTypeError, UnsupportedError, nearest
from obeql.grammar import syntax
from obeql.planner.catalog import Catalog
from obeql.planner.logical import ClassSelector
from obeql.planner.place import locate
from obeql.planner.settings import ALL_GPUS, DEVICES, RAY, device_name
from obeql.planner.values import BadValue

__all__ = [
    "DEFAULT_CLASSES",
    "METRICS",
    "bind_approx",
    "bind_cluster",
    "bind_device",
    "bind_top_cells",
    "check_clauses",
    "refuse_unsupported",
]

DEFAULT_CLASSES: ClassSelector = ("predicted", None)

#: How the quality of an approximate map is measured; the first is the default.
METRICS = ("ssim", "top10pct", "pearson", "maxerr")
DEFAULT_CONFIDENCE = 0.95


def check_clauses(statement: syntax.ExplainOcclude, text: str) -> None:
    """Raise QueryTypeError for numbers that make no sense whatever the model: WITHIN 0, TOP 0 CELLS, REGION (.., 0)."""
    if statement.within is not None and statement.within.seconds <= 0:
        raise locate(QueryTypeError("WITHIN takes more than 0 seconds."), text, statement.within)
    if statement.top_cells is not None and statement.top_cells.k < 1:
        raise locate(QueryTypeError("TOP .. CELLS takes at least 1 cell."), text, statement.top_cells)
    if statement.region is not None and min(statement.region.height, statement.region.width) < 1:
        message = "REGION (top, left, height, width) takes a height and a width of at least 1 pixel."
        raise locate(QueryTypeError(message), text, statement.region)
    if statement.within is not None and isinstance(statement.accuracy, syntax.Exact):
        message = "EXACT asks for every cell and WITHIN for those that fit in the time; write one of them."
        raise locate(QueryTypeError(message), text, statement.within)
    if statement.top_cells is not None and (statement.within or isinstance(statement.accuracy, syntax.Approx)):
        message = "TOP .. CELLS goes with EXACT or alone, not with APPROX or WITHIN."
        raise locate(QueryTypeError(message), text, statement.top_cells)
    if isinstance(statement.selector, syntax.ForTop) and statement.selector.k < 1:
        raise locate(QueryTypeError("FOR TOP takes at least 1 class."), text, statement.selector)


def bind_approx(node: syntax.Exact | syntax.Approx | None, text: str) -> dict[str, Any]:
    """Return {} for exact maps, else the quality asked for: target in (0, 1], metric, confidence in (0, 1)."""
    if not isinstance(node, syntax.Approx):
        return {}
    if not 0 < node.quality <= 1:
        message = f"APPROX takes a quality above 0 and at most 1, not {node.quality:g}."
        raise locate(QueryTypeError(message), text, node, node.quality_span.start)
    metric = METRICS[0] if node.metric is None else node.metric.lower()
    if metric not in METRICS:
        message = f"METRIC takes {', '.join(METRICS)}, not {node.metric!r}.{nearest(metric, METRICS)}"
        raise locate(QueryTypeError(message), text, node, node.metric_span.start)
    confidence = DEFAULT_CONFIDENCE if node.confidence is None else node.confidence
    if not 0 < confidence < 1:
        message = f"CONFIDENCE takes a number between 0 and 1, not {confidence:g}."
        raise locate(QueryTypeError(message), text, node, node.confidence_span.start)
    return {"target": float(node.quality), "metric": metric, "confidence": float(confidence)}


def bind_top_cells(statement: syntax.ExplainOcclude) -> int | None:
    """Return the k of TOP k CELLS; None without it, and with EXACT, which asks for all cells anyway."""
    if statement.top_cells is None or isinstance(statement.accuracy, syntax.Exact):
        return None
    return statement.top_cells.k


def bind_device(node: syntax.Device | None, catalog: Catalog, text: str) -> str:
    """Return the device of ON, or of obeql.device. Raises QueryTypeError for words that name none."""
    if node is None or node.name == RAY:  # whose workers compute on the device of the setting
        return str(catalog.setting("device") or DEVICES[0])
    try:
        return device_name("ON", node.name)
    except BadValue as wrong:
        raise locate(QueryTypeError(str(wrong)), text, node, node.span.end - len(node.name)) from None


def bind_cluster(node: syntax.Device | None, catalog: Catalog) -> str | None:
    """Return the address of the Ray cluster that is to share the images; None for this machine without Ray.

    The address is that of obeql.ray_address, else of the variable RAY_ADDRESS, else `local`: started for the statement.
    """
    if (node is None or node.name != RAY) and catalog.setting("engine") != RAY:
        return None
    return str(catalog.setting("ray_address") or os.environ.get("RAY_ADDRESS") or "local")


def refuse_unsupported(
    statement: syntax.ExplainOcclude, options: Mapping[str, Any], device: str, cluster: str | None
) -> None:
    """Raise UnsupportedError, naming the clause, for what is well-formed and not carried out yet."""
    if cluster is not None and device.startswith("cuda:") and device != ALL_GPUS:
        raise UnsupportedError(f"Ray chooses the GPU of each worker: write cuda in place of {device}.")
    if statement.within is not None and (options["workers"] > 0 or device == ALL_GPUS or cluster is not None):
        what = f"workers={options['workers']}" if options["workers"] > 0 else f"ON {RAY if cluster else device}"
        raise UnsupportedError(
            f"WITHIN with {what} is not carried out by this version: one process divides the time among the images."
        )
