"""Find the statements of OBEQL that stand in parentheses inside SQL, where SQL takes a table.

Beside `obeql.grammar.scanner`, whose tokens it reads. `obeql.grammar.parser` parses what is found here, and
`table_names` puts the name of a table in its place: DuckDB gets that text, which is as long as the one that was
written and has its lines, so that what DuckDB says of a place is true of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from obeql.errors import QuerySyntaxError
from obeql.grammar.scanner import Token, check_closed, is_obeql_statement, resembles, scan

__all__ = ["InnerText", "find_embedded", "innermost"]

#: Of statements of OBEQL, the first words of those that may stand inside SQL, and of PLAN, which is told it may not.
_FIRST_WORDS = ("explain", "predict", "plan")
#: A text without any of these words has none of them inside: most SQL is not looked through.
_TELLTALE = re.compile("explain|predict|occlude", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class InnerText:
    """The text `script[start:end]` between two parentheses; `n_positional` of `?` stand before it in its statement."""

    start: int
    end: int
    n_positional: int


def find_embedded(script: str, start: int, end: int, is_source: bool = False) -> Iterator[InnerText]:
    """Yield the outermost statements of OBEQL in parentheses inside the SQL `script[start:end]`.

    `is_source` says that the text stands in parentheses itself, as the source of a statement: it may be one as a whole.
    Raises QuerySyntaxError for a quote, comment or parenthesis that is not closed inside one of them.
    """
    if _TELLTALE.search(script, start, end) is None:
        return
    tokens = _meaningful(script, start, end)
    if is_source and tokens and _shown(script, tokens[0]) in _FIRST_WORDS:
        yield InnerText(start, end, 0)
        return
    n_positional = place = 0
    while place < len(tokens):
        token = tokens[place]
        if _shown(script, token) == "?":
            n_positional += 1
        elif _shown(script, token) == "(" and _begins_statement(script, tokens[place + 1 : place + 7]):
            closing = _closing(script, tokens, place)
            yield InnerText(token.end, tokens[closing].start, n_positional)
            n_positional += sum(_shown(script, each) == "?" for each in tokens[place:closing])
            place = closing
        place += 1


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


def _closing(script: str, tokens: Sequence[Token], place: int) -> int:
    """Return the place of the token that closes the parenthesis at `place`."""
    depth = 0
    for number in range(place, len(tokens)):
        check_closed(script, tokens[number])
        shown = _shown(script, tokens[number])
        depth += (shown == "(") - (shown == ")")
        if depth == 0:
            return number
    raise QuerySyntaxError("this parenthesis is not closed; expected )").locate(script, tokens[place].start)


def _begins_statement(script: str, tokens: Sequence[Token]) -> bool:
    """Return whether tokens after a parenthesis begin a statement of OBEQL; words that SQL may have there do not."""
    words = [_shown(script, token) if token.kind == "word" else f"<{script[token.start]}>" for token in tokens]
    first, second, third, fourth, fifth = (*words, "", "", "", "", "")[:5]
    match first:
        case "plan":
            return "explain" in (second, third) and "occlude" in (third, fourth)
        case "predict":
            # A column or a table may have this name: (predict INTEGER USING COMPRESSION rle), (predict p JOIN ..).
            if second == "<(>":
                return _is_used_after_source(script, tokens)
            is_used = second != "using" and third not in ("", "as") and resembles(third, "using")
            return is_used and not (fourth == "compression" and fifth not in ("", "for", "with", "<)>"))
        case "explain":
            return resembles(second, "occlude")
    return second == "occlude" and resembles(first, "explain")


def _may_begin_statement(text: str, tokens: Sequence[Token]) -> bool:
    """As `_begins_statement`, of words some of which are still to be typed."""
    first, second, third = (*(_shown(text, token) for token in tokens), "", "", "")[:3]
    if first == "predict":
        return second == "(" or "using".startswith(third) or resembles(third, "using")
    return first == "explain" and ("occlude".startswith(second) or resembles(second, "occlude"))


def _is_used_after_source(script: str, tokens: Sequence[Token]) -> bool:
    """Return whether USING follows the parentheses after `predict`, which are not those of a function then."""
    depth = 0
    for token in scan(script, tokens[1].start):
        shown = _shown(script, token)
        if depth == 0 and token.kind == "word":
            return resembles(shown, "using")
        depth += (shown == "(") - (shown == ")")
        if depth < 0 or token.kind == "semicolon":
            return False
    return False
