"""The handlers of the statements about what a session knows: models, images, runs by their names, and settings.

Before: `statements` calls the handler of a statement of `obeql.grammar.catalog_statements`. After: the store and the
registries hold what it says.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from obeql.errors import UnknownNameError
from obeql.grammar import statements, syntax
from obeql.planner import ImageSet, ModelRecord, bind_setting, images_options, model_options
from obeql.planner.binding.error_location import locate
from obeql.planner.binding.file_parts import axes_of_parts, take_parts
from obeql.planner.binding.sources import resolve_source
from obeql.results.messages import Message
from obeql.session.call import Call
from obeql.session.listings import Listings
from obeql.session.statement_context import Handler, Outcome, StatementContext, unknown
from obeql.session.status import StatementStatus

__all__ = ["CatalogStatements"]


class CatalogStatements:
    """CREATE, DROP, SHOW, DESCRIBE, SET and RESET."""

    def __init__(self, context: StatementContext) -> None:
        self._context = context
        self._listings = Listings(context.store)
        self.handlers: dict[type[Any], Handler] = {
            statements.CreateModel: self._create_model,
            statements.CreateImages: self._create_images,
            statements.Drop: self._drop,
            statements.Show: self._show,
            statements.Describe: self._describe,
            statements.SetSetting: self._set,
            statements.ResetSetting: self._set,
        }

    def with_free_name(self, record: ModelRecord) -> ModelRecord:
        """Return the record, renamed by a hash of its content where its name stands for another model."""
        known = self._context.store.model(record.name)
        if known is None or _content(known) == _content(record):
            return record
        digest = hashlib.sha256(repr((record.model_hash, record.preprocessing, record.activation)).encode())
        return replace(record, name=f"{record.name}_{digest.hexdigest()[:8]}")

    def put_model(self, record: ModelRecord, replace: bool) -> None:
        """Store a model, or, in a read-only database, see that it is the one of this name."""
        known = self._context.store.model(record.name) if self._context.store.read_only else None
        if known is not None and _content(known) == _content(record):
            return
        self._context.require_writable(f"creating model {record.name!r}")
        self._context.store.put_model(record, replace)
        self._context.model_registry.remember(record)

    def _create_model(self, statement: statements.CreateModel, call: Call) -> Message:
        self._context.require_writable("CREATE MODEL")
        values = self._context.values(statement, call)
        options = model_options(statement.options, values)
        uri = self._context.text(statement.uri, values, call, "the URI of a model")
        name = statement.name.value
        say = StatementStatus(call.on_progress, shown=name, unit="models")
        say.torch()
        say(f"loading {PurePath(uri).name}")
        record = self._context.model_registry.create(name, uri, options)
        known = self._context.store.model(name)
        self.put_model(record, statement.replace or self._context.model_registry.renews(record))
        same = known is not None and known.model_hash == record.model_hash
        return Message(
            f"model {name} {'is there already' if same else 'created' if known is None else 'replaced'}: "
            f"{record.classes_text}, input {record.preprocessing.size_text}, {record.network.macs / 1e9:.2f} GMAC, "
            f"{_capture_note(record)}{', ' + outputs if (outputs := record.outputs_text) else ''}"
            + "".join(f"\n{note}" for note in self._context.model_registry.notes(record))
        )

    def _create_images(self, statement: statements.CreateImages, call: Call) -> Message:
        self._context.require_writable("CREATE IMAGES")
        source, values = statement.source, self._context.values(statement, call)
        options = images_options(statement.options, values)
        parts = take_parts(options, statement.options)
        _, images = resolve_source(source, self._context.catalog, values, axes_of_parts(parts))
        images = self._context.image_registry.in_parts(images, parts)
        match source:
            case syntax.SelectSource(sql=sql):
                shown = sql.strip()
            case syntax.PathSource(path=path):
                shown = path
            case _:
                shown = "images from Python"
        stored = self._context.image_registry.put_set(ImageSet(statement.name.value, shown, images), statement.replace)
        n_images = len(stored.images)
        return Message(f"images {stored.name}: {n_images} image{'s' if n_images != 1 else ''}")

    def _drop(self, statement: statements.Drop, call: Call) -> Message:
        kind = statement.kind
        self._context.require_writable(f"DROP {kind.upper()}")
        name = self._context.reference(statement.name, call)
        try:
            match kind:
                case "model":
                    self._context.store.drop_model(str(name))
                case "images":
                    self._context.store.drop_image_set(str(name))
                case "run":
                    self._context.store.drop_run(name)
        except UnknownNameError as error:
            raise locate(error, statement.name) from None
        return Message(f"{kind} {name} dropped")

    def _show(self, statement: statements.Show, call: Call) -> Outcome:
        return self._listings.show(statement.what)

    def _describe(self, statement: statements.Describe, call: Call) -> Outcome:
        name = self._context.reference(statement.name, call)
        try:
            match statement.kind:
                case "model":
                    model = self._context.store.model(str(name))
                    return self._listings.model(model or unknown("model", name, self._context.store.model_names()))
                case "images":
                    known = self._context.store.image_set(str(name))
                    found = known or unknown("image set", name, self._context.store.image_set_names())
                    return self._listings.image_set(found.name)
                case "run":
                    return self._listings.run(self._context.runs.record(name))
        except UnknownNameError as error:
            raise locate(error, statement.name) from None

    def _set(self, statement: statements.SetSetting | statements.ResetSetting, call: Call) -> Message:
        name, value = bind_setting(statement, self._context.values(statement, call))
        if name == "rates":  # which can only be reset
            n_known = self._context.model_registry.forget_rates()
            return Message(f"obeql.rates: {n_known} forgotten; the next plan measures again")
        self._context.settings[name] = value
        return Message(f"obeql.{name} = {'auto' if value is None else value}")


def _content(model: ModelRecord) -> tuple[Any, ...]:
    return model.model_hash, model.preprocessing, model.classes, model.activation


def _capture_note(record: ModelRecord) -> str:
    if record.network.whole:
        return f"runs whole ({record.network.reason})"
    layers = record.network.layers
    first = next((layer for layer in layers if layer.reach == "global"), None)
    where = f", whole maps needed from {first.kind} {first.name}" if first is not None else ""
    return f"{len(layers)} layers{where}"
