"""The networks of a session: loaded once, captured once, with their measured rates.

Between the catalog, which knows a model by its hash, and the executor, which needs its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from obeql.errors import ModelError
from obeql.phases import Say, unsaid
from obeql.places import Places
from obeql.planner import ExplainPlan, ModelRecord, Rates
from obeql.planner.classes import with_no
from obeql.rate_book import RateBook

if TYPE_CHECKING:
    import torch
    from torch import nn

    from obeql.executor.models import LoadedModel
    from obeql.executor.network.graph import LayerGraph
    from obeql.executor.progress import RunReport
    from obeql.store import Store

__all__ = ["Networks"]

#: Options of models that may name files.
_FILES = ("weights", "classes")

#: What decides a captured graph: weights and graph, and the shape of the input its layers were traced with.
GraphKey = tuple[str, tuple[int, int], str]


class Networks:
    """Loads models on first use and keeps their layers by content."""

    def __init__(self, store: Store, places: Places, allow_python: bool) -> None:
        self._store = store
        self._places = places
        self._allow_python = allow_python
        self._graphs: dict[GraphKey, LayerGraph] = {}
        self._book = RateBook(store)
        self._trusted: set[str] = set()

    def create(self, name: str, uri: str, options: Mapping[str, Any]) -> ModelRecord:
        """Load and capture the model at `uri`; returns its record, which is not stored yet."""
        self._check_uri(uri)
        from obeql.executor.models import load  # noqa: PLC0415  torch takes seconds to import

        if options.get("trust"):
            self._trusted.add(uri)
        return self._record(name, uri, options, load(uri, options))

    def adopt(self, name: str, module: nn.Module, options: Mapping[str, Any]) -> ModelRecord:
        """Take over a live module; its weights are not stored, only their hash."""
        from obeql.executor.models import adopt  # noqa: PLC0415

        return self._record(name, None, options, adopt(module, **options))

    def graph(self, model: ModelRecord, say: Say = unsaid) -> LayerGraph:
        """The layers of a model, loaded again from its URI where this session has not used it yet.

        Raises ModelError when a live module has to be handed over again, or a file holds another model by now.
        """
        known = self._graphs.get(_graph_key(model))
        if known is not None:
            return known
        if model.uri is None:
            raise ModelError(
                f"Model '{model.name}' was a live Python module, whose weights are not stored: "
                f"call create_model('{model.name}', module, ...) again with the same weights."
            )
        if model.options.get("trust") and not self._allow_python and model.uri not in self._trusted:
            # The word is in the database, which may be another's; nobody has said it to this session.
            raise ModelError(
                f"Model '{model.name}' was created with trust=true, and loading '{model.uri}' can run code: "
                "create it again with trust=true if you trust the file, or connect(.., allow_python=True)."
            )
        say(f"loading {model.name}")
        again = self._again(model, model.uri)
        if again.model_hash != model.model_hash or again.preprocessing != model.preprocessing:
            raise ModelError(
                f"'{model.uri}' holds another model than when '{model.name}' was created "
                f"(hash {again.model_hash[:12]}, not {model.model_hash[:12]}); use CREATE OR REPLACE MODEL."
            )
        return self._graphs[_graph_key(model)]

    def remember(self, model: ModelRecord) -> None:
        """Remember where the files of a model are that was just stored."""
        self._places.remember([model.uri, *(_text(model.options.get(name)) for name in _FILES)])

    def _again(self, model: ModelRecord, uri: str) -> ModelRecord:
        """The model, loaded from its files; relative paths are looked for beside the database, too."""
        options = dict(model.options)
        for name in _FILES:
            if (path := _text(options.get(name))) is not None:
                options[name] = self._places.find(path)
        return self.create(model.name, self._places.find(uri), options)

    def recaptured(self, model: ModelRecord, say: Say = unsaid) -> ModelRecord | None:
        """The model with the layers it has now, where it was stored with others by another version; else None."""
        network = self.graph(model, say).network()
        return None if network.to_json() == model.network.to_json() else replace(model, network=network)

    def rates(
        self,
        model: ModelRecord,
        device: str,
        precision: str,
        n_sharing: int = 1,
        say: Say = unsaid,
        heed: Callable[[], None] = lambda: None,
    ) -> Rates:
        """How fast `device` runs the model: measured once, which takes seconds, then read from the store.

        Rates that a run has cast doubt on are measured again. The memory that is free is the part of one of `n_sharing`
        workers. `heed` is called while the device is measured, and may raise to stop that. What is measured here is
        stored by `save_rates`, so that a statement that fails later leaves no trace.
        """
        from obeql.executor.devices import DTYPES, device_of, resolve_device  # noqa: PLC0415
        from obeql.executor.rates import matrix_rate, measure_rates  # noqa: PLC0415

        place, dtype, book = resolve_device(device), DTYPES[precision], self._book
        key = _rates_key(model, place, precision)
        known = book.find(key, len(model.network.layers))
        if known is None or known.is_doubted:
            graph = self.graph(model, say)
            why = "once"
            if known is not None:
                why = f"again: a run took {_times(known.doubt)} as long as estimated"
            say(f"measuring the speed of {place} for {model.name} in {precision}, {why}")
            limit = book.limit_of(_limit_key(place, precision))
            if limit is None or known is not None:
                limit = matrix_rate(place, dtype)
                book.put_limit(_limit_key(place, precision), limit)
            known = book.put(key, measure_rates(graph, place, dtype, heed), model.network, limit)
        return replace(known.now(), free_bytes=device_of(place).free_bytes / n_sharing)

    def reduced_rates(
        self,
        model: ModelRecord,
        device: str,
        precision: str,
        say: Say = unsaid,
        heed: Callable[[], None] = lambda: None,
    ) -> tuple[str, Rates] | None:
        """A precision that is less work for `device` than float32, with its rates; None where there is none.

        A network that was not captured runs as it is: its code may not take another precision.
        """
        from obeql.executor.devices import device_of, resolve_device  # noqa: PLC0415

        name = device_of(resolve_device(device)).reduced_precision
        if name is None or precision != "float32" or model.network.whole:
            return None
        return name, self.rates(model, device, name, say=say, heed=heed)

    def learn(self, plan: ExplainPlan, report: RunReport) -> None:
        """Let the rates that a plan was made with learn from its run; with the threads set that it was planned for."""
        from obeql.executor.devices import resolve_device  # noqa: PLC0415

        if plan.measured_rates:
            for precision, pace in report.pace.items():
                self._book.learn(_rates_key(plan.model, resolve_device(plan.device), precision), pace)

    def forget_rates(self) -> int:
        """Forget all measured rates; returns how many there were."""
        return self._book.forget()

    def save_rates(self) -> None:
        """Store what was measured and learnt of rates; in a read-only store it lasts as long as the session."""
        self._book.save()

    def release(self) -> None:
        """Let go of all layers."""
        self._graphs.clear()

    def _check_uri(self, uri: str) -> None:
        if uri.strip().lower().startswith("python:") and not self._allow_python:
            raise ModelError(
                f"{uri!r} runs Python code, which this connection does not allow: "
                "connect(.., allow_python=True), or --allow-python on the command line."
            )

    def _record(self, name: str, uri: str | None, options: Mapping[str, Any], loaded: LoadedModel) -> ModelRecord:
        from obeql.executor.network.capture import capture  # noqa: PLC0415

        how = loaded.preprocessing
        channels = 1 if how.channels == "gray" else 3
        graph = capture(loaded.module, (channels, *how.size), loaded.raw_outputs, loaded.activation)
        graph = replace(graph, outputs=loaded.outputs)
        record = ModelRecord(
            name, loaded.model_hash, uri, dict(options), loaded.classes, graph.activation, how, graph.network()
        )
        record = replace(record, classes=with_no(record))
        self._graphs[_graph_key(record)] = graph
        return record


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _graph_key(model: ModelRecord) -> GraphKey:
    how = model.preprocessing
    return model.model_hash, how.size, how.channels


def _rates_key(model: ModelRecord, place: torch.device, precision: str) -> str:
    """What decides how fast a model runs: with the hardware, because a database may be carried to another machine."""
    shape = "x".join(map(str, model.preprocessing.size))
    return f"{model.model_hash[:24]} {shape} {_limit_key(place, precision)}"


def _limit_key(place: torch.device, precision: str) -> str:
    import torch  # noqa: PLC0415

    from obeql.executor.devices import device_of  # noqa: PLC0415

    return f"{device_of(place).fingerprint} {precision} {torch.get_num_threads()} threads torch {torch.__version__}"


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio >= 1 else f"{ratio:.0%}"
