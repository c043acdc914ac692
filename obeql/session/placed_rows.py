"""Rows of SQL that are read later: a relation of DuckDB whose errors point into the statement, as those of others do.

After `statements`, which has run the SQL; DuckDB reads the rows when they are fetched, and fails then where a value
cannot be cast, or a file cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import duckdb

from obeql.errors import ObeqlError

__all__ = ["PlacedRows"]


def _native(value: Any) -> Any:
    """Return DuckDB's own relation for one of ours, and anything else as it is."""
    return value._relation if type(value) is PlacedRows else value


class PlacedRows:
    """A relation of DuckDB in everything but its errors, which `error_of` makes errors of the statement.

    `isinstance` says that it is one. What its methods return of relations is another of these.
    """

    __slots__ = ("__weakref__", "_error_of", "_relation")

    def __init__(self, relation: duckdb.DuckDBPyRelation, error_of: Callable[[duckdb.Error], ObeqlError]) -> None:
        self._relation = relation
        self._error_of = error_of

    @property  # type: ignore[misc]  # what isinstance asks beside the type
    def __class__(self) -> type:
        return duckdb.DuckDBPyRelation

    def _of(self, name: str) -> Any:
        """Return an attribute of the relation."""
        try:
            found = getattr(self._relation, name)
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            raise self._error_of(error) from error
        if not callable(found):
            return found

        @wraps(found)
        def called(*args: Any, **options: Any) -> Any:
            given = [_native(each) for each in args]
            named = {name: _native(each) for name, each in options.items()}
            try:
                returned = found(*given, **named)
            except duckdb.InterruptException:  # by `connection.interrupt()`: no fault of the statement
                raise
            except duckdb.Error as error:
                raise self._error_of(error) from error
            is_relation = isinstance(returned, duckdb.DuckDBPyRelation)
            return PlacedRows(returned, self._error_of) if is_relation else returned

        return called

    def __getattr__(self, name: str) -> Any:
        return self._of(name)

    def __dir__(self) -> list[str]:
        return dir(self._relation)

    # Python asks the class for these.

    def __repr__(self) -> str:
        return str(self._of("__repr__")())

    def __str__(self) -> str:
        return str(self._of("__str__")())

    def __len__(self) -> int:
        return int(self._of("__len__")())

    def __contains__(self, name: object) -> bool:
        return bool(self._of("__contains__")(name))

    def __getitem__(self, name: Any) -> Any:
        return self._of("__getitem__")(name)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._of("__arrow_c_stream__")(requested_schema)
