"""What the handlers of statements share: store, registries and settings of a session, and reading a node's value.

Before: a session has opened these. After: `catalog_statements`, `map_statements` and `run_statements` carry statements
out with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import duckdb

from obeql.errors import QueryTypeError, StoreError, UnknownNameError, nearest
from obeql.grammar import statements, syntax
from obeql.planner.binding.error_location import locate
from obeql.planner.binding.values import parameter_value
from obeql.results.messages import Message, Plan
from obeql.results.result import Result
from obeql.session.call import Call
from obeql.session.cancellation import Cancellation
from obeql.session.catalog import SessionCatalog
from obeql.session.image_registry import ImageRegistry
from obeql.session.model_registry import ModelRegistry
from obeql.session.parameters import bound_values
from obeql.session.stored_runs import StoredRuns
from obeql.store import Store

__all__ = ["Handler", "Outcome", "StatementContext", "unknown"]

#: What a statement yields: maps, a plan, a line of text, a relation of DuckDB, or nothing.
Outcome = Result | Plan | Message | duckdb.DuckDBPyRelation | None

#: What carries a statement out.
Handler = Callable[[Any, Call], Outcome]


class StatementContext:
    """The store, registries and settings of a session, as statements take them."""

    def __init__(
        self, store: Store, image_registry: ImageRegistry, model_registry: ModelRegistry, cancellation: Cancellation
    ) -> None:
        self.store = store
        self.image_registry = image_registry
        self.model_registry = model_registry
        self.cancellation = cancellation
        self.runs = StoredRuns(store, image_registry)
        self.settings: dict[str, Any] = {}
        self.catalog = SessionCatalog(store, image_registry, self.settings)

    def require_open(self) -> None:
        """Raise StoreError once the database is closed."""
        self.store.require_open()

    def require_writable(self, what: str) -> None:
        """Raise StoreError, naming what would write, where the database cannot be written to now."""
        self.require_open()
        if self.store.read_only:
            raise StoreError(f"{what} writes to the database, but {self.store.path!r} is open read-only.")
        if self.store.in_transaction():
            raise StoreError(f"{what} commits what it stores; COMMIT or ROLLBACK the open transaction first.")
        self.store.end_stopped_runs()

    def setting(self, name: str) -> Any:
        """Return the value of a setting in this session, its default unless SET. Raises UnknownNameError."""
        return self.catalog.setting(name)

    def stored_run(self, name_or_id: str | int) -> Result:
        """Return the maps of a stored run. Raises UnknownNameError, without a place."""
        return self.runs.result(name_or_id)

    def values(self, statement: statements.Statement, call: Call) -> dict[syntax.Parameter, Any]:
        """Return what the parameters of a statement stand for."""
        return bound_values(statement, call.parameters, self.image_registry, call.alone, call.given)

    def reference(self, node: syntax.Reference, call: Call) -> str | int:
        """Return the name or id that a node, or its parameter, gives."""
        given: Any
        if isinstance(node, syntax.Parameter):
            given = parameter_value(node, bound_values(node, call.parameters, self.image_registry, False))
            given = given.item() if hasattr(given, "item") else given
        else:
            given = node.value
        if not isinstance(given, (str, int)) or isinstance(given, bool):
            wrong = QueryTypeError(f"A run is given by its name or its id, not by a {type(given).__name__}.")
            raise locate(wrong, node)
        return given

    def referred(self, node: syntax.Reference, call: Call) -> Result:
        """Return the maps of the run that a node names."""
        try:
            return self.stored_run(self.reference(node, call))
        except UnknownNameError as error:
            raise locate(error, node) from None

    def text(
        self, node: syntax.Text | syntax.Parameter, values: dict[syntax.Parameter, Any], call: Call, what: str
    ) -> str:
        """Return the text or path that a node, or its parameter, gives. Raises QueryTypeError for anything else."""
        given = values[node] if isinstance(node, syntax.Parameter) else node.value
        if not isinstance(given, (str, os.PathLike)):
            raise locate(QueryTypeError(f"A text is needed as {what}, not a {type(given).__name__}."), node)
        return os.fspath(given)


def unknown(what: str, name: Any, known: Sequence[str]) -> NoReturn:
    """Raise UnknownNameError for a model, image or run that there is not, with the names that are near."""
    raise UnknownNameError(f"There is no {what} {name!r}.{nearest(str(name), known)}")
