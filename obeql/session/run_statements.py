"""The handlers of the statements about the maps of a stored run: EVALUATE, RENDER and EXPORT RUN.

Before: `statements` calls the handler of a statement of `obeql.grammar.run_statements`. After: a table of curves, or
files.
"""

from __future__ import annotations

from typing import Any

from obeql.drawing.missing_pictures import missing_pictures
from obeql.errors import QueryTypeError, UnknownNameError
from obeql.export.folders import folder_format
from obeql.export.registry import form_of
from obeql.grammar import statements
from obeql.planner import evaluate_options, render_options
from obeql.planner.binding.error_location import locate
from obeql.results.messages import Message
from obeql.results.result import Result
from obeql.session.call import Call
from obeql.session.evaluate import evaluate
from obeql.session.listings import relation_of
from obeql.session.parallelism import threads_set
from obeql.session.render_export import export_run, render_run
from obeql.session.statement_context import Handler, Outcome, StatementContext
from obeql.session.status import StatementStatus

__all__ = ["RunStatements"]


class RunStatements:
    """EVALUATE, RENDER and EXPORT RUN."""

    def __init__(self, context: StatementContext) -> None:
        self._context = context
        self.handlers: dict[type[Any], Handler] = {
            statements.Evaluate: self._evaluate,
            statements.Render: self._render,
            statements.ExportRun: self._export,
        }

    def _evaluate(self, statement: statements.Evaluate, call: Call) -> Outcome:
        self._context.require_writable("EVALUATE")
        options = evaluate_options(statement.options, self._context.values(statement, call))
        result = self._context.referred(statement.run, call)
        model = self._context.runs.model(self._context.runs.record(int(result.run_id)))
        say = StatementStatus(
            call.on_progress, len(result), len(result), result[0].image if len(result) else "", "maps"
        )
        graph, device = self._context.model_registry.graph(model, say), self._context.catalog.setting("device")
        with threads_set(self._context.catalog.setting("threads")):
            stopped, tell = self._context.cancellation.is_asked, call.on_progress
            table = evaluate(result, model, graph, options, device, self._context.store, stopped, tell)
        return relation_of(self._context.store, table)

    def _export(self, statement: statements.ExportRun, call: Call) -> Message:
        form = None
        if statement.format is not None:
            try:
                form = folder_format(statement.format.value).name
            except QueryTypeError as unknown:
                raise locate(unknown, statement.format) from None
        path = self._context.text(statement.path, self._context.values(statement, call), call, "a folder or a file")
        result = self._context.referred(statement.run, call)
        try:
            return Message(export_run(result, path, form, lambda to: self._copy_cells(result, to)))
        except QueryTypeError as wrong:
            raise locate(wrong, statement.path) from None

    def _copy_cells(self, result: Result, path: str) -> int:
        """Write the windows of a run into a table, as its suffix says; returns how many there are."""
        shown = path.replace("'", "''")
        copied = f"COPY (SELECT * FROM cells WHERE run_id = {int(result.run_id)}) TO '{shown}'"
        ((n_rows,),) = self._context.store.on_connection(lambda connection: connection.execute(copied).fetchall())
        return int(n_rows)

    def _render(self, statement: statements.Render, call: Call) -> Message:
        values = self._context.values(statement, call)
        path = self._context.text(statement.path, values, call, "the path of a picture")
        options = render_options(statement.options, values)
        result = self._context.referred(statement.run, call)
        try:
            said = render_run(result, path, options)
            return Message(said + missing_pictures(result) if form_of(path).has_picture else said)
        except (QueryTypeError, UnknownNameError) as wrong:
            raise locate(wrong, statement.path) from None
