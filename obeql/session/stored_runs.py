"""The runs of a database as statements and users name them: their records, models and maps."""

from __future__ import annotations

from obeql.errors import StoreError
from obeql.planner import ModelRecord
from obeql.results.result import Result
from obeql.session.image_registry import ImageRegistry
from obeql.session.run_reader import stored_result
from obeql.store import RunRecord, Store
from obeql.store.runs import unknown_run

__all__ = ["StoredRuns"]


class StoredRuns:
    """Looks runs up by name or id; raises UnknownNameError, without a place, for a run that there is not."""

    def __init__(self, store: Store, image_registry: ImageRegistry) -> None:
        self._store = store
        self._image_registry = image_registry

    def record(self, name_or_id: str | int) -> RunRecord:
        """Return what the run was."""
        run = self._store.run(name_or_id)
        if run is None:
            raise unknown_run(name_or_id, self._store.run_names())
        return run

    def model(self, run: RunRecord) -> ModelRecord:
        """Return the model that the run was computed with, whatever its name means today. Raises StoreError."""
        model = self._store.model_of_hash(run.model_hash, run.preprocessing_hash)
        if model is None:
            raise StoreError(f"The model of run {run.run_id} is not in the file any more.")
        return model

    def result(self, name_or_id: str | int) -> Result:
        """Return the maps of the run."""
        run = self.record(name_or_id)
        return stored_result(self._store, self._image_registry, run, self.model(run))
