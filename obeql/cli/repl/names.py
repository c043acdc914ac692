"""The names a database knows, for completion: gathered between statements, so that typing never queries."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from obeql.session.session import Session

__all__ = ["Names", "gather", "gather_from"]

#: Names of one kind that are kept; a list longer than this helps nobody.
_MOST = 2000


@dataclass(frozen=True, slots=True)
class Names:
    """`classes` are the class names by model, in lower case; `functions` are DuckDB's, macros among them."""

    models: tuple[str, ...] = ()
    image_sets: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tables: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()


def gather(session: Session) -> Names:
    """Ask a session for all names; kinds that cannot be asked now, as in a failed transaction, are empty."""
    return gather_from(session.connection)


def gather_from(connection: DuckDBPyConnection) -> Names:
    """Return what `gather` does, from a connection to the database."""
    import duckdb  # noqa: PLC0415 - the prompt is shown before it is loaded

    def column(sql: str) -> tuple[str, ...]:
        with suppress(duckdb.Error):
            rows = connection.execute(f"SELECT DISTINCT x FROM ({sql}) WHERE x IS NOT NULL ORDER BY 1 LIMIT {_MOST}")
            return tuple(str(name) for (name,) in rows.fetchall())
        return ()

    models: list[tuple[str, list[str] | None]] = []
    with suppress(duckdb.Error):
        models = connection.execute("SELECT name, classes FROM models ORDER BY lower(name)").fetchall()
    return Names(
        models=tuple(name for name, _ in models),
        image_sets=column("SELECT name AS x FROM image_sets"),
        images=column("SELECT name AS x FROM images"),
        runs=column("SELECT run_name AS x FROM runs"),
        classes={name.lower(): tuple(classes or ()) for name, classes in models},
        tables=column(
            "SELECT table_name AS x FROM duckdb_tables() WHERE NOT internal AND schema_name <> 'obeql_store' "
            "UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal"
        ),
        columns=column(
            "SELECT column_name AS x FROM duckdb_columns() WHERE NOT internal AND schema_name <> 'obeql_store'"
        ),
        functions=column(
            "SELECT function_name AS x FROM duckdb_functions() WHERE function_type IN ('macro', 'table_macro') "
            "AND NOT internal UNION ALL SELECT function_name FROM duckdb_functions() "
            "WHERE function_type IN ('scalar', 'aggregate', 'table') AND regexp_full_match(function_name, '[a-z]\\w+') "
            "AND NOT starts_with(function_name, '__')"
        ),
    )
