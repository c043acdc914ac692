"""What a statement yielded, as text: a table for people, JSON or CSV for programs.

Comes last on the command line, after the session has run the statement.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO

from obeql.outcome import Message, Plan

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation

    from obeql.result import Result

    Outcome = Result | Plan | Message | DuckDBPyRelation | None

__all__ = ["OutputFormat", "write_outcome"]

OutputFormat = Literal["table", "json", "csv"]

#: Most important cells shown of each map.
N_CELLS = 5

_RESULT_COLUMNS = (
    "run_id", "image", "class_name", "score_kind", "clean_score", "rank", "row", "col",
    "top_px", "left_px", "height_px", "width_px", "importance", "score", "top_class", "exact",
)  # fmt: skip


def write_outcome(
    outcome: Outcome, form: OutputFormat, stream: TextIO | None = None, notes: TextIO | None = None
) -> None:
    """Write one outcome to `stream` (standard output).

    Heat maps become their most important cells. JSON is one array of objects a statement, CSV one table a statement;
    in both, messages and failed images go to `notes` (standard error), so that the output stays what it claims.
    """
    stream = sys.stdout if stream is None else stream
    notes = sys.stderr if notes is None else notes
    if outcome is None or _says_only_done(outcome):
        return
    if isinstance(outcome, Message):
        print(outcome, file=stream if form == "table" else notes)
    elif form == "table":
        print(_as_table(outcome), file=stream)
    else:
        for failure in getattr(outcome, "failures", ()):
            print(f"failed: {failure.shown}: {failure.error}", file=notes)
        columns, rows = _as_rows(outcome)
        (_write_json if form == "json" else _write_csv)(columns, rows, stream)


def _says_only_done(outcome: Any) -> bool:
    """DuckDB 2 returns an empty table for a statement without rows, such as CREATE or SET; older versions, nothing."""
    done = getattr(outcome, "columns", None) in (["Success"], ["Count"])
    return done and str(outcome.type) == "MATERIALIZED_RELATION" and not outcome.fetchall()


def _as_table(outcome: Result | Plan | DuckDBPyRelation) -> str:
    from obeql.result import Result  # noqa: PLC0415 - numpy is not needed for SQL alone

    if isinstance(outcome, Result):
        # repr says what was run and what failed; the table, what matters in each map.
        return f"{outcome!r}\n\n{outcome.table(N_CELLS)}\n" if outcome.maps else repr(outcome)
    return str(outcome).rstrip("\n")


def _as_rows(outcome: Result | Plan | DuckDBPyRelation) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    from obeql.result import Result  # noqa: PLC0415

    if isinstance(outcome, Plan):
        return ("plan",), [(str(outcome),)]
    if isinstance(outcome, Result):
        return _RESULT_COLUMNS, [row for heat in outcome for row in _cell_rows(heat)]
    return outcome.columns, outcome.fetchall()


def _cell_rows(heat: Any) -> Iterable[Sequence[Any]]:
    for rank, cell in enumerate(heat.top(N_CELLS), start=1):
        top_class = heat.classes[cell.top_class] if 0 <= cell.top_class < len(heat.classes) else cell.top_class
        yield (
            heat.run_id, heat.image, heat.class_name, heat.score_kind, heat.clean_score, rank, cell.row, cell.col,
            cell.top, cell.left, cell.height, cell.width, cell.importance, cell.score, top_class, cell.exact,
        )  # fmt: skip


def _write_json(columns: Sequence[str], rows: Iterable[Sequence[Any]], stream: TextIO) -> None:
    opening = "["
    for row in rows:
        record = {name: _jsonable(value) for name, value in zip(columns, row, strict=True)}
        stream.write(f"{opening}{json.dumps(record, ensure_ascii=False)}")
        opening = ",\n"
    stream.write("[]\n" if opening == "[" else "]\n")


def _jsonable(value: Any) -> Any:
    """JSON has no NaN and no infinity (null), no dates, UUIDs or decimals (text)."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case bytes() | bytearray():
            return value.hex()
    if hasattr(value, "tolist"):  # numpy
        return _jsonable(value.tolist())
    return str(value)


def _write_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]], stream: TextIO) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        nested = (list, dict, tuple)
        writer.writerow([json.dumps(_jsonable(value)) if isinstance(value, nested) else value for value in row])
