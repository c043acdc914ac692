"""What a statement yields, and what goes wrong, as JSON: maps by their run, plans with estimates, tables, messages.

After `worker` has run a statement; the page shows each kind in its own way.
"""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb

from obeql.errors import InternalError, ObeqlError, QueryError
from obeql.results.messages import Message, Plan
from obeql.results.result import Result

if TYPE_CHECKING:
    from obeql.planner import ExplainPlan

__all__ = ["MOST_ROWS", "as_json", "error_facts", "estimates", "outcome_facts", "table_facts"]

#: Rows of a table that are sent to the page; a download has all of them.
MOST_ROWS = 1000


def outcome_facts(outcome: Any) -> dict[str, Any]:
    """Return what a statement yields; rows are read here, in the thread that ran it."""
    if isinstance(outcome, Result):
        return {
            "kind": "maps",
            "run_id": outcome.run_id,
            "run_name": outcome.run_name,
            "n_maps": len(outcome),
            "seconds": outcome.seconds,
            "failures": [{"image": each.shown, "error": each.error} for each in outcome.failures],
            "notes": list(outcome.notes),
            "text": outcome.overview(10),
            "estimate": None if outcome.plan is None else estimates(outcome.plan),
        }
    if isinstance(outcome, Plan):
        return {"kind": "plan", "text": outcome.text, "estimate": estimates(outcome.physical)}
    if isinstance(outcome, Message):
        return {"kind": "message", "text": outcome.text}
    if outcome is None:
        return {"kind": "message", "text": "done"}
    try:
        rows = outcome.limit(MOST_ROWS + 1).fetchall()
    except duckdb.Error:  # what changes something, and yields how much, is no query to be limited
        rows = outcome.fetchall()
    return {"kind": "table", **table_facts(outcome.columns, rows)}


def table_facts(columns: list[str], rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Return a table of at most MOST_ROWS rows, and whether there are more."""
    shown = [[as_json(value) for value in row] for row in rows[:MOST_ROWS]]
    return {"columns": list(columns), "rows": shown, "more": len(rows) > MOST_ROWS}


def estimates(plan: ExplainPlan) -> dict[str, Any]:
    """Return what a plan expects: seconds of all images, windows asked for and stored, bytes at the peak."""
    n_images = len(plan.images)
    return {
        "seconds": _finite(plan.seconds * n_images) if plan.measured_rates else None,
        "windows": plan.n_windows,
        "stored": sum(each.n_cells for each in plan.held),
        "images": n_images,
        "memory_bytes": _finite(max((engine.cost.memory for engine in plan.engines), default=0.0)),
        "operators": sorted({type(engine).__name__ for engine in plan.engines}),
        "estimated_for": plan.estimated_for,
    }


def error_facts(error: BaseException) -> dict[str, Any]:
    """Return an error as one message with its place in the text, where it has one."""
    if isinstance(error, duckdb.Error):
        error = QueryError(str(error).strip())
    elif not isinstance(error, ObeqlError):
        error = InternalError(f"{type(error).__name__}: {error}. This is a bug in OBEQL; please report it.")
    facts: dict[str, Any] = {"kind": "error", "error": str(error), "family": type(error).__name__}
    if isinstance(error, QueryError):
        facts |= {"message": error.message, "line": error.line, "column": error.column, "context": error.context}
    return facts


def as_json(value: Any) -> Any:
    """Return a value of DuckDB as JSON has it; what JSON has no form for becomes text."""
    match value:
        case None | bool() | int() | str():
            return value if not isinstance(value, int) or isinstance(value, bool) or abs(value) < 2**53 else str(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case Decimal():
            return float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case dict():
            return {str(key): as_json(each) for key, each in value.items()}
        case list() | tuple():
            return [as_json(each) for each in value]
        case bytes():
            return value.hex()
    return str(value)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
