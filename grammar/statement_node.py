"""What a statement is: a node with its words, its form, its help and the options that it takes.

Before: `syntax` has the nodes that statements are made of. After: `map_statements`, `catalog_statements` and
`run_statements` are the statements, all of them listed in `statements`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from obeql.grammar.syntax import Node, Option

__all__ = ["About", "StatementNode", "Words", "with_options"]

#: what a statement is made of in order: words and nodes; None is left out
Words: TypeAlias = Iterable[Node | str | None]
#: the table of what may stand in WITH, or behind SET or FORMAT
Options: TypeAlias = Literal["", "explain", "images", "model", "predict", "evaluate", "render", "settings", "formats"]


@dataclass(frozen=True, slots=True)
class About:
    """A statement as people meet it: its first words, what it does, its form, its clauses and an example.

    `second` are the words of which one comes next; where a name of one word has none, that word alone makes the text
    OBEQL's, so that it must begin no statement of DuckDB. `inside` says that it touches the database alone, never a
    file: the page may run it.
    """

    name: str
    does: str
    form: str
    clauses: tuple[tuple[str, str], ...]
    example: str
    options: Options = ""
    second: tuple[str, ...] = ()
    inside: bool = False

    @property
    def begins(self) -> tuple[str, tuple[str, ...]]:
        """Return the first word and those that may come next, in lower case."""
        first, *rest = self.name.lower().split()
        return first, self.second or tuple(rest)


@dataclass(frozen=True, slots=True)
class StatementNode(Node):
    """Base of all statements."""

    about: ClassVar[About]

    def words(self) -> Words:
        """Return what the statement is written as, in order."""
        raise NotImplementedError


def with_options(options: tuple[Option, ...]) -> tuple[Node | str, ...]:
    """Return WITH and its options, or nothing where there are none."""
    return ("WITH", *options) if options else ()
