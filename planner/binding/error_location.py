"""The place of an error: from a syntax node to line, column and caret."""

from __future__ import annotations

from typing import TypeVar

from obeql.errors import QueryError
from obeql.grammar import syntax

__all__ = ["locate"]

Failure = TypeVar("Failure", bound=QueryError)


def locate(error: Failure, text: str, node: syntax.Node, start: int | None = None) -> Failure:
    """Return the error with the place of `node` (or the offset `start`) in `text`, unless it already has one.

    A node that was built by hand, without a text, has no place.
    """
    if error.line is None and text and node.span.end > node.span.start:
        error.locate(text, node.span.start if start is None else start)
    return error
