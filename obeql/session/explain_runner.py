"""Plan EXPLAIN OCCLUDE and run the plan: bound, counted, measured, executed; anew where what it rested on is gone.

Between `statements`, which has the statement's turn and its parameters, and `explain`, which runs a plan.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from obeql.errors import ExecutionError, ObeqlError
from obeql.grammar import statements, syntax
from obeql.planner import (
    BoundExplain,
    ExplainPlan,
    ModelRecord,
    Rates,
    bind,
    bind_alike,
    plan_explain,
    with_stored_cells,
)
from obeql.results.result import Result
from obeql.session.call import Call
from obeql.session.cancellation import Cancellation
from obeql.session.catalog import SessionCatalog
from obeql.session.explain import explain, failed_in_network
from obeql.session.image_registry import ImageRegistry
from obeql.session.model_registry import ModelRegistry
from obeql.session.parallelism import resolve_workers, sharing_a_device, threads_set
from obeql.session.parameters import plain_values
from obeql.session.run_recorder import RunRecorder
from obeql.session.status import StatementStatus
from obeql.store import Store
from obeql.store.shards.writer import Delivery, delivery_of

if TYPE_CHECKING:
    from obeql.executor.execution.report import RunReport
    from obeql.executor.network.graph import LayerGraph

__all__ = ["ExplainRunner"]


class _OtherLayersError(ExecutionError):
    """The network that a plan was made for has other layers, or another identity, by now: it has to be planned anew."""

    def __init__(self, model: ModelRecord) -> None:
        super().__init__(f"model {model.name!r} was captured again")
        self.model = model


class _NotAllStoredError(ExecutionError):
    """A plan that stored cells were to answer needs its network: they are not there any more, or not whole."""

    def __init__(self) -> None:
        super().__init__("cells that were counted as stored have to be computed")


class ExplainRunner:
    """Plans and runs EXPLAIN OCCLUDE on the images, networks and settings of a session."""

    def __init__(
        self,
        store: Store,
        image_registry: ImageRegistry,
        model_registry: ModelRegistry,
        catalog: SessionCatalog,
        cancellation: Cancellation,
    ) -> None:
        self._store = store
        self._image_registry = image_registry
        self._model_registry = model_registry
        self._catalog = catalog
        self._cancellation = cancellation

    def run(
        self,
        statement: statements.ExplainOcclude | statements.PlanStatement,
        call: Call,
        values: dict[syntax.Parameter, Any],
        analyze: bool = False,
    ) -> tuple[ExplainPlan, Result, RunReport]:
        """Plan a statement and run the plan; return both, and what the run did. `analyze` measures every layer."""
        plan = self.plan(statement, call, values, runs=True)
        try:
            return plan, *self._run(plan, values, call, analyze)
        except _OtherLayersError as found:  # of a plan that stored cells were to answer: no network was loaded for it
            self._store.put_model(found.model, replace=True)
        except _NotAllStoredError:  # its operators were chosen without knowing how fast the device is
            pass
        plan = self.plan(statement, call, values, runs=True, answered=False)
        return plan, *self._run(plan, values, call, analyze)

    def plan(
        self,
        statement: statements.ExplainOcclude | statements.PlanStatement,
        call: Call,
        values: dict[syntax.Parameter, Any],
        runs: bool,
        answered: bool = True,
    ) -> ExplainPlan:
        """Return the plan of a statement. Unless it `runs`, the model is as stored.

        `answered` is false where a plan that stored cells were to answer has failed: what they claim is not counted.
        """
        bound = self._counted(_noted(bind(statement, self._catalog, call.text, None, values), call), answered)
        asked = statement.statement if isinstance(statement, statements.PlanStatement) else statement
        if isinstance(statement, statements.ExplainOcclude) and call.ahead is not None:
            bound = replace(bound, also=call.ahead.classes(call.place, bound, self._catalog))
        say = StatementStatus(call.on_progress, bound.n_windows, len(bound.images), bound.images[0].shown)
        say.torch()
        if len(bound.images) == 1:
            self._image_registry.load(
                bound.images[0], len(bound.model.preprocessing.size)
            )  # a single bad image fails here, before anything is measured
        if bound.complete:  # stored cells answer: no network is loaded, and there is nothing to estimate
            return plan_explain(bound, Rates())
        if runs and (model := self._model_registry.current(bound.model, say)) is not bound.model:
            self._store.put_model(model, replace=True)
            anew = _noted(bind_alike(asked, replace(bound, model=model), self._catalog, call.text, values), call)
            bound = replace(self._counted(anew, answered), also=bound.also)
        threads = self._catalog.setting("threads")
        bound = resolve_workers(bound, threads)
        precision = bound.options["precision"]
        try:
            with threads_set(threads, bound):
                n_sharing = sharing_a_device(bound, threads)
                rates = self._model_registry.rates(bound.model, bound.device, precision, n_sharing, say)
                fast = None
                if bound.estimates:
                    fast = self._model_registry.reduced_rates(bound.model, bound.device, precision, say)
        except ObeqlError:
            raise
        except Exception as error:  # measuring runs the network
            if error is say.raised:
                raise
            raise failed_in_network(error, bound.model.network.reason) from error
        return plan_explain(bound, rates, reduced=fast)

    def _counted(self, bound: BoundExplain, answered: bool) -> BoundExplain:
        """Return a bound statement with the cells that are stored; with none where all would be, and did not answer."""
        counted = with_stored_cells(bound, self._catalog)
        return bound if counted.complete and not answered else counted

    def _run(
        self, plan: ExplainPlan, values: dict[syntax.Parameter, Any], call: Call, analyze: bool = False
    ) -> tuple[Result, RunReport]:
        with threads_set(self._catalog.setting("threads"), plan):
            found = explain(
                plan,
                lambda: self._graph(plan),
                self._recorder(plan, values),
                call.on_progress,
                self._cancellation.is_asked,
                analyze,
                call.began,
                call.ask_columns,
            )
            self._model_registry.learn(plan, found[1])
        self._model_registry.save_rates()
        return found

    def _recorder(self, plan: ExplainPlan, values: dict[syntax.Parameter, Any]) -> RunRecorder:
        delivery = self._delivery()
        own = None if delivery is None else delivery.of_one_run(self._store.origin())
        return RunRecorder(self._store, plan, self._image_registry, plain_values(values), own)

    def _delivery(self) -> Delivery | None:
        return delivery_of(self._catalog.setting("store"), self._catalog.setting("store_folder"), self._store.path)

    def find_shards(self) -> None:
        """Take what is in the folder of Parquet files and not in the database, such as of a process that was killed."""
        delivery = self._delivery()
        if delivery is not None and delivery.keep:
            self._store.find_shards(delivery.folder)

    def _graph(self, plan: ExplainPlan) -> LayerGraph:
        """Return the layers a plan was made for. A plan that stored cells were to answer was made without them."""
        if (other := self._model_registry.current(plan.model)) is not plan.model:
            raise _OtherLayersError(other)
        if not plan.measured_rates:
            raise _NotAllStoredError
        return self._model_registry.graph(plan.model)


def _noted(bound: BoundExplain, call: Call) -> BoundExplain:
    """Return a bound statement with what the call says of it: a note behind its text, and what a sample is to tell."""
    bound = replace(bound, aggregates=call.aggregates)
    return replace(bound, statement=f"{bound.statement} /* {call.note} */") if call.note else bound
