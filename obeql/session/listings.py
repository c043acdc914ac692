"""SHOW and DESCRIBE: what the database, the machine and the program hold, as relations."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from obeql.planner import OPERATORS, ModelRecord
from obeql.store import RunRecord, Store

__all__ = ["Listings", "relation_of"]

_SHOWN = {
    "models": "SELECT name, uri, n_classes, input_height, input_width, activation, created_at FROM {}.models "
    "ORDER BY lower(name)",
    "images": "SELECT name, any_value(n_images) AS n_images, any_value(source) AS source FROM {}.image_sets "
    "GROUP BY name ORDER BY lower(name)",
    # Files of older versions that are open for reading alone have no share.
    "runs": "SELECT run_id, run_name, COLUMNS(lambda name: name IN ('status', 'share')), model, score, n_images, "
    "n_maps, n_failed, started_at, query FROM {}.runs ORDER BY run_id",
}


def relation_of(store: Store, table: pa.Table) -> duckdb.DuckDBPyRelation:
    """Return an Arrow table as a relation of the user's connection."""
    return store.on_connection(lambda connection: connection.from_arrow(table))


class Listings:
    """The relations of SHOW and DESCRIBE, whichever database the user's SQL is using."""

    def __init__(self, store: Store) -> None:
        self._store = store
        name = store.name().replace('"', '""')
        self._views = f'"{name}".main'

    def show(self, what: str) -> duckdb.DuckDBPyRelation:
        """Return the rows of SHOW MODELS | IMAGES | RUNS | DEVICES | OPERATORS."""
        if what in _SHOWN:
            return self._sql(_SHOWN[what].format(self._views))
        if what == "devices":
            return relation_of(self._store, _devices())
        operators = {
            "operator": [operator.name for operator in OPERATORS],
            "exact": [operator.exact for operator in OPERATORS],
            "does": [operator.does for operator in OPERATORS],
        }
        return relation_of(self._store, pa.table(operators))

    def model(self, model: ModelRecord) -> duckdb.DuckDBPyRelation:
        """Return the rows of DESCRIBE MODEL: one a layer, with multiply-accumulates in millions, then one an output."""
        layers, outputs = model.network.layers, model.network.outputs
        none = [None] * len(outputs)
        # The row of a signal, which is one of the engine's, says nothing to people.
        flat = model.preprocessing.is_signal
        shapes = [
            *((layer.shape[:1] + layer.shape[2:]) if flat else layer.shape for layer in layers),
            *(output.shape for output in outputs),
        ]
        columns: dict[str, list[Any]] = {
            "layer": [*range(len(layers)), *none],
            "kind": [*(layer.kind for layer in layers), *("output" for _ in outputs)],
            "name": [*(layer.name for layer in layers), *(output.name for output in outputs)],
            "reach": [*(layer.reach for layer in layers), *none],
            "shape": ["x".join(map(str, shape)) for shape in shapes],
            "mmacs": [*(round(layer.macs / 1e6, 2) for layer in layers), *none],
            "meaning": [None] * len(layers) + [model.classes_text if each.chosen else "not read" for each in outputs],
        }
        return relation_of(self._store, pa.table(columns))

    def image_set(self, name: str) -> duckdb.DuckDBPyRelation:
        """Return the rows of DESCRIBE IMAGES: one an image."""
        return self._sql(
            f"SELECT place, image_id, path, label FROM {self._views}.image_sets "
            "WHERE lower(name) = lower($name) ORDER BY place",
            {"name": name},
        )

    def run(self, run: RunRecord) -> duckdb.DuckDBPyRelation:
        """Return the rows of DESCRIBE RUN: one a map."""
        return self._sql(
            "SELECT heat.image_id, heat.path, heat.label, heat.class_name, heat.patch_height, heat.patch_width, "
            'heat.channel, heat."rows", heat.cols, heat.score, heat.clean_score, heat.bound '
            f"FROM {self._views}.heatmaps AS heat "
            "WHERE heat.run_id = $run ORDER BY heat.image_id, heat.patch_height, heat.channel, heat.class_id",
            {"run": run.run_id},
        )

    def _sql(self, sql: str, parameters: dict[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        return self._store.on_connection(lambda connection: connection.sql(sql, params=parameters))


def _devices() -> pa.Table:
    import torch  # noqa: PLC0415

    from obeql.executor.devices import available_devices, device_of  # noqa: PLC0415

    devices = [device_of(torch.device(name)) for name in available_devices()]
    return pa.table(
        {
            "device": available_devices(),
            "name": [device.hardware for device in devices],
            "usable_gb": [round(device.free_bytes / 1e9, 1) for device in devices],
        }
    )
