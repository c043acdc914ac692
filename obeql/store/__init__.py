"""The DuckDB store: models, images, runs and heat maps in one file that plain DuckDB reads.

Before it: the session, which hands over what the catalog and the executor produced. After it: SQL. Users read the
views of views.sql (`windows`, `runs`, `heatmaps`, `cells` and more) and call the macros of macros.sql; all of
these are stored in the file.

    opening       files opened, with small row groups
    driver        what else knows DuckDB's Python API
    fresh         what a new database is made of: the scripts of sql/
    schema        older files, brought up to date, and files of others
    comments      what views and columns hold
    score_sql     scores as SQL, from the table of scores;  bound_sql: bounds of counts by histograms
    codec         JSON texts and UTC times
    map_columns   maps as Arrow rows, and back
    shards        Parquet files of maps, in folders of this machine or in an object store
    models, images, runs, maps, evaluations, metadata, regions, histograms     what `Store` keeps, by kind
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import duckdb

from obeql.store.driver import MEMORY, OPENING, STORAGE_VERSION, Database
from obeql.store.evaluations import EvaluationRow, EvaluationRows
from obeql.store.images import ImageContent, PredictionRow
from obeql.store.map_columns import Box, ImageMaps, StoredMap
from obeql.store.metadata import FactRows
from obeql.store.models import ModelRows
from obeql.store.runs import RunRecord, RunStatus
from obeql.store.schema import SCHEMA_VERSION, prepare_schema
from obeql.store.shards.folder import Folder
from obeql.store.shards.loader import IncomingRows

__all__ = [
    "MEMORY",
    "SCHEMA_VERSION",
    "STORAGE_VERSION",
    "Box",
    "EvaluationRow",
    "Folder",
    "ImageContent",
    "ImageMaps",
    "PredictionRow",
    "RunRecord",
    "RunStatus",
    "Store",
    "StoredMap",
]

_T = TypeVar("_T")


class Store(IncomingRows, ModelRows, EvaluationRows, FactRows):
    """A store in a DuckDB file, created when missing, or in memory.

    Every method that writes commits everything or nothing and returns once it is durable. Raises StoreError when the
    file is not a DuckDB database, is held by another process, has a newer schema, already uses a name the store
    needs, lies in a folder that does not exist, or, read-only, does not exist itself. No error of DuckDB leaves a
    method of this class; what users run on `connection` is theirs to catch.

    Runs that a process which is gone left running are `interrupted` when the file is opened for writing again.
    """

    def __init__(self, path: str | Path = MEMORY, read_only: bool = False) -> None:
        self._unended = {}
        with OPENING:
            self._database = Database(path, read_only)
            try:
                prepare_schema(self._database)
                self._read_placed()
                if self._database.first_here and not read_only:
                    self._mend_what_was_stopped()
            except BaseException:
                self._database.close()
                raise

    @property
    def path(self) -> str:
        """Return the path as given, `:memory:` for a store in memory."""
        return self._database.path

    @property
    def read_only(self) -> bool:
        return self._database.read_only

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """Return the connection on which users' SQL runs untouched; the store's own statements never run on it."""
        self._database.require_open()
        self._database.complete()
        return self._database.user

    def require_open(self) -> None:
        """Raise StoreError once the store is closed."""
        self._database.require_open()

    def name(self) -> str:
        """Return what DuckDB calls the database."""
        return self._database.name()

    def on_connection(self, call: Callable[[duckdb.DuckDBPyConnection], _T]) -> _T:
        """Call something with `connection`, once no other thread reads a result there.

        Raises StoreError when the store is closed, errors of DuckDB as they are, and KeyboardInterrupt for Ctrl-C.
        """
        self._database.complete()
        return self._database.on_user(call)

    def ask(self, sql: str) -> None:
        """Execute a statement that changes nothing beside users' SQL, for the error that DuckDB raises."""
        with self._database.user.cursor() as beside:
            beside.execute(sql)

    def in_transaction(self) -> bool:
        """Return whether users' SQL has begun a transaction that is not ended.

        What the store commits meanwhile stays committed after a ROLLBACK and is not visible in that transaction; ask
        before a statement that writes. Ends a result still pending on `connection`.
        """
        return self._database.user_in_transaction()

    def storage_version(self) -> str:
        """Return the oldest DuckDB that reads the file, as DuckDB says it (`v1.5.0+`); empty in memory."""
        return self._database.storage_version()

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database file, unless a transaction of this process prevents it now."""
        self._database.checkpoint()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
