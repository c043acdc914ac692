"""What a database of ours is made of: its scripts, in the order in which they are run.

Before it: `opening`, for a new database, and `schema`, for a file that others made or that is older. After it: the
tables, views and macros of `obeql/store/sql`, and what DuckDB shows of them.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

import duckdb

from obeql.store.bound_sql import BOUNDS
from obeql.store.codec import utc_now
from obeql.store.comments import TEXTS, VIEWS, comments_on
from obeql.store.score_sql import with_scores

__all__ = ["CHANGES", "SCHEMA", "SCHEMA_VERSION", "TABLES", "complete", "digest", "make", "names", "script"]

#: Where the tables live.
SCHEMA = "obeql_store"

#: Raised by one with every change of the tables. Views and macros need none: a file remembers the digest of theirs.
SCHEMA_VERSION = 10

#: Scripts that make the tables, by the version they came with; an upgrade runs those that the file lacks.
TABLES = {
    1: "tables",
    3: "tables_3",
    5: "tables_5",
    6: "tables_6",
    7: "tables_7",
    8: "tables_8",
    9: "tables_9",
    10: "tables_10",
}

#: Scripts that change what earlier versions have written.
CHANGES = {6: "rows_6"}


_CREATED = re.compile(r"^CREATE (?:VIEW|MACRO) (\w+)(?![\w.])", re.MULTILINE)


@cache
def script(name: str) -> str:
    """Return the text of a script, with what it says of scores and of bounds."""
    return with_scores(files("obeql.store.sql").joinpath(f"{name}.sql").read_text("utf-8"), BOUNDS)


@cache
def digest() -> str:
    """Return a hash of what views and macros are, and of what is said of them; a file of another one gets these."""
    return hashlib.sha256("\n".join([script("views"), script("macros"), TEXTS]).encode()).hexdigest()[:32]


@cache
def names() -> frozenset[str]:
    """Return the names of the views and macros that users see."""
    return frozenset(name for text in ("views", "macros") for name in _CREATED.findall(script(text)))


def make(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables and views in a database that has none, inside a transaction of the caller.

    That is what the store itself reads; `complete` adds what only users do.
    """
    connection.execute("\n".join(script(name) for name in (*TABLES.values(), "views")))
    connection.execute("INSERT INTO obeql_store.schema_version VALUES (?, ?)", [SCHEMA_VERSION, utc_now()])


def complete(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the macros, say of them and of every view and column what they hold, and note which they are."""
    connection.execute(script("macros"))
    columns = connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = current_database() "
        "AND schema_name = 'main' AND list_contains(?, table_name) ORDER BY table_name, column_index",
        [list(VIEWS)],
    ).fetchall()
    connection.execute(comments_on(columns))
    connection.execute("INSERT INTO obeql_store.view_rows VALUES (?, ?, ?)", [digest(), sorted(names()), utc_now()])
