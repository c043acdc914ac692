"""A session: one database, the models in use, and the statements that run against them.

The whole pipeline meets here: text is cut and parsed (`grammar`), bound and planned (`planner`), executed
(`executor`), stored (`store`), and returned. Everything that is not an OBEQL statement goes to DuckDB untouched.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from obeql.catalog import SessionCatalog
from obeql.errors import QueryError, QueryTypeError, StoreError, UnknownNameError, nearest
from obeql.explaining import explain, measured, stored_result
from obeql.gallery import Gallery, is_pixels
from obeql.grammar import parse_script, parameters_of, print_statement, syntax
from obeql.keywords import explain_statement
from obeql.networks import Networks
from obeql.outcome import Message, Plan
from obeql.planner import (
    OPERATORS,
    ExplainPlan,
    ImageSet,
    ModelRecord,
    bind,
    bind_setting,
    model_options,
    plan_explain,
    show,
)
from obeql.predicting import COLUMNS, predict
from obeql.result import Result
from obeql.store import MEMORY, RunRecord, Store

if TYPE_CHECKING:
    from torch import nn

    from obeql.executor.run import OnProgress

__all__ = ["Message", "Outcome", "Parameters", "Plan", "Session", "connect"]

#: What a statement yields: maps, a plan, a line of text, a relation of DuckDB, or nothing.
Outcome = Result | Plan | Message | duckdb.DuckDBPyRelation | None
#: Values for `?` (a sequence) or `$name` (a mapping).
Parameters = Sequence[Any] | Mapping[str, Any] | None


def connect(path: str | Path = MEMORY, *, read_only: bool = False, allow_python: bool = True) -> Session:
    """Open or create a database and return a session on it; `:memory:` keeps everything in memory.

    `allow_python` says whether `CREATE MODEL .. FROM 'python:..'` may import and run code. Raises StoreError when
    the file cannot be used.
    """
    return Session(path, read_only=read_only, allow_python=allow_python)


class Session:
    """Statements against one database. Use it as a context manager, or call `close`."""

    def __init__(self, path: str | Path = MEMORY, *, read_only: bool = False, allow_python: bool = True) -> None:
        self._store = Store(path, read_only)
        self._gallery = Gallery(self._store)
        self._networks = Networks(self._store, allow_python)
        self._settings: dict[str, Any] = {}
        self._catalog = SessionCatalog(self._store, self._gallery, self._settings)
        self._cancel = threading.Event()
        self._handlers: dict[type[Any], Callable[..., Outcome]] = {
            syntax.SqlStatement: self._sql,
            syntax.ExplainOcclude: self._explain,
            syntax.PlanStatement: self._plan,
            syntax.Predict: self._predict,
            syntax.CreateModel: self._create_model,
            syntax.CreateImages: self._create_images,
            syntax.Drop: self._drop,
            syntax.Show: self._show,
            syntax.Describe: self._describe,
            syntax.Render: self._render,
            syntax.SetSetting: self._set,
            syntax.ResetSetting: self._set,
        }

    # ---- statements ------------------------------------------------------------------------------------------

    def execute(self, text: str, parameters: Parameters = None, on_progress: OnProgress | None = None) -> Any:
        """Run a statement, or a script of several, and return what the last one yields.

        EXPLAIN OCCLUDE yields a `Result`, PLAN a `Plan`, everything with rows a DuckDB relation, other statements a
        `Message` or None. `parameters` stand for `?` (a sequence) or `$name` (a mapping); an image parameter may be
        a path, an array, a tensor or a PIL image. `on_progress` is called with `Progress` while maps are computed.
        Raises ObeqlError subclasses; nothing of a statement that fails is kept, except finished images of a run.
        """
        outcome: Outcome = None
        for outcome in self.run_script(text, parameters, on_progress):  # noqa: B007  the last one counts
            pass
        return outcome

    def run_script(
        self, text: str, parameters: Parameters = None, on_progress: OnProgress | None = None
    ) -> Iterator[Outcome]:
        """Run a script statement by statement, yielding what each one yields. Parse errors come before any runs."""
        self._cancel.clear()
        for statement in parse_script(text):
            yield self._handlers[type(statement)](statement, text, parameters, on_progress)

    def explain(
        self, source: Any, model: str, *, on_progress: OnProgress | None = None, **options: Any
    ) -> Result:
        """The keyword form of EXPLAIN OCCLUDE: `db.explain("scan.png", "tumour", patch=16, stride=4)`.

        `source` is a name, path or glob, an image as pixels, or a list of paths and pixels. Keywords are the options
        of WITH and the clauses: classes ("predicted", "label", "all", a class or a list of them), top (k classes),
        region (top, left, height, width), approx, exact, into, replace, device.
        """
        statement, parameters = explain_statement(source, model, options)
        result = self.execute(print_statement(statement), parameters, on_progress)
        assert isinstance(result, Result)
        return result

    def cancel(self) -> None:
        """Ask the running statement to stop after its current batch; may be called from another thread."""
        self._cancel.set()

    # ---- models and images from Python ------------------------------------------------------------------------

    def create_model(self, name: str, module: nn.Module | str, *, replace: bool = False, **options: Any) -> ModelRecord:
        """Give a live module (or a model URI) a name; `options` are those of CREATE MODEL, such as size and classes.

        `size` is (height, width) of the model's input. The module is copied; its weights are not stored, only their
        hash: a session that opens the file later asks for it again. Raises ModelError, QueryTypeError, and StoreError
        when the name stands for another model and `replace` is false.
        """
        if isinstance(module, str):
            record = self._networks.create(name, module, options)
        else:
            record = self._networks.adopt(name, module, options)
        self._store.put_model(record, replace)
        return record

    def create_images(self, name: str, images: Any, *, replace: bool = False) -> ImageSet:
        """Give a list of images a name: a path, glob or folder, or a list of paths, arrays, tensors, PIL images."""
        items = [images] if isinstance(images, (str, os.PathLike)) or is_pixels(images) else list(images)
        found = self._gallery.listed(items, name)
        if not found:
            raise QueryTypeError("The list of images is empty.")
        source = str(images) if isinstance(images, (str, os.PathLike)) else f"{len(found)} images from Python"
        return self._store.put_image_set(ImageSet(name, source, tuple(found)), replace)

    def run(self, name_or_id: str | int) -> Result:
        """The maps of a stored run. Raises UnknownNameError."""
        return stored_result(self._store, self._gallery, *self._stored_run(name_or_id))

    # ---- the database -----------------------------------------------------------------------------------------

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The DuckDB connection that SQL statements run on."""
        return self._store.connection

    @property
    def path(self) -> str:
        return self._store.path

    def close(self) -> None:
        """Close the database; a second call does nothing."""
        self._store.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<obeql session on {self.path}>"

    # ---- one method a statement -------------------------------------------------------------------------------

    def _sql(self, statement: syntax.SqlStatement, text: str, parameters: Parameters, _: Any) -> Outcome:
        values = None if parameters is None else parameters if isinstance(parameters, Mapping) else list(parameters)
        try:
            return self._store.connection.sql(statement.text, params=values)
        except duckdb.Error as error:
            raise QueryError(str(error)) from error

    def _explain(
        self, statement: syntax.ExplainOcclude, text: str, parameters: Parameters, on_progress: OnProgress | None
    ) -> Result:
        return self._run(self._planned(statement, text, parameters), on_progress)[0]

    def _plan(
        self, statement: syntax.PlanStatement, text: str, parameters: Parameters, on_progress: OnProgress | None
    ) -> Plan:
        plan = self._planned(statement, text, parameters)
        if not statement.analyze:
            return Plan(show(plan), plan)
        result, report = self._run(plan, on_progress)
        return Plan(show(plan, measured(report, result)), plan, result)

    def _planned(
        self, statement: syntax.ExplainOcclude | syntax.PlanStatement, text: str, parameters: Parameters
    ) -> ExplainPlan:
        bound = bind(statement, self._catalog, text, None, self._bound_values(statement, parameters))
        if len(bound.images) == 1:
            self._gallery.load(bound.images[0])  # a single bad image fails here, before anything is measured
        self._set_threads()
        rates = self._networks.rates(bound.model, bound.device, bound.options["precision"])
        return plan_explain(bound, rates)

    def _run(self, plan: ExplainPlan, on_progress: OnProgress | None) -> tuple[Result, Any]:
        self._require_writable("EXPLAIN OCCLUDE")
        graph = self._networks.graph(plan.model)
        return explain(plan, graph, self._store, self._gallery, on_progress, self._cancel.is_set)

    def _set_threads(self) -> None:
        threads = self._catalog.setting("threads")
        if threads is not None:
            import torch  # noqa: PLC0415

            torch.set_num_threads(threads)

    def _predict(self, statement: syntax.Predict, text: str, parameters: Parameters, _: Any) -> Outcome:
        bound = bind(statement, self._catalog, text, None, self._bound_values(statement, parameters))
        graph = self._networks.graph(bound.model)
        rows = predict(bound, graph, self._store, self._gallery, self._cancel.is_set)
        columns = COLUMNS if any(row[-1] for row in rows) else COLUMNS[:-1]
        return self._table({name: [row[i] for row in rows] for i, name in enumerate(columns)})

    def _create_model(self, statement: syntax.CreateModel, text: str, parameters: Parameters, _: Any) -> Message:
        values = self._bound_values(statement, parameters)
        options = model_options(statement.options, text, values)
        uri = values[statement.uri] if isinstance(statement.uri, syntax.Parameter) else statement.uri.value
        name = statement.name.value
        known = self._store.model(name)
        record = self._networks.create(name, uri, options)
        self._store.put_model(record, statement.replace)
        height, width = record.preprocessing.size
        same = known is not None and known.model_hash == record.model_hash
        return Message(
            f"model {name} {'is there already' if same else 'created'}: {record.n_classes} classes, input "
            f"{height}x{width}, {record.network.macs / 1e9:.2f} GMAC, {_capture_note(record)}"
        )

    def _create_images(self, statement: syntax.CreateImages, text: str, parameters: Parameters, _: Any) -> Message:
        values = self._bound_values(statement, parameters)
        match statement.source:
            case syntax.SelectSource(sql=sql):
                found, shown = self._gallery.selected(sql), sql.strip()
            case syntax.PathSource(path=path):
                found, shown = self._gallery.at(path), path
            case syntax.ParameterSource(parameter=parameter):
                given = values[parameter]
                items = list(given) if isinstance(given, (list, tuple)) else [given]
                found, shown = self._gallery.listed(items, statement.name.value), "images from Python"
            case _:
                raise QueryTypeError("CREATE IMAGES takes a path, a glob or a SELECT in parentheses.")
        if not found:
            raise QueryTypeError("The source of CREATE IMAGES yields no images.")
        stored = self._store.put_image_set(ImageSet(statement.name.value, shown, tuple(found)), statement.replace)
        return Message(f"images {stored.name}: {len(stored.images)} images")

    def _drop(self, statement: syntax.Drop, text: str, parameters: Parameters, _: Any) -> Message:
        named = statement.name
        value: Any = named.value
        match statement.kind:
            case "model":
                self._store.drop_model(value)
            case "images":
                self._store.drop_image_set(value)
            case "run":
                self._store.drop_run(value)
        return Message(f"{statement.kind} {value} dropped")

    def _show(self, statement: syntax.Show, text: str, parameters: Parameters, _: Any) -> Outcome:
        sql = self._store.connection.sql
        match statement.what:
            case "models":
                return sql("SELECT name, uri, n_classes, input_height, input_width, activation, created_at FROM models")
            case "images":
                return sql(
                    "SELECT name, any_value(n_images) AS n_images, any_value(source) AS source FROM image_sets "
                    "GROUP BY name ORDER BY name"
                )
            case "runs":
                return sql(
                    "SELECT run_id, run_name, status, model, score, n_images, n_maps, n_failed, started_at, query "
                    "FROM runs ORDER BY run_id"
                )
            case "devices":
                return self._devices()
            case _:
                return self._table(
                    {
                        "operator": [o.name for o in OPERATORS],
                        "exact": [o.exact for o in OPERATORS],
                        "does": [o.does for o in OPERATORS],
                    }
                )

    def _devices(self) -> Outcome:
        import torch  # noqa: PLC0415

        from obeql.executor.devices import available_devices, device_name, free_bytes  # noqa: PLC0415

        devices = available_devices()
        return self._table(
            {
                "device": devices,
                "name": [device_name(torch.device(d)) for d in devices],
                "usable_gb": [round(free_bytes(torch.device(d)) / 1e9, 1) for d in devices],
            }
        )

    def _describe(self, statement: syntax.Describe, text: str, parameters: Parameters, _: Any) -> Outcome:
        value: Any = statement.name.value
        match statement.kind:
            case "model":
                return self._describe_model(value)
            case "images":
                if self._store.image_set(value) is None:
                    self._unknown("image set", value, self._store.image_set_names())
                return self._store.connection.sql(
                    "SELECT image_id, path, label FROM image_sets WHERE lower(name) = lower($name) ORDER BY place",
                    params={"name": value},
                )
            case _:
                run, _model = self._stored_run(value)
                return self._store.connection.sql(
                    "SELECT heat.image_id, heat.path, heat.label, heat.class_name, heat.patch_height, "
                    'heat.patch_width, heat."rows", heat.cols, heat.score, heat.clean_score, heat.bound '
                    "FROM heatmaps AS heat WHERE heat.run_id = $run ORDER BY heat.image_id",
                    params={"run": run.run_id},
                )

    def _describe_model(self, name: str) -> Outcome:
        model = self._store.model(name)
        if model is None:
            self._unknown("model", name, self._store.model_names())
        layers = model.network.layers
        return self._table(
            {
                "layer": list(range(len(layers))),
                "kind": [layer.kind for layer in layers],
                "name": [layer.name for layer in layers],
                "reach": [layer.reach for layer in layers],
                "shape": ["x".join(str(n) for n in layer.shape) for layer in layers],
                "mmacs": [round(layer.macs / 1e6, 2) for layer in layers],
            }
        )

    def _render(self, statement: syntax.Render, text: str, parameters: Parameters, _: Any) -> Message:
        values = self._bound_values(statement, parameters)
        path = values[statement.path] if isinstance(statement.path, syntax.Parameter) else statement.path.value
        reference = statement.run
        name = values[reference] if isinstance(reference, syntax.Parameter) else reference.value
        result = self.run(name)
        result.save(path)
        return Message(f"{len(result)} heat map{'s' if len(result) != 1 else ''} drawn to {path}")

    def _set(self, statement: syntax.SetSetting | syntax.ResetSetting, text: str, parameters: Parameters, _: Any) -> Message:
        name, value = bind_setting(statement, text, self._bound_values(statement, parameters))
        self._settings[name] = value
        return Message(f"obeql.{name} = {'auto' if value is None else value}")

    # ---- what they share --------------------------------------------------------------------------------------

    def _bound_values(self, statement: Any, parameters: Parameters) -> dict[syntax.Parameter, Any]:
        """The value of each parameter in a statement, pixels turned into images."""
        found: dict[syntax.Parameter, Any] = {}
        for parameter in parameters_of(statement):
            if parameter.name is not None:
                if not isinstance(parameters, Mapping) or parameter.name not in parameters:
                    raise QueryTypeError(f"Parameter ${parameter.name} has no value.")
                value = parameters[parameter.name]
            else:
                index = parameter.index or 0
                if parameters is None or isinstance(parameters, Mapping) or index >= len(parameters):
                    raise QueryTypeError(f"Parameter number {index + 1} has no value.")
                value = parameters[index]
            found[parameter] = self._image_values(value, f"parameter_{parameter.name or (parameter.index or 0) + 1}")
        return found

    def _image_values(self, value: Any, key: str) -> Any:
        if is_pixels(value) and not (hasattr(value, "ndim") and value.ndim == 0):
            return self._gallery.take(value, key)
        if isinstance(value, (list, tuple)) and any(is_pixels(item) for item in value):
            return self._gallery.listed(value, key)
        return value

    def _stored_run(self, name_or_id: str | int) -> tuple[RunRecord, ModelRecord]:
        run = self._store.run(name_or_id)
        if run is None:
            self._unknown("run", name_or_id, self._store.run_names())
        model = self._store.model(run.model)
        if model is None or model.model_hash != run.model_hash:
            model = self._store.model_of_hash(run.model_hash)
        if model is None:
            raise StoreError(f"The model of run {name_or_id} is not in the file any more.")
        return run, model

    def _unknown(self, what: str, name: Any, known: Sequence[str]) -> Any:
        raise UnknownNameError(f"There is no {what} {name!r}.{nearest(str(name), known)}")

    def _require_writable(self, what: str) -> None:
        if self._store.read_only:
            raise StoreError(f"{what} stores what it finds, but {self.path} is open read-only.")

    def _table(self, columns: dict[str, list[Any]]) -> Outcome:
        return self._store.connection.from_arrow(pa.table(columns))


def _capture_note(record: ModelRecord) -> str:
    if record.network.whole:
        return f"runs whole ({record.network.reason})"
    layers = record.network.layers
    first = next((layer for layer in layers if layer.reach == "global"), None)
    where = f", whole maps needed from {first.kind} {first.name}" if first is not None else ""
    return f"{len(layers)} layers{where}"

