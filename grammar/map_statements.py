"""The statements that explain and predict, their plans, and SQL that may have them inside.

Listed in `statements`, with a handler each in the module of this name in `obeql.session`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from obeql.grammar.statement_node import About, StatementNode, Words, with_options
from obeql.grammar.syntax import (
    Approx,
    Device,
    Embedded,
    Exact,
    ForTop,
    Into,
    Model,
    Node,
    Option,
    Region,
    Selector,
    Source,
    TopCells,
    Windows,
    Within,
)
from obeql.grammar.table_names import with_tables

__all__ = ["MAP_STATEMENTS", "ExplainOcclude", "PlanPredict", "PlanSql", "PlanStatement", "Predict", "SqlStatement"]

_SOURCE = ("source", "a name, 'path', 'glob', (SELECT ..) or parameter")


@dataclass(frozen=True, slots=True)
class ExplainOcclude(StatementNode):
    """EXPLAIN OCCLUDE source USING model and its clauses; None and () where a clause was not written."""

    source: Source
    model: Model
    selector: Selector | None = None
    region: Region | None = None
    windows: Windows | None = None
    options: tuple[Option, ...] = ()
    top_cells: TopCells | None = None
    accuracy: Exact | Approx | None = None
    within: Within | None = None
    device: Device | None = None
    reuse: bool = True
    into: Into | None = None

    about: ClassVar[About] = About(
        "EXPLAIN OCCLUDE",
        "computes heat maps and stores them as a run",
        "EXPLAIN OCCLUDE source USING model [clauses in any order];",
        (
            _SOURCE,
            ("FOR PREDICTED", "the class that the model ranks first; also without FOR"),
            ("FOR LABEL", "the class that the image's label names"),
            ("FOR CLASS c", "this class, a number or 'name'; FOR CLASSES (a, b)"),
            ("FOR TOP k", "the k classes ranked highest; FOR ALL every class"),
            ("REGION (t, l, h, w)", "windows inside this box of the model's input, pixels"),
            ("WINDOWS (SELECT ..)", "boxes: top, left, height, width, also name, mask, path"),
            ("EXACT | APPROX q", "every cell, or a bound q: METRIC m, CONFIDENCE c"),
            ("WITHIN n SECONDS", "the best map in that time"),
            ("TOP k CELLS", "the k most important cells"),
            ("ON device", "auto, cpu, cuda, cuda:1, cuda:* or ray"),
            ("NO REUSE", "computes again what is stored"),
            ("INTO [OR REPLACE] run", "names the run"),
            ("FROM (EXPLAIN ..)", "inside SQL, in parentheses: its windows as a table"),
        ),
        "EXPLAIN OCCLUDE 'scan.png' USING tumour FOR TOP 2 WITH patch=16 INTO first;",
        "explain",
    )

    def words(self) -> Words:
        """Return what the statement is written as, clauses in one order."""
        return (
            "EXPLAIN OCCLUDE",
            self.source,
            "USING",
            self.model,
            self.selector,
            self.region,
            self.windows,
            *with_options(self.options),
            self.top_cells,
            self.accuracy,
            self.within,
            self.device,
            None if self.reuse else "NO REUSE",
            self.into,
        )


@dataclass(frozen=True, slots=True)
class PlanStatement(StatementNode):
    """PLAN [ANALYZE] statement."""

    analyze: bool
    statement: ExplainOcclude

    about: ClassVar[About] = About(
        "PLAN",
        "shows how an EXPLAIN OCCLUDE would be computed, and how long it takes",
        "PLAN [ANALYZE] EXPLAIN OCCLUDE ..;",
        (("ANALYZE", "runs it, and shows measured values beside the estimates"),),
        "PLAN EXPLAIN OCCLUDE scans USING tumour WITH patch=16;",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "PLAN", "ANALYZE" if self.analyze else None, self.statement


@dataclass(frozen=True, slots=True)
class PlanSql(StatementNode):
    """PLAN of SQL that has statements inside."""

    statement: SqlStatement

    about: ClassVar[About] = About(
        "PLAN SELECT",
        "shows how the statements inside SQL would be computed",
        "PLAN any SQL with (EXPLAIN OCCLUDE ..) or (PREDICT ..) inside;",
        (),
        "PLAN SELECT max(importance) FROM (EXPLAIN OCCLUDE scans USING tumour) WHERE label = 'glioma';",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "PLAN", self.statement


@dataclass(frozen=True, slots=True)
class Predict(StatementNode):
    """PREDICT source USING model [FOR TOP k] [WITH options] [CHECK]."""

    source: Source
    model: Model
    top: ForTop | None = None
    options: tuple[Option, ...] = ()
    check: bool = False

    about: ClassVar[About] = About(
        "PREDICT",
        "shows the classes that a model ranks highest",
        "PREDICT source USING model [FOR TOP k] [WITH page=..] [CHECK];",
        (
            _SOURCE,
            ("FOR TOP k", "so many classes of each image"),
            ("CHECK", "tries the usual preprocessings: which makes the network right, or surest"),
            ("FROM (PREDICT ..)", "inside SQL, in parentheses: its rows as a table"),
        ),
        "PREDICT scans USING tumour FOR TOP 1;",
        "predict",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        check = "CHECK" if self.check else None
        return "PREDICT", self.source, "USING", self.model, self.top, *with_options(self.options), check


@dataclass(frozen=True, slots=True)
class PlanPredict(StatementNode):
    """PLAN [ANALYZE] of PREDICT."""

    analyze: bool
    statement: Predict

    about: ClassVar[About] = About(
        "PLAN PREDICT",
        "shows how a PREDICT would be computed",
        "PLAN [ANALYZE] PREDICT source USING model ..;",
        (("ANALYZE", "runs it, and shows how many images were computed from the one before"),),
        "PLAN ANALYZE PREDICT 'clip/*.png' USING tumour;",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "PLAN", "ANALYZE" if self.analyze else None, self.statement


@dataclass(frozen=True, slots=True)
class SqlStatement(Node):
    """Any other statement, for DuckDB; `text` is untouched, without the `;` and the blanks around it.

    `embedded` are the statements in parentheses inside it; `query` is what DuckDB gets: tables in their places.
    """

    text: str
    embedded: tuple[Embedded, ...] = field(default=(), compare=False, repr=False)

    @property
    def query(self) -> str:
        return with_tables(self.text, self.span.start, (inner.span for inner in self.embedded))


#: In the order in which help lists them.
MAP_STATEMENTS: tuple[type[StatementNode], ...] = (ExplainOcclude, PlanStatement, PlanSql, PlanPredict, Predict)
