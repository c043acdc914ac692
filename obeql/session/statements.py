"""Carry out the statements of a session one at a time, each by its handler.

Before: `session` has parsed a script. After: the handlers, in a module for each of those that hold the statements in
`obeql.grammar`: `map_statements`, `catalog_statements`, `run_statements`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb

from obeql.errors import QueryError, QueryTypeError, StoreError
from obeql.grammar import parse_script, statements, syntax
from obeql.planner import bind
from obeql.planner.binding.error_location import placed_in
from obeql.session.call import Call
from obeql.session.catalog_statements import CatalogStatements
from obeql.session.derived_tables import DerivedTables
from obeql.session.embedded import KeptRun
from obeql.session.map_statements import MapStatements
from obeql.session.probe import Probe, open_probe
from obeql.session.run_statements import RunStatements
from obeql.session.sql_errors import sql_error
from obeql.session.statement_context import Outcome, StatementContext, unknown

if TYPE_CHECKING:
    from obeql.executor.images import SourceImage

__all__ = ["Outcome", "Statements"]


#: Errors of DuckDB that say what is wrong with the text of a statement.
_OF_THE_QUERY = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)


class Statements:
    """Runs one statement at a time, those of other threads after it; `cancel` stops the one that runs."""

    def __init__(self, context: StatementContext, tables: DerivedTables) -> None:
        self.context = context
        self.catalog = CatalogStatements(context)
        self._maps = MapStatements(context, tables)
        self._handlers = {**self._maps.handlers, **self.catalog.handlers, **RunStatements(context).handlers}
        #: held by the thread whose statement runs; its callbacks may run statements of their own
        self._running = threading.RLock()
        self._depth = 0

    def cancel(self) -> None:
        """Ask the running statement to stop after its current batch."""
        self.context.cancellation.ask()

    def run(self, statement: statements.Statement, call: Call) -> Outcome:
        """Run a statement; errors of DuckDB come out as QueryError."""
        with self.turn():
            return self._run_one(statement, call)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the statements of other threads; from then on, `cancel` is for what runs in this block."""
        with self._running:
            self.context.require_open()
            if self._depth == 0:  # a callback may run statements of its own; they leave the outer one's state alone
                self.context.cancellation.clear()
                self.context.image_registry.let_go()
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the statement of another thread, and keep others from beginning while the block runs.

        Raises QueryError in a callback of a statement, which cannot wait for its own end.
        """
        mine = self._running.acquire(blocking=False)  # at once in the thread whose statement runs, too
        try:
            if mine and self._depth:
                raise QueryError(
                    "close() was called in a callback of the statement that runs: call cancel() there, and close() "
                    "after the statement."
                )
            self.context.cancellation.ask()
            with self._running:
                yield
        finally:
            if mine:
                self._running.release()

    def end(self, timeout_s: float) -> None:
        """Stop the statement of another thread, wait for its end so long, and let no other begin: the process ends."""
        if not self._running.acquire(blocking=False):
            self.context.cancellation.ask()
            self._running.acquire(timeout=timeout_s)

    def _run_one(self, statement: statements.Statement, call: Call) -> Outcome:
        try:
            with placed_in(call.text), self._maps.embedded.tables_of(statement, call):
                return self._handlers[type(statement)](statement, call)
        except duckdb.FatalException as error:
            raise StoreError(
                f"the database {self.context.store.path!r} stopped working ({str(error).splitlines()[0]}); "
                "close the session and open the file again: what was committed is in it."
            ) from error
        except duckdb.Error as error:
            if not isinstance(error, _OF_THE_QUERY) and (unreadable := self.context.store.unreadable_file(str(error))):
                raise unreadable from error
            sql = statement.text if isinstance(statement, statements.SqlStatement) else ""
            raise sql_error(error, sql, call.text, statement.span.start, self.context.store.ask) from error

    def error_of_rows(self, error: duckdb.Error, script: str, start: int) -> QueryError:
        """Return an error that came while rows were read of the SQL at an offset of a script, with its place there."""
        statement = next(each for each in parse_script(script) if each.span.start == start)
        return self._error_of_rows(error, statement, script, self._maps.embedded.kept)

    def errors_of_rows(self, script: str) -> Callable[[duckdb.Error], QueryError]:
        """Return what places errors of rows that are read later: those of a script's last statement, which has run."""
        statement, kept = parse_script(script)[-1], self._maps.embedded.kept
        return lambda error: self._error_of_rows(error, statement, script, kept)

    def _error_of_rows(
        self, error: duckdb.Error, statement: statements.Statement, script: str, kept: Sequence[KeptRun]
    ) -> QueryError:
        if not isinstance(statement, statements.SqlStatement):
            return sql_error(error, "", script, statement.span.start)
        return self._maps.embedded.sql_error(error, statement, script, kept=kept)

    def is_image_name(self, text: str) -> bool:
        """Return whether the catalog knows an image set, or an image, of this name."""
        return self.context.catalog.image_set(text) is not None or bool(self.context.catalog.image_named(text))

    def probe(self, source: Any, model: str, fill: str) -> Probe:
        """Return the probe of one image before a model. Raises QueryTypeError for a source of several images."""
        with self.turn():
            node: syntax.Source = syntax.ParameterSource(syntax.Parameter("source", None))
            if isinstance(source, str) and self.is_image_name(source):
                node = syntax.NameSource(source)
            elif isinstance(source, int):
                source = self.context.store.image(source) or unknown("image", source, ())
            call = Call("", {"source": source}, None, alone=True)
            statement = statements.Predict(node, syntax.Name(model))
            values = self.context.values(statement, call)
            bound = bind(statement, self.context.catalog, "", None, values)
            if len(bound.images) != 1:
                raise QueryTypeError(f"A probe takes one image, not {len(bound.images)}.")
            return open_probe(
                bound, self.context.model_registry.graph(bound.model), self.context.image_registry, fill, self.turn
            )

    def picture(self, image: int) -> SourceImage:
        """Return the picture of an image by its id. Raises UnknownNameError, ImageError."""
        self.context.require_open()
        return self.context.image_registry.load(self.context.store.image(image) or unknown("image", image, ()))
