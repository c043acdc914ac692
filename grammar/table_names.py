"""Names of tables in place of statements inside SQL, in the text that DuckDB gets.

Used by the nodes of `obeql.grammar.syntax`; `obeql.grammar.embedding` finds the statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["table_of", "with_tables"]

_NO_LINE_END = re.compile(r"[^\r\n]")


def table_of(start: int) -> str:
    """Return the name by which DuckDB knows the rows of the statement that begins there."""
    return f"#{start}"


def with_tables(text: str, base: int, inner: Iterable[tuple[int, int]]) -> str:
    """Return the SQL `text` with tables in place of its inner statements; `base` is where it stands in the script.

    `inner` are their offsets into the script. No statement is shorter than what takes its place.
    """
    pieces: list[str] = []
    resume = 0
    for start, end in inner:
        named = f'FROM "{table_of(start)}"'
        written = text[start - base : end - base]
        pieces += [text[resume : start - base], named, _NO_LINE_END.sub(" ", written[len(named) :])]
        resume = end - base
    return "".join([*pieces, text[resume:]])
