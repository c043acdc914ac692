"""What a database of ours is made of: its scripts, in the order in which they are run.

Before it: `opening`, for a new database, and `schema`, for a file that others made or that is older. After it: the
tables, views and macros of `obeql/store/sql`, and what DuckDB shows of them.
"""

from __future__ import annotations

from importlib.resources import files

import duckdb

from obeql.store.codec import utc_now
from obeql.store.comments import VIEWS, comments_on

__all__ = ["CHANGES", "SCHEMA", "SCHEMA_VERSION", "TABLES", "complete", "make", "script"]

#: Where the tables live.
SCHEMA = "obeql_store"

#: Raised by one with every change of the scripts that older programs cannot read.
SCHEMA_VERSION = 6

#: Scripts that make the tables, by the version they came with; an upgrade runs those that the file lacks.
TABLES = {1: "tables", 3: "tables_3", 5: "tables_5", 6: "tables_6"}

#: Scripts that change what earlier versions have written.
CHANGES = {6: "rows_6"}


def script(name: str) -> str:
    """Return the text of a script."""
    return files("obeql.store.sql").joinpath(f"{name}.sql").read_text("utf-8")


def make(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables and views in a database that has none, inside a transaction of the caller.

    That is what the store itself reads; `complete` adds what only users do.
    """
    connection.execute("\n".join(script(name) for name in (*TABLES.values(), "views")))
    connection.execute("INSERT INTO obeql_store.schema_version VALUES (?, ?)", [SCHEMA_VERSION, utc_now()])


def complete(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the macros, and say of them, of every view and of each of its columns what it holds."""
    connection.execute(script("macros"))
    columns = connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = current_database() "
        "AND schema_name = 'main' AND list_contains(?, table_name) ORDER BY table_name, column_index",
        [list(VIEWS)],
    ).fetchall()
    connection.execute(comments_on(columns))
