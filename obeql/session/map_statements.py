"""The handlers of the statements that explain and predict, of their plans, and of SQL with or without them inside.

Before: `statements` calls the handler of a statement of `obeql.grammar.map_statements`. After: planning and execution,
and DuckDB for the SQL.
"""

from __future__ import annotations

from typing import Any

from obeql.errors import QueryTypeError
from obeql.grammar import statements
from obeql.planner import BoundExplain, ExplainPlan, ModelRecord, bind, show
from obeql.planner.binding.error_location import locate
from obeql.planner.printing.predict import show_predict
from obeql.planner.printing.sql import show_sql
from obeql.results.messages import Plan
from obeql.results.result import Result
from obeql.session.call import Call
from obeql.session.derived_tables import DerivedTables
from obeql.session.embedded import EmbeddedStatements, InnerHandlers
from obeql.session.explain import measured
from obeql.session.explain_runner import ExplainRunner
from obeql.session.listings import relation_of
from obeql.session.parallelism import threads_set
from obeql.session.parameters import sql_values
from obeql.session.predict import Predictions, frame_update, predict
from obeql.session.preprocessing_check import Checked, check_preprocessing
from obeql.session.statement_context import Handler, Outcome, StatementContext
from obeql.session.status import Say, StatementStatus

__all__ = ["MapStatements"]


class MapStatements:
    """EXPLAIN OCCLUDE, PREDICT, PLAN and SQL."""

    def __init__(self, context: StatementContext, tables: DerivedTables) -> None:
        self._context = context
        self._explains = ExplainRunner(
            context.store, context.image_registry, context.model_registry, context.catalog, context.cancellation
        )
        self.embedded = EmbeddedStatements(
            context.store, tables, InnerHandlers(self._explain, self._predicted, self._inner_plan, self._bound)
        )
        self.handlers: dict[type[Any], Handler] = {
            statements.SqlStatement: self._sql,
            statements.ExplainOcclude: self._explain,
            statements.PlanStatement: self._plan,
            statements.PlanSql: self._plan_sql,
            statements.PlanPredict: self._plan_predict,
            statements.Predict: self._predict,
        }

    def _sql(self, statement: statements.SqlStatement, call: Call) -> Outcome:
        if statement.embedded:
            found: Outcome = self.embedded.run_sql(statement, call)
            return found
        values = sql_values(statement.text, call.parameters, call.alone)
        return self._context.store.on_connection(lambda connection: connection.sql(statement.text, params=values))

    def _explain(self, statement: statements.ExplainOcclude, call: Call) -> Result:
        self._context.require_writable("EXPLAIN OCCLUDE")
        self._explains.find_shards()
        values = self._context.values(statement, call)
        plan, result, _ = self._explains.run(statement, call, values)
        self._context.image_registry.remember(plan.images)
        return result

    def _plan(self, statement: statements.PlanStatement, call: Call) -> Plan:
        if statement.analyze:
            self._context.require_writable("PLAN ANALYZE")
            self._explains.find_shards()
        values = self._context.values(statement, call)
        if not statement.analyze:
            plan = self._explains.plan(statement, call, values, runs=False)
            self._context.model_registry.save_rates()
            return Plan(show(plan), plan)
        plan, result, report = self._explains.run(statement, call, values, analyze=True)
        return Plan(show(plan, measured(report)), plan, result)

    def _plan_sql(self, statement: statements.PlanSql, call: Call) -> Plan:
        planned = self.embedded.planned(statement, call)
        self._context.model_registry.save_rates()
        return Plan(show_sql(planned), tuple(each.plan for each in planned))

    def _plan_predict(self, statement: statements.PlanPredict, call: Call) -> Plan:
        inner = statement.statement
        if inner.check:
            raise locate(
                QueryTypeError("PREDICT .. CHECK tries one preprocessing after another; it has no plan"), inner
            )
        measured = None
        if statement.analyze:
            told = self._predicted(inner, call)
            assert isinstance(told, Predictions)
            measured = (told.count.whole, told.count.updated, told.count.computed)
        bound = bind(inner, self._context.catalog, call.text, None, self._context.values(inner, call))
        operator = frame_update(bound, self._context.model_registry.graph(bound.model))
        return Plan(show_predict(bound, operator, measured), operator)

    def _bound(self, statement: statements.ExplainOcclude, call: Call) -> BoundExplain:
        """Return a statement as it is bound, however many cells it asks for."""
        wrapped = statements.PlanStatement(False, statement, span=statement.span)
        return bind(wrapped, self._context.catalog, call.text, None, self._context.values(statement, call))

    def _inner_plan(self, statement: statements.ExplainOcclude, call: Call) -> ExplainPlan:
        wrapped = statements.PlanStatement(False, statement, span=statement.span)
        return self._explains.plan(wrapped, call, self._context.values(statement, call), runs=False)

    def _is_other(self, model: ModelRecord, say: Say) -> bool:
        """Return whether the model has other layers, or another identity, than what is stored; it is stored anew."""
        current = self._context.model_registry.current(model, say)
        if current is not model:
            self._context.store.put_model(current, replace=True)
        return current is not model

    def _predict(self, statement: statements.Predict, call: Call) -> Outcome:
        return relation_of(self._context.store, self._predicted(statement, call).shown())

    def _predicted(self, statement: statements.Predict, call: Call) -> Predictions | Checked:
        if not self._context.store.read_only and not statement.check:
            self._context.require_writable("PREDICT")
        values = self._context.values(statement, call)
        bound = bind(statement, self._context.catalog, call.text, None, values)
        say = StatementStatus(call.on_progress, len(bound.images), len(bound.images), bound.images[0].shown, "images")
        say.torch()
        if not self._context.store.read_only and not statement.check and self._is_other(bound.model, say):
            bound = bind(statement, self._context.catalog, call.text, None, values)
        graph = self._context.model_registry.graph(bound.model, say)
        with threads_set(self._context.catalog.setting("threads")):
            stopped, tell = self._context.cancellation.is_asked, call.on_progress
            if statement.check:
                return check_preprocessing(bound, graph, self._context.image_registry, stopped, tell)
            return predict(bound, graph, self._context.store, self._context.image_registry, stopped, tell)
