"""Models in the store: what the catalog resolves `USING <name>` to.

A name's last row holds; replacing and dropping append rows, so that older runs keep pointing at the old content.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from obeql.errors import StoreError, UnknownNameError, nearest
from obeql.planner.binding.classes import with_no
from obeql.planner.catalog import ModelRecord, Preprocessing
from obeql.planner.geometry import LayerSpec, Network
from obeql.store.codec import dump, load_frozen, utc_now
from obeql.store.driver import Database

__all__ = ["ModelRows"]

_COLUMNS = "name, model_hash, uri, options, classes, activation, preprocessing, network"
#: The last row of every name.
_LIVE = "FROM obeql_store.model_rows QUALIFY row_number() OVER (PARTITION BY lower(name) ORDER BY entry_id DESC) = 1"


class ModelRows:
    """The part of a store that keeps models."""

    _database: Database

    @cached_property
    def _columns(self) -> str:
        """Return what is read of a model; files of earlier versions that are open for reading only lack its content."""
        named = "SELECT 1 FROM duckdb_columns() WHERE database_name = current_database() AND "
        named += "schema_name = 'obeql_store' AND table_name = 'model_rows' AND column_name = 'content_hash'"
        return f"{_COLUMNS}, {'content_hash' if self._database.rows(named) else 'NULL'}"

    def put_model(self, record: ModelRecord, replace: bool = False) -> None:
        """Store a model under its name.

        The same content again changes nothing, save that a new `uri` (another way to load the same weights) is
        remembered. Raises StoreError when the name stands for other content and `replace` is false.
        """
        with self._database.transaction():
            known = self.model(record.name)
            if known is not None:
                same = _content(known) == _content(record)
                if same and _loading(known) == _loading(record):
                    return
                if not same and not replace:
                    raise StoreError(
                        f"a model {known.name!r} exists with another {_differing(known, record)}; "
                        "write CREATE OR REPLACE MODEL (replace=True) or choose another name"
                    )
            *depth, height, width = record.preprocessing.map_size
            self._database.append_row(
                "model_rows",
                entry_id=self._database.next_ids("entry_ids")[0],
                live=True,
                name=record.name,
                model_hash=record.model_hash,
                preprocessing_hash=record.preprocessing.digest(),
                uri=record.uri,
                options=dump(record.options),
                content_hash=record.content_hash,
                classes=list(record.classes),
                activation=record.activation,
                preprocessing=record.preprocessing.to_json(),
                network=record.network.to_json(),
                n_classes=record.n_classes,
                input_depth=depth[0] if depth else None,
                input_height=height,
                input_width=width,
                written_at=utc_now(),
            )

    def model(self, name: str) -> ModelRecord | None:
        """Return the model of this name, matched case-insensitively, or None."""
        rows = self._database.rows(
            f"SELECT {self._columns} FROM ({_LIVE}) WHERE live AND lower(name) = lower(?)", [name]
        )
        return _record(rows[0]) if rows else None

    def model_of_hash(self, model_hash: str, preprocessing_hash: str) -> ModelRecord | None:
        """Return the latest model with this content, whatever its name, replaced and dropped ones included; or None."""
        rows = self._database.rows(
            f"SELECT {self._columns} FROM obeql_store.model_rows "
            "WHERE live AND model_hash = ? AND preprocessing_hash = ? ORDER BY entry_id DESC LIMIT 1",
            [model_hash, preprocessing_hash],
        )
        return _record(rows[0]) if rows else None

    def models(self) -> list[ModelRecord]:
        """Return all models, by name."""
        rows = self._database.rows(f"SELECT {self._columns} FROM ({_LIVE}) WHERE live ORDER BY lower(name)")
        return [_record(row) for row in rows]

    def model_names(self) -> list[str]:
        """Return the names of all models, sorted."""
        return [name for (name,) in self._database.rows("SELECT name FROM main.models ORDER BY lower(name)")]

    def drop_model(self, name: str) -> None:
        """Forget a name; runs made with the model stay. Raises UnknownNameError."""
        with self._database.transaction():
            known = self.model(name)
            if known is None:
                raise UnknownNameError(f"there is no model {name!r} to drop.{nearest(name, self.model_names())}")
            self._database.append_row(
                "model_rows",
                entry_id=self._database.next_ids("entry_ids")[0],
                live=False,
                name=known.name,
                model_hash=known.model_hash,
                written_at=utc_now(),
            )


def _record(row: tuple[Any, ...]) -> ModelRecord:
    name, model_hash, uri, options, classes, activation, preprocessing, network, content_hash = row
    record = ModelRecord(
        name=name,
        model_hash=model_hash,
        uri=uri,
        options=load_frozen(options),
        classes=tuple(classes),
        activation=activation,
        preprocessing=Preprocessing.from_json(preprocessing),
        network=_with_classes(Network.from_json(network), activation),
        content_hash=content_hash or "",
    )
    return replace(record, classes=with_no(record))


def _with_classes(network: Network, activation: str) -> Network:
    """Return the network with the layer that gives one output two classes, which schemas before 6 lack."""
    if network.n_classes != 1 or activation == "none":
        return network
    yes_no = LayerSpec("yes_no", "yes_no", "global", (len(network.layers) - 1,), (2,), 0, 4 * 2 * 2, 0)
    return replace(network, layers=(*network.layers, yes_no))


def _content(record: ModelRecord) -> dict[str, Any]:
    """Return what makes two models the same to a query; its geometry follows from what it computes."""
    return {
        "network": record.model_hash,
        "list of classes": record.classes,
        "activation": record.activation,
        "preprocessing": record.preprocessing.digest(),
    }


def _loading(record: ModelRecord) -> tuple[str | None, str, str]:
    return record.uri, dump(record.options), record.network.to_json()


def _differing(known: ModelRecord, record: ModelRecord) -> str:
    before, after = _content(known), _content(record)
    return " and another ".join(part for part in before if before[part] != after[part])
