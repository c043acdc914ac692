"""What the page's editor shows while a text is typed: colors, what may come next, and where a mistake is.

The prompt's own lexer, completion and parser, asked once a keystroke; `statement_parts` says what controls show of it.
"""

from __future__ import annotations

from typing import Any

from obeql.cli.repl.completion import suggest
from obeql.cli.repl.highlighting import ObeqlLexer
from obeql.cli.repl.names import Names
from obeql.errors import ObeqlError, QueryError
from obeql.grammar import parse_script, statements
from obeql.web.outcomes import error_facts
from obeql.web.statement_parts import parts_of

__all__ = ["editor_facts"]

#: Suggestions that a menu shows, and the longest text that is colored and parsed at every keystroke.
_MOST, _LONGEST = 60, 20_000


def editor_facts(text: str, cursor: int | None, names: Names) -> dict[str, Any]:
    """Return the tokens of a text, suggestions for its `cursor` (None for none), its mistake, and its parts."""
    text = text[:_LONGEST]
    tokens = [
        [start, len(shown), str(kind).removeprefix("Token.").split(".")[0].lower()]
        for start, kind, shown in ObeqlLexer().get_tokens_unprocessed(text)
        if shown.strip()
    ]
    found = [] if cursor is None else suggest(text[:cursor], names)
    # Paths of this machine are none of a browser's business.
    offered = [
        {"text": each.text, "kind": each.kind, "replaces": each.replaces}
        for each in found
        if each.kind not in ("file", "folder")
    ][:_MOST]
    mistake: dict[str, Any] | None = None
    parts: dict[str, Any] | None = None
    kind = "empty"
    try:
        statements = parse_script(text)
        if statements:
            kind = _kind(statements[-1])
            parts = parts_of(statements[-1]) if len(statements) == 1 else None
    except ObeqlError as error:
        mistake, kind = error_facts(error), "wrong"
        if isinstance(error, QueryError) and error.line is not None and error.column is not None:
            lines = text.split("\n")
            mistake["offset"] = sum(len(line) + 1 for line in lines[: error.line - 1]) + error.column - 1
    return {"tokens": tokens, "suggestions": offered, "mistake": mistake, "parts": parts, "kind": kind}


def _kind(statement: statements.Statement) -> str:
    """Return what runs: `explain` is drawn as a map, `sql` as a table, everything else as what it yields."""
    match statement:
        case statements.ExplainOcclude():
            return "explain"
        case statements.SqlStatement():
            return "sql"
    return "other"
