"""One method a statement: what each of them does with the store, the networks and the images of a session.

Before it: `session` has parsed a script. After it: planning and execution for EXPLAIN OCCLUDE, PLAN and PREDICT, the
store for the statements about models, images and runs, DuckDB for everything else.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NoReturn

import duckdb

from obeql.drawing.missing_pictures import missing_pictures
from obeql.errors import QueryError, QueryTypeError, StoreError, UnknownNameError, nearest
from obeql.export.folders import folder_format
from obeql.export.registry import form_of
from obeql.grammar import parse_script, statements, syntax
from obeql.planner import (
    BoundExplain,
    ExplainPlan,
    ImageSet,
    ModelRecord,
    bind,
    bind_setting,
    evaluate_options,
    images_options,
    model_options,
    render_options,
    show,
)
from obeql.planner.binding.error_location import locate, placed_in
from obeql.planner.binding.sources import resolve_source
from obeql.planner.binding.values import parameter_value
from obeql.planner.printing.predict import show_predict
from obeql.planner.printing.sql import show_sql
from obeql.results.messages import Message, Plan
from obeql.results.result import Result
from obeql.session.call import Call
from obeql.session.cancellation import Cancellation
from obeql.session.catalog import SessionCatalog
from obeql.session.derived_tables import DerivedTables
from obeql.session.embedded import EmbeddedStatements, InnerHandlers
from obeql.session.evaluate import evaluate
from obeql.session.explain import measured
from obeql.session.explain_runner import ExplainRunner
from obeql.session.image_registry import ImageRegistry
from obeql.session.listings import Listings, relation_of
from obeql.session.model_registry import ModelRegistry
from obeql.session.parallelism import threads_set
from obeql.session.parameters import bound_values, sql_values
from obeql.session.predict import Predictions, frame_update, predict
from obeql.session.preprocessing_check import Checked, check_preprocessing
from obeql.session.probe import Probe, open_probe
from obeql.session.render_export import export_run, render_run
from obeql.session.sql_errors import sql_error
from obeql.session.status import Say, StatementStatus
from obeql.session.stored_runs import StoredRuns
from obeql.store import Store

if TYPE_CHECKING:
    from obeql.executor.images import SourceImage

__all__ = ["Outcome", "Statements"]

#: What a statement yields: maps, a plan, a line of text, a relation of DuckDB, or nothing.
Outcome = Result | Plan | Message | duckdb.DuckDBPyRelation | None


#: Errors of DuckDB that say what is wrong with the text of a statement.
_OF_THE_QUERY = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)


class Statements:
    """Runs one statement at a time, those of other threads after it; `cancel` stops the one that runs."""

    def __init__(
        self,
        store: Store,
        image_registry: ImageRegistry,
        model_registry: ModelRegistry,
        cancellation: Cancellation,
        tables: DerivedTables,
    ) -> None:
        self._store = store
        self._image_registry = image_registry
        self._model_registry = model_registry
        self._runs = StoredRuns(store, image_registry)
        self._listings = Listings(store)
        self._settings: dict[str, Any] = {}
        self._catalog = SessionCatalog(store, image_registry, self._settings)
        self._cancellation = cancellation
        self._explains = ExplainRunner(store, image_registry, model_registry, self._catalog, cancellation)
        self._embedded = EmbeddedStatements(
            store, tables, InnerHandlers(self._explain, self._predicted, self._inner_plan, self._bound)
        )
        #: held by the thread whose statement runs; its callbacks may run statements of their own
        self._running = threading.RLock()
        self._depth = 0
        self._handlers: dict[type[Any], Callable[[Any, Call], Outcome]] = {
            statements.SqlStatement: self._sql,
            statements.ExplainOcclude: self._explain,
            statements.PlanStatement: self._plan,
            statements.PlanSql: self._plan_sql,
            statements.PlanPredict: self._plan_predict,
            statements.Predict: self._predict,
            statements.CreateModel: self._create_model,
            statements.CreateImages: self._create_images,
            statements.Drop: self._drop,
            statements.Show: self._show,
            statements.Describe: self._describe,
            statements.Evaluate: self._evaluate,
            statements.Render: self._render,
            statements.ExportRun: self._export,
            statements.SetSetting: self._set,
            statements.ResetSetting: self._set,
        }

    def cancel(self) -> None:
        """Ask the running statement to stop after its current batch."""
        self._cancellation.ask()

    def run(self, statement: statements.Statement, call: Call) -> Outcome:
        """Run a statement; errors of DuckDB come out as QueryError."""
        with self.turn():
            return self._run_one(statement, call)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the statements of other threads; from then on, `cancel` is for what runs in this block."""
        with self._running:
            self.require_open()
            if self._depth == 0:  # a callback may run statements of its own; they leave the outer one's state alone
                self._cancellation.clear()
                self._image_registry.let_go()
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
            self._cancellation.ask()
            with self._running:
                yield
        finally:
            if mine:
                self._running.release()

    def end(self, timeout_s: float) -> None:
        """Stop the statement of another thread, wait for its end so long, and let no other begin: the process ends."""
        if not self._running.acquire(blocking=False):
            self._cancellation.ask()
            self._running.acquire(timeout=timeout_s)

    def _run_one(self, statement: statements.Statement, call: Call) -> Outcome:
        try:
            with placed_in(call.text), self._embedded.tables_of(statement, call):
                return self._handlers[type(statement)](statement, call)
        except duckdb.FatalException as error:
            raise StoreError(
                f"the database {self._store.path!r} stopped working ({str(error).splitlines()[0]}); "
                "close the session and open the file again: what was committed is in it."
            ) from error
        except duckdb.Error as error:
            if not isinstance(error, _OF_THE_QUERY) and (unreadable := self._store.unreadable_file(str(error))):
                raise unreadable from error
            sql = statement.text if isinstance(statement, statements.SqlStatement) else ""
            raise sql_error(error, sql, call.text, statement.span.start, self._store.ask) from error

    # ---- shared with the methods of a session ------------------------------------------------------------------

    def require_open(self) -> None:
        """Raise StoreError once the database is closed."""
        self._store.require_open()

    def require_writable(self, what: str) -> None:
        """Raise StoreError, naming what would write, where the database cannot be written to now."""
        self.require_open()
        if self._store.read_only:
            raise StoreError(f"{what} writes to the database, but {self._store.path!r} is open read-only.")
        if self._store.in_transaction():
            raise StoreError(f"{what} commits what it stores; COMMIT or ROLLBACK the open transaction first.")
        self._store.end_stopped_runs()

    def error_of_rows(self, error: duckdb.Error, script: str, start: int) -> QueryError:
        """Return an error that came while rows were read of the SQL at an offset of a script, with its place there."""
        statement = next(each for each in parse_script(script) if each.span.start == start)
        if not isinstance(statement, statements.SqlStatement):
            return sql_error(error, "", script, start)
        return self._embedded.sql_error(error, statement, script)

    def is_image_name(self, text: str) -> bool:
        """Return whether the catalog knows an image set, or an image, of this name."""
        return self._catalog.image_set(text) is not None or bool(self._catalog.image_named(text))

    def setting(self, name: str) -> Any:
        """Return the value of a setting in this session, its default unless SET. Raises UnknownNameError."""
        return self._catalog.setting(name)

    def with_free_name(self, record: ModelRecord) -> ModelRecord:
        """Return the record, renamed by a hash of its content where its name stands for another model."""
        known = self._store.model(record.name)
        if known is None or _content(known) == _content(record):
            return record
        digest = hashlib.sha256(repr((record.model_hash, record.preprocessing, record.activation)).encode())
        return replace(record, name=f"{record.name}_{digest.hexdigest()[:8]}")

    def put_model(self, record: ModelRecord, replace: bool) -> None:
        """Store a model, or, in a read-only database, see that it is the one of this name."""
        known = self._store.model(record.name) if self._store.read_only else None
        if known is not None and _content(known) == _content(record):
            return
        self.require_writable(f"creating model {record.name!r}")
        self._store.put_model(record, replace)
        self._model_registry.remember(record)

    def probe(self, source: Any, model: str, fill: str) -> Probe:
        """Return the probe of one image before a model. Raises QueryTypeError for a source of several images."""
        with self.turn():
            node: syntax.Source = syntax.ParameterSource(syntax.Parameter("source", None))
            if isinstance(source, str) and self.is_image_name(source):
                node = syntax.NameSource(source)
            elif isinstance(source, int):
                source = self._store.image(source) or _unknown("image", source, ())
            call = Call("", {"source": source}, None, alone=True)
            statement = statements.Predict(node, syntax.Name(model))
            values = self._values(statement, call)
            bound = bind(statement, self._catalog, "", None, values)
            if len(bound.images) != 1:
                raise QueryTypeError(f"A probe takes one image, not {len(bound.images)}.")
            return open_probe(bound, self._model_registry.graph(bound.model), self._image_registry, fill, self.turn)

    def picture(self, image: int) -> SourceImage:
        """Return the picture of an image by its id. Raises UnknownNameError, ImageError."""
        self.require_open()
        return self._image_registry.load(self._store.image(image) or _unknown("image", image, ()))

    def stored_run(self, name_or_id: str | int) -> Result:
        """Return the maps of a stored run. Raises UnknownNameError, without a place."""
        return self._runs.result(name_or_id)

    # ---- one method a statement -------------------------------------------------------------------------------

    def _sql(self, statement: statements.SqlStatement, call: Call) -> Outcome:
        if statement.embedded:
            found: Outcome = self._embedded.run_sql(statement, call)
            return found
        values = sql_values(statement.text, call.parameters, call.alone)
        return self._store.on_connection(lambda connection: connection.sql(statement.text, params=values))

    def _explain(self, statement: statements.ExplainOcclude, call: Call) -> Result:
        self.require_writable("EXPLAIN OCCLUDE")
        self._explains.find_shards()
        values = self._values(statement, call)
        plan, result, _ = self._explains.run(statement, call, values)
        self._image_registry.remember(plan.images)
        return result

    def _plan(self, statement: statements.PlanStatement, call: Call) -> Plan:
        if statement.analyze:
            self.require_writable("PLAN ANALYZE")
            self._explains.find_shards()
        values = self._values(statement, call)
        if not statement.analyze:
            plan = self._explains.plan(statement, call, values, runs=False)
            self._model_registry.save_rates()
            return Plan(show(plan), plan)
        plan, result, report = self._explains.run(statement, call, values, analyze=True)
        return Plan(show(plan, measured(report)), plan, result)

    def _plan_sql(self, statement: statements.PlanSql, call: Call) -> Plan:
        planned = self._embedded.planned(statement, call)
        self._model_registry.save_rates()
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
        bound = bind(inner, self._catalog, call.text, None, self._values(inner, call))
        operator = frame_update(bound, self._model_registry.graph(bound.model))
        return Plan(show_predict(bound, operator, measured), operator)

    def _bound(self, statement: statements.ExplainOcclude, call: Call) -> BoundExplain:
        """Return a statement as it is bound, however many cells it asks for."""
        wrapped = statements.PlanStatement(False, statement, span=statement.span)
        return bind(wrapped, self._catalog, call.text, None, self._values(statement, call))

    def _inner_plan(self, statement: statements.ExplainOcclude, call: Call) -> ExplainPlan:
        wrapped = statements.PlanStatement(False, statement, span=statement.span)
        return self._explains.plan(wrapped, call, self._values(statement, call), runs=False)

    def _is_other(self, model: ModelRecord, say: Say) -> bool:
        """Return whether the model has other layers, or another identity, than what is stored; it is stored anew."""
        current = self._model_registry.current(model, say)
        if current is not model:
            self._store.put_model(current, replace=True)
        return current is not model

    def _predict(self, statement: statements.Predict, call: Call) -> Outcome:
        return relation_of(self._store, self._predicted(statement, call).shown())

    def _predicted(self, statement: statements.Predict, call: Call) -> Predictions | Checked:
        if not self._store.read_only and not statement.check:
            self.require_writable("PREDICT")
        values = self._values(statement, call)
        bound = bind(statement, self._catalog, call.text, None, values)
        say = StatementStatus(call.on_progress, len(bound.images), len(bound.images), bound.images[0].shown, "images")
        say.torch()
        if not self._store.read_only and not statement.check and self._is_other(bound.model, say):
            bound = bind(statement, self._catalog, call.text, None, values)
        graph = self._model_registry.graph(bound.model, say)
        with threads_set(self._catalog.setting("threads")):
            stopped, tell = self._cancellation.is_asked, call.on_progress
            if statement.check:
                return check_preprocessing(bound, graph, self._image_registry, stopped, tell)
            return predict(bound, graph, self._store, self._image_registry, stopped, tell)

    def _create_model(self, statement: statements.CreateModel, call: Call) -> Message:
        self.require_writable("CREATE MODEL")
        values = self._values(statement, call)
        options = model_options(statement.options, values)
        uri = self._text(statement.uri, values, call, "the URI of a model")
        name = statement.name.value
        say = StatementStatus(call.on_progress, shown=name, unit="models")
        say.torch()
        say(f"loading {PurePath(uri).name}")
        record = self._model_registry.create(name, uri, options)
        known = self._store.model(name)
        self.put_model(record, statement.replace or self._model_registry.renews(record))
        same = known is not None and known.model_hash == record.model_hash
        return Message(
            f"model {name} {'is there already' if same else 'created' if known is None else 'replaced'}: "
            f"{record.classes_text}, input {record.preprocessing.size_text}, {record.network.macs / 1e9:.2f} GMAC, "
            f"{_capture_note(record)}{', ' + outputs if (outputs := record.outputs_text) else ''}"
            + "".join(f"\n{note}" for note in self._model_registry.notes(record))
        )

    def _create_images(self, statement: statements.CreateImages, call: Call) -> Message:
        self.require_writable("CREATE IMAGES")
        source, values = statement.source, self._values(statement, call)
        options = images_options(statement.options, values)
        _, images = resolve_source(source, self._catalog, values)
        images = self._image_registry.paged(images, options["page"])
        match source:
            case syntax.SelectSource(sql=sql):
                shown = sql.strip()
            case syntax.PathSource(path=path):
                shown = path
            case _:
                shown = "images from Python"
        stored = self._image_registry.put_set(ImageSet(statement.name.value, shown, images), statement.replace)
        n_images = len(stored.images)
        return Message(f"images {stored.name}: {n_images} image{'s' if n_images != 1 else ''}")

    def _drop(self, statement: statements.Drop, call: Call) -> Message:
        kind = statement.kind
        self.require_writable(f"DROP {kind.upper()}")
        name = self._reference(statement.name, call)
        try:
            match kind:
                case "model":
                    self._store.drop_model(str(name))
                case "images":
                    self._store.drop_image_set(str(name))
                case "run":
                    self._store.drop_run(name)
        except UnknownNameError as unknown:
            raise locate(unknown, statement.name) from None
        return Message(f"{kind} {name} dropped")

    def _show(self, statement: statements.Show, call: Call) -> Outcome:
        return self._listings.show(statement.what)

    def _describe(self, statement: statements.Describe, call: Call) -> Outcome:
        name = self._reference(statement.name, call)
        try:
            match statement.kind:
                case "model":
                    model = self._store.model(str(name))
                    return self._listings.model(model or _unknown("model", name, self._store.model_names()))
                case "images":
                    known = self._store.image_set(str(name))
                    found = known or _unknown("image set", name, self._store.image_set_names())
                    return self._listings.image_set(found.name)
                case "run":
                    return self._listings.run(self._runs.record(name))
        except UnknownNameError as unknown:
            raise locate(unknown, statement.name) from None

    def _evaluate(self, statement: statements.Evaluate, call: Call) -> Outcome:
        self.require_writable("EVALUATE")
        options = evaluate_options(statement.options, self._values(statement, call))
        result = self._referred(statement.run, call)
        model = self._runs.model(self._runs.record(int(result.run_id)))
        say = StatementStatus(
            call.on_progress, len(result), len(result), result[0].image if len(result) else "", "maps"
        )
        graph, device = self._model_registry.graph(model, say), self._catalog.setting("device")
        with threads_set(self._catalog.setting("threads")):
            stopped, tell = self._cancellation.is_asked, call.on_progress
            table = evaluate(result, model, graph, options, device, self._store, stopped, tell)
        return relation_of(self._store, table)

    def _export(self, statement: statements.ExportRun, call: Call) -> Message:
        form = None
        if statement.format is not None:
            try:
                form = folder_format(statement.format.value).name
            except QueryTypeError as unknown:
                raise locate(unknown, statement.format) from None
        path = self._text(statement.path, self._values(statement, call), call, "a folder or a file")
        result = self._referred(statement.run, call)
        try:
            return Message(export_run(result, path, form, lambda to: self._copy_cells(result, to)))
        except QueryTypeError as wrong:
            raise locate(wrong, statement.path) from None

    def _copy_cells(self, result: Result, path: str) -> int:
        """Write the windows of a run into a table, as its suffix says; returns how many there are."""
        shown = path.replace("'", "''")
        copied = f"COPY (SELECT * FROM cells WHERE run_id = {int(result.run_id)}) TO '{shown}'"
        ((n_rows,),) = self._store.on_connection(lambda connection: connection.execute(copied).fetchall())
        return int(n_rows)

    def _render(self, statement: statements.Render, call: Call) -> Message:
        values = self._values(statement, call)
        path = self._text(statement.path, values, call, "the path of a picture")
        options = render_options(statement.options, values)
        result = self._referred(statement.run, call)
        try:
            said = render_run(result, path, options)
            return Message(said + missing_pictures(result) if form_of(path).has_picture else said)
        except (QueryTypeError, UnknownNameError) as wrong:
            raise locate(wrong, statement.path) from None

    def _set(self, statement: statements.SetSetting | statements.ResetSetting, call: Call) -> Message:
        name, value = bind_setting(statement, self._values(statement, call))
        if name == "rates":  # which can only be reset
            n_known = self._model_registry.forget_rates()
            return Message(f"obeql.rates: {n_known} forgotten; the next plan measures anew")
        self._settings[name] = value
        return Message(f"obeql.{name} = {'auto' if value is None else value}")

    # ---- what they share --------------------------------------------------------------------------------------

    def _values(self, statement: statements.Statement, call: Call) -> dict[syntax.Parameter, Any]:
        return bound_values(statement, call.parameters, self._image_registry, call.alone, call.given)

    def _reference(self, node: syntax.Reference, call: Call) -> str | int:
        """Return the name or id that a node, or its parameter, gives."""
        given: Any
        if isinstance(node, syntax.Parameter):
            given = parameter_value(node, bound_values(node, call.parameters, self._image_registry, False))
            given = given.item() if hasattr(given, "item") else given
        else:
            given = node.value
        if not isinstance(given, (str, int)) or isinstance(given, bool):
            wrong = QueryTypeError(f"A run is given by its name or its id, not by a {type(given).__name__}.")
            raise locate(wrong, node)
        return given

    def _referred(self, node: syntax.Reference, call: Call) -> Result:
        """Return the maps of the run that a node names."""
        try:
            return self.stored_run(self._reference(node, call))
        except UnknownNameError as unknown:
            raise locate(unknown, node) from None

    def _text(
        self, node: syntax.Text | syntax.Parameter, values: dict[syntax.Parameter, Any], call: Call, what: str
    ) -> str:
        given = values[node] if isinstance(node, syntax.Parameter) else node.value
        if not isinstance(given, (str, os.PathLike)):
            raise locate(QueryTypeError(f"A text is needed as {what}, not a {type(given).__name__}."), node)
        return os.fspath(given)


def _unknown(what: str, name: Any, known: Sequence[str]) -> NoReturn:
    raise UnknownNameError(f"There is no {what} {name!r}.{nearest(str(name), known)}")


def _content(model: ModelRecord) -> tuple[Any, ...]:
    return model.model_hash, model.preprocessing, model.classes, model.activation


def _capture_note(record: ModelRecord) -> str:
    if record.network.whole:
        return f"runs whole ({record.network.reason})"
    layers = record.network.layers
    first = next((layer for layer in layers if layer.reach == "global"), None)
    where = f", whole maps needed from {first.kind} {first.name}" if first is not None else ""
    return f"{len(layers)} layers{where}"
