"""The networks of a session: loaded once, captured once, with their measured rates.

Between the catalog, which knows a model by its hash, and the executor, which needs its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from obeql.errors import ModelError
from obeql.planner import ExplainPlan, ModelRecord, Rates
from obeql.planner.binding.classes import with_no
from obeql.session.file_locations import FileLocations
from obeql.session.rate_book import RateBook
from obeql.session.status import Say, no_status

if TYPE_CHECKING:
    import torch
    from torch import nn

    from obeql.executor.execution.report import RunReport
    from obeql.executor.models import LoadedModel
    from obeql.executor.models.identity.model_identity import Identity
    from obeql.executor.network.graph import LayerGraph
    from obeql.store import Store

__all__ = ["ModelRegistry"]

#: Options of models that may name files.
_FILES = ("weights", "classes")

#: kinds of layers that make logits of what a network returns; earlier versions took that for logits
_HEAD = frozenset({"probabilities"})

#: What decides a captured graph: what it computes, and the shape of the input its layers were traced with.
GraphKey = tuple[str, tuple[int, ...], str | tuple[str, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class _Captured:
    """A network of this session; `from_code` says that the user's Python code decides what it computes."""

    graph: LayerGraph
    identity: Identity
    from_code: bool
    notes: tuple[str, ...]


class ModelRegistry:
    """Loads models on first use and keeps their layers by content.

    `heed` is called while a network is captured and while a device is measured, and may raise to stop that.
    """

    def __init__(self, store: Store, places: FileLocations, allow_python: bool, heed: Callable[[], None]) -> None:
        self._store = store
        self._places = places
        self._allow_python = allow_python
        self._heed = heed
        self._captured: dict[GraphKey, _Captured] = {}
        self._book = RateBook(store)
        self._trusted: set[str] = set()

    def create(self, name: str, uri: str, options: Mapping[str, Any]) -> ModelRecord:
        """Load and capture the model at `uri`; returns its record, which is not stored yet.

        A file that holds what it held when an earlier version of OBEQL stored the model of this name keeps that
        identity, so that the cells which the store has of it answer.
        """
        record = self._loaded(name, uri, options)
        known = self._store.model(name)
        if known is None or not self._keeps_identity(known, record):
            return record
        return self._known_as(known, record)

    def adopt(self, name: str, module: nn.Module, options: Mapping[str, Any]) -> ModelRecord:
        """Take over a live module; its weights are not stored, only their hash."""
        from obeql.executor.models import adopt  # noqa: PLC0415

        return self._record(name, None, options, adopt(module, **options))

    def renews(self, record: ModelRecord) -> bool:
        """Return whether a record may take the place of the stored one of its name without being asked to.

        So it is where the source holds what it held, and only its identity is another: an earlier version knew less of
        what is computed, or this one, or another PyTorch, captures a file in another way.
        """
        known = self._store.model(record.name)
        if known is None or _said(known) != _said(record):
            return False
        held = known.content_hash or known.model_hash
        from_code = self._captured[_graph_key(record)].from_code
        return record.content_hash == held and (not known.content_hash or not from_code)

    def notes(self, model: ModelRecord) -> tuple[str, ...]:
        """Return the sentences for the user about a model that this session has loaded."""
        return self._captured[_graph_key(model)].notes

    def graph(self, model: ModelRecord, say: Say = no_status) -> LayerGraph:
        """Return the layers of a model, loaded again from its URI where this session has not used it yet.

        Raises ModelError when a live module has to be handed over again, when a file holds another model by now, and
        when a network that runs whole has come to compute something else.
        """
        if _graph_key(model) not in self._captured:
            self._load_again(model, say)
        captured = self._captured.get(_graph_key(model))
        if captured is None:
            raise ModelError(
                f"What '{model.uri}' computed when '{model.name}' was created is not known: an earlier version of "
                "OBEQL stored it, without its code. EXPLAIN with it again, in a database that is open for writing."
            )
        if not captured.identity.still_holds():
            raise ModelError(
                f"Model '{model.name}' computes something else than when it was created: code or values that it takes "
                "from outside the module have changed in this session. Create it again."
            )
        return captured.graph

    def current(self, model: ModelRecord, say: Say = no_status) -> ModelRecord:
        """Return the model with the layers and the identity that it has now.

        They differ from those stored where another version of OBEQL or PyTorch captured it.
        """
        if _graph_key(model) not in self._captured:
            again = self._load_again(model, say)
            if again.model_hash != model.model_hash:
                return again
        network = self.graph(model, say).network()
        return model if network.to_json() == model.network.to_json() else replace(model, network=network)

    def _load_again(self, model: ModelRecord, say: Say) -> ModelRecord:
        """Load a stored model from its URI; returns it as it is now. Its graph is kept for both records.

        Not for the stored one where an earlier version did not record the code that decides what it computes.
        """
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
        if self._keeps_identity(model, again):
            return self._known_as(model, again)
        if again.model_hash == model.model_hash and again.preprocessing == model.preprocessing:
            return again
        from_code = self._captured[_graph_key(again)].from_code
        held = model.content_hash or model.model_hash
        if again.content_hash != held or _said(again) != _said(model) or (from_code and model.content_hash):
            raise ModelError(
                f"'{model.uri}' holds another model than when '{model.name}' was created "
                f"(hash {again.model_hash[:12]}, not {model.model_hash[:12]}); use CREATE OR REPLACE MODEL."
            )
        if not from_code:
            self._captured[_graph_key(model)] = self._captured[_graph_key(again)]
        return again

    def remember(self, model: ModelRecord) -> None:
        """Remember where the files of a model are that was just stored."""
        self._places.remember([model.uri, *(_text(model.options.get(name)) for name in _FILES)])

    def _again(self, model: ModelRecord, uri: str) -> ModelRecord:
        """Return the model, loaded from its files; relative paths are looked for beside the database, too."""
        options = dict(model.options)
        for name in _FILES:
            if (path := _text(options.get(name))) is not None:
                options[name] = self._places.find(path)
        found = self._loaded(model.name, self._places.find(uri), options)
        return replace(found, uri=model.uri, options=model.options)

    def _keeps_identity(self, known: ModelRecord, record: ModelRecord) -> bool:
        """Return whether a file is what an earlier version stored; of Python code that version's hash does not tell."""
        same = record.content_hash == known.model_hash and record.preprocessing == known.preprocessing
        as_logits = not any(layer.kind in _HEAD for layer in record.network.layers)
        alike = (record.n_classes, record.activation) == (known.n_classes, known.activation)
        code = self._captured[_graph_key(record)].from_code
        return same and as_logits and alike and not known.content_hash and not code

    def _known_as(self, known: ModelRecord, record: ModelRecord) -> ModelRecord:
        """Return the record with the identity that an earlier version gave it."""
        kept = replace(record, model_hash=known.model_hash, content_hash="")
        self._captured[_graph_key(kept)] = self._captured[_graph_key(record)]
        return kept

    def rates(
        self,
        model: ModelRecord,
        device: str,
        precision: str,
        n_sharing: int = 1,
        say: Say = no_status,
    ) -> Rates:
        """Return how fast `device` runs the model: measured once, which takes seconds, then read from the store.

        Rates that a run has cast doubt on are measured again. The memory that is free is the part of one of `n_sharing`
        workers. What is measured here is stored by `save_rates`, so that a statement that fails later leaves no trace.
        """
        from obeql.executor.calibration.rates import matrix_rate, measure_rates  # noqa: PLC0415
        from obeql.executor.devices import DTYPES, arithmetic, device_of, resolve_device  # noqa: PLC0415

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
                with arithmetic(precision, place):
                    limit = matrix_rate(place, dtype)
                book.put_limit(_limit_key(place, precision), limit)
            with arithmetic(precision, place):
                measured = measure_rates(graph, place, dtype, self._heed)
            known = book.put(key, measured, model.network, limit)
        return replace(known.now(), free_bytes=device_of(place).free_bytes / n_sharing)

    def reduced_rates(
        self,
        model: ModelRecord,
        device: str,
        precision: str,
        say: Say = no_status,
    ) -> tuple[str, Rates] | None:
        """Return a precision that is less work for `device` than float32, with its rates; None where there is none.

        A network that was not captured runs as it is: its code may not take another precision.
        """
        from obeql.executor.devices import device_of, resolve_device  # noqa: PLC0415

        name = device_of(resolve_device(device)).reduced_precision
        if name is None or precision != "float32" or model.network.whole:
            return None
        return name, self.rates(model, device, name, say=say)

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
        self._captured.clear()

    def _check_uri(self, uri: str) -> None:
        if uri.strip().lower().startswith("python:") and not self._allow_python:
            raise ModelError(
                f"{uri!r} runs Python code, which this connection does not allow: "
                "connect(.., allow_python=True), or --allow-python on the command line."
            )

    def _loaded(self, name: str, uri: str, options: Mapping[str, Any]) -> ModelRecord:
        self._check_uri(uri)
        from obeql.executor.models import load  # noqa: PLC0415  torch takes seconds to import

        if options.get("trust"):
            self._trusted.add(uri)
        return self._record(name, uri, options, load(uri, options))

    def _record(self, name: str, uri: str | None, options: Mapping[str, Any], loaded: LoadedModel) -> ModelRecord:
        from obeql.executor.models.identity.model_identity import identify  # noqa: PLC0415
        from obeql.executor.models.options import storable_options  # noqa: PLC0415
        from obeql.executor.network.capture.capture import capture  # noqa: PLC0415
        from obeql.executor.network.tensor_digests import TensorDigests  # noqa: PLC0415

        how = loaded.preprocessing
        digests = TensorDigests()
        content = loaded.content_hash(digests)
        shape = (how.n_channels, *how.map_size)
        graph = capture(loaded.module, shape, loaded.raw_outputs, loaded.activation, digests, self._heed)
        graph = replace(graph, outputs=loaded.outputs)
        identity = identify(loaded, graph, content, digests)
        record = ModelRecord(
            name,
            identity.model_hash,
            uri,
            storable_options(options),
            loaded.classes,
            graph.activation,
            how,
            graph.network(),
            content,
        )
        record = replace(record, classes=with_no(record))
        self._captured[_graph_key(record)] = _Captured(graph, identity, loaded.from_code, loaded.notes)
        return record


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _graph_key(model: ModelRecord) -> GraphKey:
    how = model.preprocessing
    return model.model_hash, how.size, how.channels


def _rates_key(model: ModelRecord, place: torch.device, precision: str) -> str:
    """Return what decides how fast a model runs: the hardware, too, because a database may move to another machine."""
    shape = "x".join(map(str, model.preprocessing.size))
    return f"{model.model_hash[:24]} {shape} {_limit_key(place, precision)}"


def _limit_key(place: torch.device, precision: str) -> str:
    import torch  # noqa: PLC0415

    from obeql.executor.devices import device_of  # noqa: PLC0415

    return f"{device_of(place).fingerprint} {precision} {torch.get_num_threads()} threads torch {torch.__version__}"


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio >= 1 else f"{ratio:.0%}"


def _said(model: ModelRecord) -> tuple[Any, ...]:
    """Return what was said of a model, beside its source; earlier versions had one class for one output."""
    return model.preprocessing, model.classes[-1:] if model.yes_no else model.classes
