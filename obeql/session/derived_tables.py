"""The rows of statements that stand inside SQL, as DuckDB sees them while the SQL around them runs.

`obeql.session.embedded` fills them. The SQL of a statement and the SELECTs that name its images run through `sql` here.
Nothing of them is created in the database: DuckDB finds them among the variables of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb

__all__ = ["DerivedTables", "Rows"]

#: What a connection takes for a table: a relation of its own, or an Arrow table.
Rows = Callable[[duckdb.DuckDBPyConnection], Any]


class DerivedTables:
    """Tables, by the names that stand in the SQL, that exist while one statement runs."""

    def __init__(self) -> None:
        self._tables: dict[str, Rows] = {}

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Begin without tables, and forget those of the block after it; a callback may run statements of its own."""
        outer, self._tables = self._tables, {}
        try:
            yield
        finally:
            self._tables = outer

    def put(self, name: str, rows: Rows) -> None:
        """Give rows the name by which the SQL of the statement knows them."""
        self._tables[name] = rows

    def get(self, name: str) -> Rows | None:
        """Return the rows of a name, None where they are not there yet."""
        return self._tables.get(name)

    def sql(self, connection: duckdb.DuckDBPyConnection, query: str, values: Any = None) -> Any:
        """Run SQL that names these tables, with the values of its parameters; return what DuckDB does."""
        if not self._tables:
            return connection.sql(query, params=values)
        return sql_beside(connection, query, self._tables, values)


def sql_beside(
    connection: duckdb.DuckDBPyConnection, query: str, tables: Mapping[str, Rows], values: Any = None
) -> Any:
    """Run SQL beside tables that exist for this one call. A relation that it returns keeps hold of them."""
    rows = {name: make(connection) for name, make in tables.items() if f'"{name}"' in query}
    # DuckDB looks for a table that it does not know among the variables of its caller, whose names are given here.
    call = {"connection": connection, "query": query, "values": values}
    return eval("connection.sql(query, params=values)", {}, rows | call)  # the text is constant
