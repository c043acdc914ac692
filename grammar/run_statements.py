"""The statements about the maps of a stored run: measure, draw and export them.

Listed in `statements`, with a handler each in the module of this name in `obeql.session`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from obeql.grammar.statement_node import About, StatementNode, Words, with_options
from obeql.grammar.syntax import Option, Parameter, Reference, Text, Word

__all__ = ["RUN_STATEMENTS", "Evaluate", "ExportRun", "Render"]


@dataclass(frozen=True, slots=True)
class Evaluate(StatementNode):
    """EVALUATE run [WITH options]: deletion and insertion curves of its maps."""

    run: Reference
    options: tuple[Option, ...] = ()

    about: ClassVar[About] = About(
        "EVALUATE",
        "deletion and insertion curves of the maps of a run",
        "EVALUATE run [WITH option=value ..];",
        (),
        "EVALUATE first WITH steps=20;",
        "evaluate",
        inside=True,
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "EVALUATE", self.run, *with_options(self.options)


@dataclass(frozen=True, slots=True)
class Render(StatementNode):
    """RENDER run TO path [WITH options]."""

    run: Reference
    path: Text | Parameter
    options: tuple[Option, ...] = ()

    about: ClassVar[About] = About(
        "RENDER",
        "draws the maps of a run over their images",
        "RENDER run TO 'file' [WITH option=value ..];",
        (("'file'", "the suffix says what: .png .jpg .pdf .svg .html .gif .npz"),),
        "RENDER first TO 'first.png';",
        "render",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "RENDER", self.run, "TO", self.path, *with_options(self.options)


@dataclass(frozen=True, slots=True)
class ExportRun(StatementNode):
    """EXPORT RUN run TO path [FORMAT format]; None where the path decides the format."""

    run: Reference
    path: Text | Parameter
    format: Word | None = None

    about: ClassVar[About] = About(
        "EXPORT RUN",
        "writes all maps of a run into a folder",
        "EXPORT RUN run TO 'folder or file' [FORMAT format];",
        (("'file'", "without FORMAT: a table of windows (.csv .json .parquet), or what RENDER draws"),),
        "EXPORT RUN first TO 'maps' FORMAT NPZ;",
        "formats",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "EXPORT RUN", self.run, "TO", self.path, None if self.format is None else "FORMAT", self.format


#: In the order in which help lists them.
RUN_STATEMENTS: tuple[type[StatementNode], ...] = (Evaluate, Render, ExportRun)
