"""Statements of OBEQL inside SQL: run before the SQL around them, whose tables they are.

Between `statements`, which has the turn of the whole statement, and what carries out EXPLAIN OCCLUDE and PREDICT. The
SQL is put to DuckDB first, beside empty tables of the same columns: what DuckDB refuses, it refuses before a window is
computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from obeql.errors import QueryError, QueryTypeError
from obeql.grammar import parameters_of, statements, syntax
from obeql.grammar.scanner import scan
from obeql.planner import BoundExplain, ExplainPlan
from obeql.planner.aggregates import AggregateAim
from obeql.planner.binding.error_location import locate
from obeql.planner.printing.sql import PlannedStatement
from obeql.planner.pushdown.facts import Restriction
from obeql.results.result import Result
from obeql.session.call import Call
from obeql.session.derived_tables import DerivedTables, Rows, sql_beside
from obeql.session.parameters import query_values
from obeql.session.predict import Predictions, prediction_table
from obeql.session.preprocessing_check import Checked, check_table
from obeql.session.pushdown import AskedRows, Left, Pushdown, left_of
from obeql.session.sampled_aggregates import SampledAggregates
from obeql.session.sql_errors import Ask, sql_error
from obeql.store import Store

__all__ = ["EmbeddedStatements", "KeptRun"]

#: Kinds of SQL that keep a text rather than rows, by their words.
_KEPT_AS_TEXT = frozenset(("view", "macro", "function"))
_BEFORE_KIND = frozenset(("create", "or", "replace", "temp", "temporary", "recursive", "materialized"))
#: First words of SQL of which DuckDB makes a plan without running it.
_PLANNED = frozenset(
    ["(", "select", "from", "with", "values", "insert", "create", "copy", "update", "delete", "pivot", "unpivot"]
)
_BEFORE_QUERY = "A statement inside SQL runs once, before the SQL around it, and knows none of its columns."


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A run that a statement inside SQL made; it stays whatever becomes of the SQL around it."""

    run_id: int
    name: str | None

    def __str__(self) -> str:
        return f"run {self.run_id}" if self.name is None else f"run {self.name!r}"


@dataclass(frozen=True, slots=True)
class InnerHandlers:
    """What carries out a statement inside SQL, plans it, and binds it."""

    explain: Callable[[statements.ExplainOcclude, Call], Result]
    predict: Callable[[statements.Predict, Call], Predictions | Checked]
    plan: Callable[[statements.ExplainOcclude, Call], ExplainPlan]
    bind: Callable[[statements.ExplainOcclude, Call], BoundExplain]


class EmbeddedStatements:
    """Runs the statements inside a statement, each once, and hands their rows to DuckDB.

    `kept` are the runs that those inside the latest statement made.
    """

    def __init__(
        self,
        store: Store,
        tables: DerivedTables,
        handlers: InnerHandlers,
    ) -> None:
        self._store = store
        self._tables = tables
        self._handlers = handlers
        self._views = '"' + store.name().replace('"', '""') + '".main'
        self._pushdown = Pushdown(store, self._views)
        self._sampled = SampledAggregates(store, self._views)
        #: what a sample of the windows tells in the statement at work
        self._aim: AggregateAim | None = None
        self.kept: list[KeptRun] = []

    @contextmanager
    def tables_of(self, statement: syntax.Node, call: Call) -> Iterator[None]:
        """Run what stands inside a statement; inside the block, its SQL finds the rows.

        Raises QueryError, with its place, for SQL that DuckDB refuses and for what cannot stand inside SQL.
        """
        inner = _directly_inside(statement)
        if not inner:
            yield
            return
        self.kept, self._aim = [], None
        with self._tables.scope():
            self._check(statement, call)
            done: dict[Hashable, Rows] = {}
            # PLAN of SQL runs only what its plans need: the PREDICTs that name their images.
            direct = _plain_sources(inner) if isinstance(statement, statements.PlanSql) else inner
            readings = self._readings(statement, call)
            for each in sorted(direct, key=_makes_maps):  # predictions first: they may leave out images
                self._run(each, call, done, readings.get(each.table))
            yield

    def planned(self, statement: statements.PlanSql, call: Call) -> list[PlannedStatement]:
        """Return the plans of the statements inside SQL, in the order of the text, each of them once."""
        inner = {_key(each): each for each in reversed(statement.statement.embedded)}
        found = []
        readings = self._readings(statement.statement, call)
        for each in reversed(inner.values()):
            written = call.text[each.span.start : each.span.end].strip()
            if not isinstance(each.statement, statements.ExplainOcclude):
                found.append(PlannedStatement(written, None))
                continue
            left, restriction = self._left(each.statement, _inner_call(call), readings.get(each.table))
            plan = None if left is None else self._handlers.plan(left.statement, left.call)
            found.append(PlannedStatement(written, plan, _as_written(restriction, statement.statement, call.text)))
        return found

    def run_sql(self, statement: statements.SqlStatement, call: Call) -> Any:
        """Run the SQL around statements whose rows are there."""
        values = query_values(statement, call.parameters, call.alone)
        query = statement.query if self._aim is None else self._sampled.rewritten(statement.query, self._aim)
        try:
            return self._store.on_connection(lambda connection: self._tables.sql(connection, query, values))
        except duckdb.FatalException:
            raise
        except duckdb.Error as error:
            raise self.sql_error(error, statement, call.text, self._ask) from error

    def sql_error(
        self,
        error: duckdb.Error,
        statement: statements.SqlStatement,
        script: str,
        ask: Ask | None = None,
        kept: Sequence[KeptRun] | None = None,
    ) -> QueryError:
        """Return an error of SQL with its place in the script, and with the runs that its inner statements made.

        These are `kept`, unless given those of the latest statement.
        """
        found = sql_error(error, statement.query, script, statement.span.start, ask, statement.text)
        made = self.kept if kept is None else kept
        if statement.embedded and made:
            runs = list(dict.fromkeys(made))
            which = " OR ".join(f"run_id = {run.run_id}" for run in runs)
            found.message += f"\nThe maps are kept as {', '.join(map(str, runs))}: FROM windows WHERE {which}."
        return found

    def _ask(self, sql: str) -> None:
        with self._store.connection.cursor() as beside:
            self._tables.sql(beside, sql)

    # ---- running -----------------------------------------------------------------------------------------------

    def _run(
        self, inner: syntax.Embedded, call: Call, done: dict[Hashable, Rows], asked: AskedRows | None = None
    ) -> None:
        """Run what the SQL leaves of a statement, after those inside it, unless the same has been run."""
        for each in _directly_inside(inner.statement):
            self._run(each, call, done)
        key = _key(inner)
        if key not in done:
            done[key] = self._rows(inner.statement, _inner_call(call), asked)
        self._tables.put(inner.table, done[key])

    def _rows(
        self, statement: statements.ExplainOcclude | statements.Predict, call: Call, asked: AskedRows | None
    ) -> Rows:
        try:
            if isinstance(statement, statements.Predict):
                table = self._handlers.predict(statement, call).table()
                return lambda _: table
            left, _ = self._left(statement, call, asked)
            if left is None:
                return self._windows("false")
            aim = left.call.aggregates
            if aim is not None and asked is not None:
                ask = self._sampled.ask_columns(asked.reading.alias, asked.values)
                left = replace(left, call=replace(left.call, ask_columns=ask))
            result = self._handlers.explain(left.statement, left.call)
        except QueryTypeError as wrong:
            if wrong.offset is not None:  # of a SELECT that names images, which DuckDB refuses
                wrong.message += f" {_BEFORE_QUERY}"
            raise
        self.kept.append(KeptRun(int(result.run_id), result.run_name))
        if aim is not None:
            self._aim = aim
            return self._sampled.rows(int(result.run_id), aim, left.columns, asked.query if asked is not None else "")
        return self._windows(f"run_id = {int(result.run_id)}", left.columns)

    def _windows(self, condition: str, columns: str = "*") -> Rows:
        query = f"SELECT {columns} FROM {self._views}.windows WHERE {condition}"
        return lambda connection: connection.sql(query)

    # ---- what the SQL leaves of a statement ------------------------------------------------------------------------

    def _readings(self, statement: syntax.Node, call: Call) -> dict[str, AskedRows]:
        """Return what SQL says of the statements directly inside it; nothing of one that stands twice in it."""
        if not isinstance(statement, statements.SqlStatement):
            return {}
        return self._pushdown.readings(
            statement.query,
            query_values(statement, call.parameters, call.alone),
            statement.embedded,
            {each.table: self._no_rows(each.statement) for each in statement.embedded},
        )

    def _left(
        self, statement: statements.ExplainOcclude, call: Call, asked: AskedRows | None
    ) -> tuple[Left | None, Restriction]:
        """Return what is left of a statement, None where nothing is, and what left it out."""
        if asked is None or not asked.says_something:
            return Left(statement, call), Restriction(left=asked.unsaid if asked is not None else ())
        if statement.into is not None:
            return Left(statement, call), Restriction(left=(("", "INTO names a run of the whole statement"),))
        bound = self._handlers.bind(statement, call)
        restriction = self._pushdown.restriction(bound, asked, self._tables)
        return left_of(statement, bound, restriction, call), restriction

    # ---- what is refused before anything is computed -------------------------------------------------------------

    def _check(self, statement: syntax.Node, call: Call) -> None:
        everything = list(_all_inside(statement))
        if self._store.in_transaction() and not self._store.read_only:
            message = (
                f"{_kind(everything[0])} inside SQL commits what it stores; COMMIT or ROLLBACK the transaction first."
            )
            raise locate(QueryTypeError(message), everything[0])
        _check_run_names(everything)
        if (maps := _needed_maps(statement)) is not None:
            message = (
                "Which images these maps name is known when they are computed; PLAN computes none: run them first."
            )
            raise locate(QueryTypeError(message), maps)
        empty = {each.table: self._no_rows(each.statement) for each in everything}
        sql = statement.statement if isinstance(statement, statements.PlanSql) else statement
        if isinstance(sql, statements.SqlStatement):
            first = _check_kind(sql)
            values = query_values(sql, call.parameters, call.alone)
            if first in _PLANNED:
                self._check_query(sql.query, values, empty, sql.span.start, sql.text, call)
        for select in _selects(statement):
            values = query_values(select, call.parameters, False)
            self._check_query(select.query, values, empty, select.span.start + 1, select.sql, call)

    def _no_rows(self, statement: statements.ExplainOcclude | statements.Predict) -> Rows:
        """Return no rows, in the columns that those of a statement will have."""
        if isinstance(statement, statements.ExplainOcclude):
            return self._windows("false")
        if statement.check:
            return lambda _: check_table(())
        known = self._store.model(statement.model.value) if not isinstance(statement.model, syntax.Parameter) else None
        table = prediction_table((), known is not None and known.has_values)
        return lambda _: table

    def _check_query(
        self, query: str, values: Any, empty: dict[str, Rows], start: int, written: str, call: Call
    ) -> None:
        """Let DuckDB plan a query beside empty tables. Raises QueryError where it refuses it."""
        asking = "EXPLAIN\n"
        try:
            self._store.on_connection(lambda connection: sql_beside(connection, asking + query, empty, values))
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
            refused = sql_error(error, query, call.text, start, None, written, lines_before=1)
            raise refused from error


def _check_kind(statement: statements.SqlStatement) -> str:
    """Return the first word of SQL.

    Raises QueryTypeError for SQL that stores the text of a query, and for a plan of DuckDB's that is not measured.
    """
    words = [statement.text[token.start : token.end].lower() for token in scan(statement.text) if token.kind == "word"]
    kind = next((word for word in words if word not in _BEFORE_KIND), "") if words[:1] == ["create"] else words[0]
    inner = statement.embedded[0]
    if kind in _KEPT_AS_TEXT or kind == "prepare":
        message = (
            f"A {'prepared statement' if kind == 'prepare' else kind} keeps a text, not the rows of a statement inside "
            "it: CREATE TABLE .. AS keeps them, and windows has those of a run by its name (INTO)."
        )
        raise locate(QueryTypeError(message), inner)
    if kind == "explain" and words[1:2] != ["analyze"]:
        message = "EXPLAIN computes no maps, without which DuckDB has no plan; PLAN SELECT .. shows the plan of both."
        raise locate(QueryTypeError(message), inner)
    return "(" if statement.text.startswith("(") else words[0]


def _check_run_names(everything: Sequence[syntax.Embedded]) -> None:
    """Raise QueryTypeError where different statements are to go into runs of one name."""
    taken: dict[str, statements.ExplainOcclude] = {}
    for each in everything:
        statement = each.statement
        if not isinstance(statement, statements.ExplainOcclude) or statement.into is None:
            continue
        name = statement.into.name.value
        if taken.setdefault(name.lower(), statement) != statement:
            message = f"Two statements inside this one go INTO {name!r}; each run has a name of its own."
            raise locate(QueryTypeError(message), statement.into.name)


def _as_written(restriction: Restriction, statement: statements.SqlStatement, text: str) -> Restriction:
    """Return a restriction whose conditions show statements inside them as they are written."""

    def shown(sql: str) -> str:
        for each in statement.embedded:
            written = " ".join(text[each.span.start : each.span.end].split())
            sql = sql.replace(f'SELECT * FROM "{each.table}"', written)
        return sql

    pushed = tuple((rule, shown(sql)) for rule, sql in restriction.pushed)
    return replace(restriction, pushed=pushed, left=tuple((shown(sql), why) for sql, why in restriction.left))


def _kind(inner: syntax.Embedded) -> str:
    return "PREDICT" if isinstance(inner.statement, statements.Predict) else "EXPLAIN OCCLUDE"


def _key(inner: syntax.Embedded) -> Hashable:
    """Return what statements that yield the same rows have in common; each `?` stands for a value of its own."""
    return inner.statement, parameters_of(inner.statement)


def _inner_call(call: Call) -> Call:
    return replace(call, alone=False, ahead=None, began=time.perf_counter())


def _plain_sources(inner: Sequence[syntax.Embedded]) -> list[syntax.Embedded]:
    """Return the statements inside the sources of statements."""
    return [each for outer in inner for each in _directly_inside(outer.statement)]


def _needed_maps(statement: syntax.Node) -> syntax.Embedded | None:
    """Return a statement that PLAN would have to run to know which images another one is about."""
    if isinstance(statement, statements.PlanSql):
        needed = [each for outer in _directly_inside(statement) for each in _all_inside(outer.statement)]
    elif isinstance(statement, statements.PlanStatement) and not statement.analyze:
        needed = list(_all_inside(statement))
    else:
        needed = []
    return next((each for each in needed if _makes_maps(each)), None)


def _makes_maps(inner: syntax.Embedded) -> bool:
    return isinstance(inner.statement, statements.ExplainOcclude)


def _directly_inside(statement: syntax.Node) -> tuple[syntax.Embedded, ...]:
    """Return the statements inside the SQL of a statement, not those inside these."""
    match statement:
        case statements.SqlStatement(embedded=embedded):
            return embedded
        case (
            statements.PlanStatement(statement=planned)
            | statements.PlanSql(statement=planned)
            | statements.PlanPredict(statement=planned)
        ):
            return _directly_inside(planned)
        case statements.ExplainOcclude(source=source, windows=windows):
            return (*_inside_select(source), *_inside_select(windows and windows.source))
        case statements.Predict(source=source) | statements.CreateImages(source=source):
            return _inside_select(source)
    return ()


def _inside_select(source: syntax.Node | None) -> tuple[syntax.Embedded, ...]:
    return source.embedded if isinstance(source, syntax.SelectSource) else ()


def _all_inside(statement: syntax.Node) -> Iterator[syntax.Embedded]:
    """Yield the statements inside a statement at any depth, in the order in which they run."""
    for inner in _directly_inside(statement):
        yield from _all_inside(inner.statement)
        yield inner


def _selects(statement: syntax.Node) -> list[syntax.SelectSource]:
    """Return the SELECTs that name images, or list windows, and have statements inside."""
    found = [node for node in syntax.walk(statement) if isinstance(node, syntax.SelectSource)]
    return [select for select in found if select.embedded]
