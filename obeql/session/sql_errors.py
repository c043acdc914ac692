"""DuckDB's errors as errors of a query: placed in the script that the user wrote, and not longer than a screen.

Between DuckDB and whoever reads: the session raises them when a statement fails, the command line when its rows do.
DuckDB draws a place within one statement, and for a relation often none; here it is looked up in the whole script.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import duckdb

from obeql.errors import QueryError
from obeql.grammar.scanner import scan

__all__ = ["Ask", "said_and_offset", "sql_error"]

#: Functions that DuckDB names as candidates where the types fit none; it lists all, which may be a hundred.
_CANDIDATES = 5

_DRAWING = re.compile(r"\n+LINE (?P<number>\d+): (?P<shown>[^\n]*)\n(?P<blanks> *)\^+\s*\Z")
_NAMED = re.compile(r'(?:name |Referenced (?:column|table) |source column |Unrecognized option )"?(?P<name>[^"\s!]+)"?')
_FILE = re.compile(r'(?:file|pattern) "(?P<name>[^"\n]+)"')
#: What is put before a statement to ask again where it fails; a line of its own, so that columns stay.
_ASKING = "EXPLAIN\n"

#: Runs a statement that changes nothing.
Ask = Callable[[str], Any]


def sql_error(
    error: duckdb.Error,
    sql: str,
    script: str,
    start: int,
    ask: Ask | None = None,
    written: str | None = None,
    lines_before: int = 0,
) -> QueryError:
    """Return the error of a statement `sql` that begins at the offset `start` of a script, with its place there.

    `ask` runs a statement on the same database, to find out where the error is if DuckDB has not said it. `written` is
    what stands in the script, of the same length, where DuckDB got another text, which had `lines_before` it.
    """
    said, offset = said_and_offset(error, sql, ask, lines_before)
    found = QueryError(said)
    if offset is not None and script.startswith(sql if written is None else written, start):
        found.locate(script, start + offset)
    return found


def said_and_offset(
    error: duckdb.Error, sql: str, ask: Ask | None = None, lines_before: int = 0
) -> tuple[str, int | None]:
    """Return DuckDB's message without its drawing, and the offset into `sql` that it is about, if that is known."""
    text = str(error).strip()
    # DuckDB looks for missing tables among Python's variables, which are those of this package here.
    if variable := re.search(r'Python Object "(\w+)" of type', text):
        return f"There is no table {variable[1]!r}.", _offset_of(variable[1], sql)
    drawing = _DRAWING.search(text)
    said = text[: drawing.start()] if drawing is not None else text
    offset = None if drawing is None else _offset(drawing, sql, lines_before)
    if drawing is None and ask is not None and isinstance(error, (duckdb.BinderException, duckdb.CatalogException)):
        offset = _asked(said, sql, ask)
    if offset is None and (named := _NAMED.search(said)):
        offset = _offset_of(named["name"], sql)
    if offset is None and (named := _FILE.search(said)):
        offset = _offset_of(named["name"], sql, "string")
    return _shortened(said), offset


def _asked(said: str, sql: str, ask: Ask) -> int | None:
    """Return the offset, as DuckDB tells it where the statement is only explained.

    Return None where it says something else then.
    """
    try:
        ask(_ASKING + sql)
    except duckdb.Error as error:
        text = str(error).strip()
        drawing = _DRAWING.search(text)
        if drawing is not None and text[: drawing.start()] == said:
            return _offset(drawing, sql, _ASKING.count("\n"))
    return None


def _offset(drawing: re.Match[str], sql: str, lines_before: int) -> int | None:
    number, shown = int(drawing["number"]) - 1 - lines_before, drawing["shown"]
    lines = sql.split("\n")
    if not 0 <= number < len(lines):
        return None
    line = lines[number]
    column = len(drawing["blanks"]) - len(f"LINE {drawing['number']}: ")
    # Of a long line DuckDB shows the part around the place, between dots.
    if shown not in line and shown.startswith("..."):
        shown, column = shown[3:], column - 3
    shown = shown if shown in line else shown.removesuffix("...")
    at = line.find(shown)
    if at < 0 or column < 0:
        return None
    while column > 0 and at < len(line):
        column -= _columns(line[at])
        at += 1
    while at < len(line) and _columns(line[at]) == 0:  # a place is a character that is seen
        at += 1
    return sum(len(each) + 1 for each in lines[:number]) + at


def _columns(character: str) -> int:
    """Return the columns of a terminal that a character takes, as DuckDB counts them: none for a tab."""
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cc", "Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _offset_of(name: str, sql: str, *kinds: str) -> int | None:
    """Return where a name, or a string by its kind of token, stands in a statement, if once."""
    found = [
        token.start
        for token in scan(sql)
        if token.kind in (kinds or ("word", "quoted"))
        and sql[token.start : token.end].strip("\"'").lower() == name.lower()
    ]
    return found[0] if len(found) == 1 else None


def _shortened(said: str) -> str:
    """Return the message with a few of its candidates, which stand a line each behind a tab."""
    lines = [line for line in said.split("\n") if line.strip()]
    candidates = [line for line in lines if line.startswith("\t")]
    if len(candidates) <= _CANDIDATES + 1:
        return "\n".join(lines)
    dropped = set(candidates[_CANDIDATES + 1 :])
    kept = [line for line in lines if line not in dropped]
    with suppress(ValueError):
        kept.insert(kept.index(candidates[_CANDIDATES]) + 1, f"\t.. and {len(dropped)} more")
    return "\n".join(kept)
