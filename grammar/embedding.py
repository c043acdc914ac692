"""Find the statements of OBEQL that stand in parentheses inside SQL, where SQL takes a table.

Beside `obeql.grammar.scanner`, whose tokens it reads. `obeql.grammar.parser` parses what is found here, and
`table_names` puts the name of a table in its place: DuckDB gets that text, which is as long as the one that was
written and has its lines, so that what DuckDB says of a place is true of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from obeql.errors import QuerySyntaxError
from obeql.grammar.scanner import Token, check_closed, is_obeql_statement, resembles, scan

__all__ = ["InnerText", "find_embedded", "innermost"]

#: Of statements of OBEQL, the first words of those that may stand inside SQL, and of PLAN, which is told it may not.
_FIRST_WORDS = ("explain", "predict", "plan")
#: A text without any of these words has none of them inside: most SQL is not looked through.
_TELLTALE = re.compile("explain|predict|occlude", re.IGNORECASE)

#: Deep enough for any question; each level is parsed, planned and run inside the one around it.
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class InnerText:
    """The text `script[start:end]` between two parentheses; `n_positional` of `?` stand before it in its statement.

    `depth` counts the statements of OBEQL that it stands in.
    """

    start: int
    end: int
    n_positional: int
    depth: int = 0


def find_embedded(script: str, start: int, end: int, source_of: InnerText | None = None) -> Iterator[InnerText]:
    """Yield the outermost statements of OBEQL in parentheses inside the SQL `script[start:end]`.

    `source_of` is the statement whose source the text is, in parentheses itself: it may be a statement as a whole.
    Raises QuerySyntaxError for a quote, comment or parenthesis that is not closed inside one of them, and for
    statements nested deeper than `MAX_DEPTH`.
    """
    if _TELLTALE.search(script, start, end) is None:
        return
    tokens = _meaningful(script, start, end)
    depth = 0 if source_of is None else source_of.depth + 1
    if source_of is not None and tokens and _shown(script, tokens[0]) in _FIRST_WORDS:
        yield _inner_text(script, start, end, 0, depth)
        return
    closings = _closings(script, tokens)
    n_positional = place = 0
    while place < len(tokens):
        token = tokens[place]
        if _shown(script, token) == "?":
            n_positional += 1
        elif _shown(script, token) == "(" and _begins_statement(script, tokens, place + 1, closings):
            if place not in closings:
                check_closed(script, tokens[-1])  # no other can be open: it runs to the end of the text
                raise QuerySyntaxError("this parenthesis is not closed; expected )").locate(script, token.start)
            closing = closings[place]
            yield _inner_text(script, token.end, tokens[closing].start, n_positional, depth)
            n_positional += sum(_shown(script, each) == "?" for each in tokens[place:closing])
            place = closing
        place += 1


def _inner_text(script: str, start: int, end: int, n_positional: int, depth: int) -> InnerText:
    if depth > MAX_DEPTH:
        raise QuerySyntaxError(
            f"statements stand inside one another at most {MAX_DEPTH} deep; keep the inner ones' rows in a table"
        ).locate(script, start)
    return InnerText(start, end, n_positional, depth)


def innermost(text: str) -> tuple[int, bool]:
    """Return where the innermost piece begins that a text, one statement, ends inside of, and whether it is OBEQL's.

    A piece is the whole text, a statement of OBEQL in parentheses, or a SELECT in parentheses that names its images.
    The text is being typed: a statement may lack what it would be known by.
    """
    pieces = [(0, is_obeql_statement(text))]
    if _TELLTALE.search(text) is None:
        return pieces[-1]
    tokens = _meaningful(text, 0, len(text))
    opened: list[bool] = []
    for place, token in enumerate(tokens):
        shown = _shown(text, token)
        if shown == "(":
            before = _shown(text, tokens[place - 1]) if place else ""
            begins = _may_begin_statement(text, tokens[place + 1 : place + 4])
            is_select = pieces[-1][1] and before in ("occlude", "predict", "from") and not begins
            opened.append(begins or is_select)
            if opened[-1]:
                pieces.append((token.end, begins))
        elif shown == ")" and opened and opened.pop():
            pieces.pop()
    return pieces[-1]


def _meaningful(script: str, start: int, end: int) -> list[Token]:
    """Return the tokens of `script[start:end]` without blanks and comments that are closed."""
    found = []
    for token in scan(script[:end], start):
        if token.kind != "blank" and not (token.kind == "comment" and token.closed):
            found.append(token)
    return found


def _shown(script: str, token: Token) -> str:
    return script[token.start : token.end].lower()


def _closings(script: str, tokens: Sequence[Token]) -> dict[int, int]:
    """Return for the place of every parenthesis that is closed the place of the token that closes it."""
    closings: dict[int, int] = {}
    opened: list[int] = []
    for place, token in enumerate(tokens):
        if token.kind == "other":
            shown = script[token.start]
            if shown == "(":
                opened.append(place)
            elif shown == ")" and opened:
                closings[opened.pop()] = place
    return closings


def _begins_statement(script: str, tokens: Sequence[Token], place: int, closings: Mapping[int, int]) -> bool:
    """Return whether the tokens from `place`, after a parenthesis, begin a statement of OBEQL.

    Words that SQL may have there do not.
    """
    words = [
        _shown(script, token) if token.kind == "word" else f"<{script[token.start]}>"
        for token in tokens[place : place + 6]
    ]
    first, second, third, fourth, fifth = (*words, "", "", "", "", "")[:5]
    match first:
        case "plan":
            return "explain" in (second, third) and "occlude" in (third, fourth)
        case "predict":
            # A column or a table may have this name: (predict INTEGER USING COMPRESSION rle), (predict p JOIN ..).
            if second == "<(>":
                closing = closings.get(place + 1)
                return closing is not None and _is_used(script, tokens, closing + 1)
            is_used = second != "using" and third not in ("", "as") and resembles(third, "using")
            return is_used and not (fourth == "compression" and fifth not in ("", "for", "with", "<)>"))
        case "explain":
            return resembles(second, "occlude")
    return second == "occlude" and resembles(first, "explain")


def _may_begin_statement(text: str, tokens: Sequence[Token]) -> bool:
    """Return what `_begins_statement` does, of words some of which are still to be typed."""
    first, second, third = (*(_shown(text, token) for token in tokens), "", "", "")[:3]
    if first == "predict":
        return second == "(" or "using".startswith(third) or resembles(third, "using")
    return first == "explain" and ("occlude".startswith(second) or resembles(second, "occlude"))


def _is_used(script: str, tokens: Sequence[Token], place: int) -> bool:
    """Return whether USING is the next word, as it is not after the parentheses of a function named predict."""
    while place < len(tokens) and _shown(script, tokens[place]) not in ("(", ")", ";"):
        if tokens[place].kind == "word":
            return resembles(_shown(script, tokens[place]), "using")
        place += 1
    return False
