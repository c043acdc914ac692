"""The place of an error: from a syntax node to line, column and caret.

Whoever finds an error says at which node (`locate`); the text is there once, where a statement is run (`placed_in`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from obeql.errors import QueryError
from obeql.grammar import syntax

__all__ = ["is_written", "locate", "placed_in"]

Failure = TypeVar("Failure", bound=QueryError)


def is_written(node: syntax.Node) -> bool:
    """Return whether a node was read from a text; those of a tree built by hand, as from keywords, have no place."""
    return node.span.end > node.span.start


def locate(error: Failure, node: syntax.Node, start: int | None = None) -> Failure:
    """Return the error at the place of `node`, or at the offset `start` of the text, unless it already has a place."""
    if error.line is None and error.start is None and is_written(node):
        error.start = node.span.start if start is None else start
    return error


@contextmanager
def placed_in(text: str) -> Iterator[None]:
    """Give an error that leaves the block, and is located, its line, column and caret in `text`."""
    try:
        yield
    except QueryError as error:
        if text and error.line is None and error.start is not None:
            error.locate(text, error.start)
        raise
