"""Text to syntax tree.

Before: a script as a user typed it. After: `obeql.planner` binds the statements to models, images and classes.

The scanner cuts the script; statements of SQL are passed on as they are, each of OBEQL's is parsed by lark and
built by `obeql.grammar.builder`. Every failure is a QuerySyntaxError placed in the whole script.
lark is imported and the grammar compiled when the first statement is parsed, which takes about 0.1 s once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, NoReturn

from obeql.errors import QuerySyntaxError
from obeql.grammar.diagnose import Failure, keywords_of, syntax_error, without_clauses_given
from obeql.grammar.embedding import InnerText, find_embedded, innermost
from obeql.grammar.scanner import MaskedStatement, RawStatement, mask, planned_sql, split_script
from obeql.grammar.statements import ExplainOcclude, PlanSql, Predict, SqlStatement, Statement
from obeql.grammar.syntax import Embedded, Span

if TYPE_CHECKING:
    from lark import Lark, Token
    from lark.parsers.lalr_interactive_parser import InteractiveParser


@functools.cache
def _lark() -> Lark:
    from lark import Lark  # noqa: PLC0415 - importing obeql must stay fast

    grammar = (files("obeql.grammar") / "obeql.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", lexer="contextual", propagate_positions=True, maybe_placeholders=True)


def parse_script(text: str) -> tuple[Statement, ...]:
    """Return the statements of a script in order; an empty script has none.

    Parameters are counted per statement; every span is an offset into `text`. What is not OBEQL becomes an
    SqlStatement, unparsed. Raises QuerySyntaxError, with its place, for the first statement that does not parse.
    """
    return tuple(_parse(text, raw) for raw in split_script(text))


def parse_statement(text: str) -> Statement:
    """Return the one statement of a text; raises QuerySyntaxError if there is none, more, or it does not parse."""
    found = list(split_script(text))
    if not found:
        raise QuerySyntaxError("expected a statement, found nothing").locate(text, 0)
    if len(found) > 1:
        raise QuerySyntaxError("expected a single statement, found another").locate(text, found[1].start)
    return _parse(text, found[0])


def accepts(text: str) -> frozenset[str]:
    """Return the keywords that may come next, in upper case, after whole words of text.

    Empty when the last statement of the text is not OBEQL, does not parse so far, or no keyword may follow;
    a word still being typed must be cut off first. `accepts("")` are the words that begin a statement.
    """
    return keywords_of(expected(text).terminals)


@dataclass(frozen=True, slots=True)
class Expected:
    """What may follow a text: terminals of the grammar, and those read of its last statement, with their texts."""

    terminals: frozenset[str]
    read: tuple[tuple[str, str], ...] = ()


def expected(text: str) -> Expected:
    """Return what may come next after whole words of text, as `accepts`, in terminals of the grammar.

    Inside parentheses it is what may come next in the statement of OBEQL there.
    """
    statements = list(split_script(text))
    if statements and not statements[-1].terminated:
        raw = statements[-1]
        begin, is_obeql = innermost(raw.text)
        if begin and not is_obeql:
            return Expected(frozenset())
        try:
            masked = mask(text, raw.start + begin, raw.end)
        except QuerySyntaxError:
            return Expected(frozenset())
    else:
        masked = MaskedStatement("", {})
    state, read, failure = _feed(masked.text)
    if failure is not None:
        return Expected(frozenset())
    terminals = without_clauses_given(_accepted(state), [token.type for token in read])
    return Expected(frozenset(terminals), tuple((token.type, str(token)) for token in read))


def _parse(script: str, raw: RawStatement) -> Statement:
    if not raw.is_obeql:
        return _sql(script, raw.start, raw.end)
    if (begin := planned_sql(raw.text)) is not None:
        planned = _sql(script, raw.start + begin, raw.end)
        if planned.embedded:
            return PlanSql(planned, span=Span(raw.start, raw.end))
    return _obeql(script, InnerText(raw.start, raw.end, 0))


def _sql(script: str, start: int, end: int) -> SqlStatement:
    inner = tuple(_embedded(script, each) for each in find_embedded(script, start, end))
    return SqlStatement(script[start:end], inner, span=Span(start, end))


def _embedded(script: str, inner: InnerText) -> Embedded:
    """Return a statement of OBEQL that stands in parentheses inside SQL."""
    statement = _obeql(script, inner)
    if not isinstance(statement, ExplainOcclude | Predict):
        raise QuerySyntaxError(
            "inside SQL stands EXPLAIN OCCLUDE or PREDICT; PLAN is written before the whole statement: PLAN SELECT .."
        ).locate(script, inner.start)
    return Embedded(statement, span=Span(inner.start, inner.end))


def _obeql(script: str, where: InnerText) -> Statement:
    from lark.exceptions import UnexpectedInput  # noqa: PLC0415

    from obeql.grammar.builder import TreeBuilder  # noqa: PLC0415 - imports lark

    masked = mask(script, where.start, where.end)
    try:
        tree = _lark().parse(masked.text)
    except UnexpectedInput:
        tree = None  # complain outside the handler, so that lark's error is not shown as the cause
    if tree is None:
        _complain(script, where.start, masked)
    statement: Statement = TreeBuilder(script, where, masked, _embedded).build(tree)
    return statement


def _feed(masked: str) -> tuple[InteractiveParser, list[Token], int | None]:
    """Return the parser after the longest correct beginning, the tokens of it, and where it failed, if so."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken  # noqa: PLC0415

    state = _lark().parse_interactive(masked)
    read: list[Token] = []
    try:
        tokens: Iterator[Token] = state.lexer_thread.lex(state.parser_state)  # type: ignore[no-untyped-call]
        for token in tokens:
            read.append(token)
            state.feed_token(token)
        return state, read, None
    except UnexpectedCharacters as error:
        failure = error.pos_in_stream
    except UnexpectedToken as error:
        # Raised by the lexer for a token it has not handed over, or by the parser for the last of `read`.
        failure = error.token.start_pos
        if read and read[-1] is error.token:
            read.pop()
    # The parser may have reduced before it noticed: what was allowed is asked of one that never saw the culprit.
    state = _lark().parse_interactive()
    for token in read:
        state.feed_token(token)
    return state, read, failure


def _accepted(state: InteractiveParser) -> set[str]:
    accepted: set[str] = state.accepts()  # type: ignore[no-untyped-call]
    return accepted


def _complain(script: str, start: int, masked: MaskedStatement) -> NoReturn:
    state, read, failure = _feed(masked.text)
    # At the end of the statement the caret stands behind its last word, not behind a comment.
    stop = len(masked.text.rstrip())
    offset = start + (stop if failure is None else failure)
    terminals = [token.type for token in read]
    accepted = without_clauses_given(_accepted(state), terminals)
    # The last token as it is in the script: the mask differs only where no name stands.
    last = str(read[-1]) if read else ""
    raise syntax_error(script, Failure(offset, start + stop, accepted, terminals, last))
