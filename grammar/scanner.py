"""Cuts a script into statements and says which are OBEQL's and which go to DuckDB.

Before: the text a user typed. After: `obeql.grammar.parser` parses OBEQL's statements; DuckDB gets every other
one, character for character.

The scanner knows what hides a `;`: quotes, dollar quotes, comments (nested, as in DuckDB). It decides by the
first words of a statement alone, and only for words that DuckDB would refuse in that place, so no valid SQL is
taken away. Misspelt statements of OBEQL (`EXPLAIN OCLUDE x`) are claimed on the same condition: the parser's
complaint about them helps, DuckDB's would not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from obeql.errors import QuerySyntaxError
from obeql.grammar.statements import STATEMENTS

TokenKind = Literal["blank", "comment", "string", "quoted", "dollar", "word", "parameter", "semicolon", "other"]

# Possessive quantifiers: an unclosed quote must run to the end of the text, not backtrack to an earlier one.
_TOKEN = re.compile(
    r"""
      (?P<blank>\s+)
    | (?P<comment>--[^\n\r]*+ | /\*)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*+(?:'|\Z) | '[^']*+(?:''[^']*+)*+(?:'|\Z))
    | (?P<quoted>"[^"]*+(?:""[^"]*+)*+(?:"|\Z))
    | (?P<dollar>\$(?:[^\W\d]\w*+)?\$)
    | (?P<word>[^\W\d][\w$]*+)
    | (?P<parameter>\?|\$\w++)
    | (?P<semicolon>;)
    | (?P<other>\d\w*+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")

#: what a SELECT source is replaced by before lark sees the statement: one mark, then filling to the same length
SUBQUERY_MARK = "\x02"
SUBQUERY_FILLING = "\x01"


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: first words of what may stand in parentheses as a source: queries, and statements of OBEQL that yield rows
_QUERY_WORDS = _word_set("select with from values table pivot unpivot describe show summarize explain predict plan")


def _beginnings() -> dict[str, tuple[str, ...]]:
    """Return the first words of statements with those that may come next: of any, where there are none."""
    found: dict[str, tuple[str, ...]] = {}
    for statement in STATEMENTS:
        first, following = statement.about.begins
        found[first] = (*found.get(first, ()), *following)
    return found


_BEGINNINGS = _beginnings()
#: first words that begin no statement of DuckDB
_OWN = frozenset(first for first, following in (each.about.begins for each in STATEMENTS) if not following)

# What DuckDB itself allows after these words; a resemblance to one of OBEQL's words does not count then.
_SQL_OBJECTS = _word_set(
    """aggregate collation database domain foreign function global index local macro materialized or owned
    persistent pragma property recursive role schema schemas secret sequence table tablespace temp temporary
    trigger type unique unlogged user view if"""
)
_SQL_FIRST_WORDS = _word_set(
    """abort alter analyze attach begin call checkpoint comment commit connect copy create deallocate declare
    delete desc describe detach drop end execute explain export force from grant import insert install listen
    load lock merge move notify pivot pragma prepare refresh reindex release replace reset revoke rollback
    savepoint security select set show start summarize table truncate unpivot update use vacuum values with"""
)


class Token(NamedTuple):
    """A piece of text; `closed` is False for a quote or comment that the text ends inside of."""

    kind: TokenKind
    start: int
    end: int
    closed: bool


def _comment_end(text: str, start: int) -> tuple[int, bool]:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end(), True
    return len(text), False


def scan(text: str, start: int = 0) -> Iterator[Token]:
    """Yield every token of the text, blanks and comments included, without gaps."""
    position, length = start, len(text)
    while position < length:
        match = _TOKEN.match(text, position)
        if match is None:  # every character is an `other`
            raise AssertionError(f"no token at {position}")
        kind: TokenKind = match.lastgroup  # type: ignore[assignment]
        end, closed = match.end(), True
        if kind == "comment" and text.startswith("/*", position):
            end, closed = _comment_end(text, position)
        elif kind == "dollar":
            found = text.find(match.group(), end)
            closed = found >= 0
            end = found + len(match.group()) if closed else length
        elif kind in ("string", "quoted"):
            closed = _is_closed_quote(match.group())
        yield Token(kind, position, end, closed)
        position = end


def _is_closed_quote(quoted: str) -> bool:
    if quoted[0] in "eE":
        return re.fullmatch(r".'(?:[^'\\]|\\.|'')*+'", quoted, re.DOTALL) is not None
    mark = quoted[0]
    if len(quoted) < 2 or not quoted.endswith(mark):
        return False
    # Inside, marks come in pairs: an odd number at the end means the last one closes.
    tail = len(quoted) - 1 - len(quoted[1:].rstrip(mark))
    return tail % 2 == 1


@dataclass(frozen=True, slots=True)
class RawStatement:
    """One statement of a script: `script[start:end]`, without its `;` and the blanks around it."""

    text: str
    start: int
    end: int
    terminated: bool
    is_obeql: bool


def split_script(script: str) -> Iterator[RawStatement]:
    """Yield the statements of a script; what holds only blanks and comments is no statement."""
    start: int | None = None
    stop = 0
    blank = True
    for token in scan(script):
        if token.kind == "semicolon":
            if start is not None and not blank:
                yield _raw_statement(script, start, stop, terminated=True)
            start, blank = None, True
        elif token.kind != "blank":
            if start is None:
                start = token.start
            stop = token.end
            blank = blank and token.kind == "comment" and token.closed
    if start is not None and not blank:
        yield _raw_statement(script, start, stop, terminated=False)


def _raw_statement(script: str, start: int, stop: int, *, terminated: bool) -> RawStatement:
    text = script[start:stop]
    return RawStatement(text, start, stop, terminated, is_obeql_statement(text))


def is_complete(text: str) -> bool:
    """Return whether the text has a `;` that ends a statement and nothing is begun after the last one."""
    ended = begun = False
    for token in scan(text):
        if token.kind == "semicolon":
            ended, begun = True, False
        elif token.kind != "blank" and not (token.kind == "comment" and token.closed):
            begun = True
    return ended and not begun


def count_positional_parameters(sql: str) -> int:
    """Return how many `?` a piece of SQL binds."""
    return sum(token.kind == "parameter" and sql[token.start] == "?" for token in scan(sql))


# ---- whose statement -------------------------------------------------------------------------------------


def resembles(word: str, *known: str) -> bool:
    """Return whether a word in small letters is one of the known ones, or nearly so."""
    return bool(difflib.get_close_matches(word[:40], known, n=1, cutoff=0.75))


def _first_words(text: str) -> list[str]:
    """Return the first six tokens: bare words in lower case, anything else with a mark that no word has."""
    seen = (token for token in scan(text) if token.kind not in ("blank", "comment"))
    return [
        text[token.start : token.end].lower() if token.kind == "word" else f"<{text[token.start]}>"
        for token in islice(seen, 6)
    ]


def is_obeql_statement(text: str) -> bool:
    """Return whether a single statement is OBEQL's, by its first words; all others are DuckDB's."""
    words = _first_words(text)
    first, second, third = (*words, "", "", "")[:3]
    if first in _OWN or first == "occlude":
        return True
    if first == "create" and (second, third) == ("or", "replace"):
        second = "".join(words[3:4])
    following = _BEGINNINGS.get("describe" if first == "desc" else first, ())
    match first:
        case "explain":
            return _is_occlude(second, third)
        case "create" | "drop":
            return _is_kind(second, *following)
        case "show":
            # SHOW takes a table's name in DuckDB, so nothing but the very word is ours
            return second in following and third != "<.>"
        case "describe" | "desc":
            return second in following and third not in ("", "<.>", "<(>")
        case "set" | "reset":
            return second in following and third == "<.>"
    return second in following or _is_misspelt(first, second, third)


def _is_occlude(second: str, third: str) -> bool:
    if second == "analyze":
        return third == "occlude"
    if second in _SQL_FIRST_WORDS:
        return False
    return third == "using" or resembles(second, "occlude")


def planned_sql(text: str) -> int | None:
    """Return where the SQL begins in `PLAN <SQL>`; None of any other statement of OBEQL."""
    words = list(islice((token for token in scan(text) if token.kind not in ("blank", "comment")), 2))
    if len(words) < 2 or text[words[0].start : words[0].end].lower() != "plan":
        return None
    second = text[words[1].start : words[1].end].lower()
    return words[1].start if second in _SQL_FIRST_WORDS - {"explain", "analyze"} or second in ("(", "from") else None


def _is_kind(word: str, *kinds: str) -> bool:
    return word in kinds or (word not in _SQL_OBJECTS and resembles(word, *kinds))


def _is_misspelt(first: str, second: str, third: str) -> bool:
    if first in _SQL_FIRST_WORDS or first.startswith("<"):
        return False
    if resembles(first, "explain"):
        return resembles(second, "occlude") or third == "using"
    if second in (*_BEGINNINGS["drop"], *_BEGINNINGS["show"]) and resembles(
        first, "create", "drop", "describe", "show"
    ):
        return True
    if resembles(first, "plan") and second == "explain":
        return True
    return resembles(first, *(_OWN - {"plan"}))


# ---- what lark is given ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MaskedStatement:
    """A statement of the same length as its original, fit for lark.

    Comments are blanks; a SELECT source is a SUBQUERY_MARK and filling. `subqueries` maps its place to the
    places of the parameters in it.
    """

    text: str
    subqueries: dict[int, tuple[int, ...]]


def mask(script: str, start: int, end: int) -> MaskedStatement:
    """Blank the comments of the statement `script[start:end]` and cut out the SELECT of its source and of WINDOWS.

    The offsets in the result count from `start`. Raises QuerySyntaxError for a quote, comment or parenthesis
    left open and for a source in parentheses that is no query.
    """
    pieces: list[str] = []
    subqueries: dict[int, tuple[int, ...]] = {}
    before = ""
    tokens = scan(script, start)
    while (token := next(tokens, None)) is not None and token.start < end:
        check_closed(script, token)
        shown = script[token.start : token.end]
        if token.kind == "comment":
            shown = " " * len(shown)
        elif shown == "(" and before in ("occlude", "predict", "from", "windows"):
            after, parameters = _subquery(script, token.start, end)
            subqueries[token.start - start] = tuple(place - start for place in parameters)
            shown = SUBQUERY_MARK + SUBQUERY_FILLING * (after - token.start - 1)
            tokens = scan(script, after)
        elif shown in (SUBQUERY_MARK, SUBQUERY_FILLING):
            shown = "\0"  # refused by the grammar like any other control character
        pieces.append(shown)
        if token.kind not in ("blank", "comment"):
            before = shown.lower() if token.kind == "word" else ""
    return MaskedStatement("".join(pieces), subqueries)


_NOT_CLOSED = {
    "comment": "this comment is not closed; expected */",
    "string": "this string is not closed; expected '",
    "quoted": 'this quoted name is not closed; expected "',
    "dollar": "this dollar quote is not closed; expected its opening tag again",
}


def check_closed(script: str, token: Token) -> None:
    """Raise QuerySyntaxError for a quote or comment that the text ends inside of."""
    if not token.closed:
        raise QuerySyntaxError(_NOT_CLOSED[token.kind]).locate(script, token.start)


def _subquery(script: str, start: int, end: int) -> tuple[int, list[int]]:
    """Return the offset after the parenthesis that closes the one at `start`, and the parameters between."""
    depth = 0
    empty = True
    parameters: list[int] = []
    for token in scan(script, start):
        if token.start >= end:
            break
        check_closed(script, token)
        shown = script[token.start : token.end]
        if token.kind == "parameter":
            parameters.append(token.start)
        if shown == ")":
            depth -= 1
            if depth == 0 and not empty:
                return token.end, parameters
        if depth <= 1 and empty and token.start > start and token.kind not in ("blank", "comment"):
            if shown.lower() not in _QUERY_WORDS and shown != "(":
                raise QuerySyntaxError(
                    f"a source in parentheses is a query: expected SELECT, FROM, WITH or VALUES, found {shown[:40]!r}"
                ).locate(script, token.start)
            empty = False
        if shown == "(":
            depth += 1
    raise QuerySyntaxError("this parenthesis is not closed; expected )").locate(script, start)
