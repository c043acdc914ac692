"""What a statement yielded, as text: boxes for people, and five forms for programs and documents.

Comes last on the command line, after the session has run the statement.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args

from obeql.cli.streams import as_utf8
from obeql.cli.wrapping import columns_of, wrapped, wrapped_plan
from obeql.errors import QueryTypeError, nearest
from obeql.results.messages import Message, Plan
from obeql.results.quality_text import top_class_text

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation

    from obeql.results.result import Result

    Outcome = Result | Plan | Message | DuckDBPyRelation | None

__all__ = ["MODES", "OutputMode", "output_mode", "write_outcome"]

OutputMode = Literal["box", "csv", "json", "jsonl", "markdown", "line"]
MODES: tuple[OutputMode, ...] = get_args(OutputMode)

#: More rows, columns and characters than anything has.
_UNLIMITED = 2**31 - 1

_RESULT_COLUMNS = (
    "run_id", "image", "class_name", "score_kind", "clean_score", "rank", "row", "col",
    "top_px", "left_px", "height_px", "width_px", "importance", "score", "top_class", "exact",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows to write, in order; `rows` may be read once."""

    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]


def output_mode(name: str) -> OutputMode:
    """Return `name` as a mode; raises QueryTypeError for any other."""
    for mode in MODES:
        if mode == name.lower():
            return mode
    raise QueryTypeError(f"There is no output mode {name!r}; there are {', '.join(MODES)}.{nearest(name, MODES)}")


def write_outcome(
    outcome: Outcome,
    mode: OutputMode,
    stream: TextIO | None = None,
    notes: TextIO | None = None,
    draw: bool = False,
    whole: bool = False,
) -> None:
    """Write one outcome to `stream` (standard output).

    Heat maps become their most important cells; in a box, `draw` draws them in the terminal, and `whole` leaves no row
    and no column out. JSON is one array of objects a statement, jsonl one object a line, CSV and markdown one table a
    statement. In all but box, messages and failed images go to `notes` (standard error), so that the output stays what
    it claims.
    """
    stream = sys.stdout if stream is None else stream
    notes = sys.stderr if notes is None else notes
    if outcome is None or says_only_done(outcome):
        return
    if isinstance(outcome, Message):
        where = stream if mode == "box" else notes
        print(wrapped(str(outcome), columns_of(where)), file=where)
    elif mode == "box":
        _write_box(outcome, stream, draw, whole)
    else:
        for failure in getattr(outcome, "failures", ()):
            print(wrapped(f"failed: {failure.shown}: {failure.error}", columns_of(notes)), file=notes)
        for note in getattr(outcome, "notes", ()):
            print(wrapped(f"note: {note}", columns_of(notes)), file=notes)
        as_utf8(stream)
        _WRITERS[mode](_as_table(outcome), stream)


def says_only_done(outcome: Any) -> bool:
    """Return whether a table says only that a statement such as CREATE is done: DuckDB 2 returns an empty one."""
    done = getattr(outcome, "columns", None) in (["Success"], ["Count"])
    return done and str(outcome.type) == "MATERIALIZED_RELATION" and not outcome.fetchall()


def _whole_box(relation: DuckDBPyRelation) -> str:
    """Return all rows and columns of a relation; on a screen, DuckDB leaves out what does not fit."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):  # where DuckDB prints it
        relation.show(max_rows=_UNLIMITED, max_width=_UNLIMITED, max_col_width=_UNLIMITED)
    return text.getvalue().rstrip("\n")


def _hint(box: str) -> str:
    """Return what shows all of a table, where DuckDB says below it that it has left something out."""
    below = box.rpartition("\n")[2]
    if re.search(r"columns \(\d+ shown\)", below) or "…" in box:
        return "Cut to fit the screen; .mode line (--mode line) shows every column in full."
    return ""


def _write_box(outcome: Result | Plan | DuckDBPyRelation, stream: TextIO, draw: bool, whole: bool) -> None:
    from obeql.results.result import Result  # noqa: PLC0415 - numpy is not needed for SQL alone

    columns = columns_of(stream)
    if isinstance(outcome, Plan):
        print(wrapped_plan(str(outcome), columns).rstrip("\n"), file=stream)
    elif not isinstance(outcome, Result):
        text = _whole_box(outcome) if whole else str(outcome).rstrip("\n")
        print(text, file=stream)
        if columns is not None and (hint := _hint(text)):
            print(wrapped(hint, columns), file=stream)
    elif draw and outcome.maps:
        from rich.console import Console  # noqa: PLC0415

        from obeql.drawing.terminal import draw_result  # noqa: PLC0415

        print(f"{wrapped(str(outcome), columns)}\n", file=stream, flush=True)
        draw_result(outcome, Console(file=stream))
    else:
        # the overview says what was run and what failed; the table, what matters in each map.
        told = outcome.overview() if whole else str(outcome)
        print(f"{told}\n\n{outcome.table()}\n" if outcome.maps else told, file=stream)


def _as_table(outcome: Result | Plan | DuckDBPyRelation) -> _Table:
    from obeql.results.result import Result  # noqa: PLC0415

    if isinstance(outcome, Plan):
        return _Table(("plan",), [(str(outcome),)])
    if isinstance(outcome, Result):
        return _Table(_RESULT_COLUMNS, [row for heat in outcome for row in _cell_rows(heat)])
    return _Table(outcome.columns, outcome.fetchall())


def _cell_rows(heat: Any) -> Iterable[Sequence[Any]]:
    for rank, cell in enumerate(heat.top(), start=1):
        top_class = top_class_text(cell.top_class, heat.classes) or None
        yield (
            heat.run_id, heat.image, heat.class_name, heat.score_kind, heat.clean_score, rank, cell.row, cell.col,
            cell.top, cell.left, cell.height, cell.width, cell.importance, cell.score, top_class, cell.exact,
        )  # fmt: skip


# ---- one function a mode -----------------------------------------------------------------------------------------


def _write_json(table: _Table, stream: TextIO) -> None:
    opening = "["
    for row in table.rows:
        stream.write(f"{opening}{_json_object(table.columns, row)}")
        opening = ",\n"
    stream.write("[]\n" if opening == "[" else "]\n")


def _write_json_lines(table: _Table, stream: TextIO) -> None:
    for row in table.rows:
        stream.write(f"{_json_object(table.columns, row)}\n")


def _write_csv(table: _Table, stream: TextIO) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        nested = (list, dict, tuple)
        writer.writerow([json.dumps(_jsonable(value)) if isinstance(value, nested) else value for value in row])


def _write_markdown(table: _Table, stream: TextIO) -> None:
    rows = [list(row) for row in table.rows]
    numeric = [all(isinstance(row[i], (int, float)) for row in rows) and rows for i in range(len(table.columns))]
    stream.write(_markdown_line(table.columns))
    stream.write("|" + "|".join(" ---: " if right else " --- " for right in numeric) + "|\n")
    for row in rows:
        stream.write(_markdown_line([_shown(value) for value in row]))


def _write_lines(table: _Table, stream: TextIO) -> None:
    width = max(map(len, table.columns), default=0)
    opening = ""
    for row in table.rows:
        stream.write(opening)
        for name, value in zip(table.columns, row, strict=True):
            stream.write(f"{name:>{width}} = {_shown(value)}\n")
        opening = "\n"


_WRITERS: dict[str, Callable[[_Table, TextIO], None]] = {
    "json": _write_json,
    "jsonl": _write_json_lines,
    "csv": _write_csv,
    "markdown": _write_markdown,
    "line": _write_lines,
}


def _markdown_line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>") for cell in cells)
    return f"| {' | '.join(escaped)} |\n"


def _shown(value: Any) -> str:
    if value is None:
        return "NULL"
    return json.dumps(_jsonable(value), ensure_ascii=False) if isinstance(value, (list, dict, tuple)) else str(value)


def _json_object(columns: Sequence[str], row: Sequence[Any]) -> str:
    record = {name: _jsonable(value) for name, value in zip(columns, row, strict=True)}
    return json.dumps(record, ensure_ascii=False)


def _jsonable(value: Any) -> Any:
    """Return a value as JSON has it: NaN and infinity as null; dates, UUIDs and decimals as text."""
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
