"""Check the tables, views and macros that a file has and bring them up to date; add them to a file of others.

Before it: `driver` has opened the file; a new one has all of them by then. After it: every other module of
`obeql.store` may rely on the schema. The tables hold what users have and are only added to; views and macros are made
from them, so that an upgrade drops and creates those.
"""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from obeql.errors import StoreError
from obeql.store import fresh
from obeql.store.codec import utc_now
from obeql.store.driver import Database
from obeql.store.fresh import CHANGES, SCHEMA, SCHEMA_VERSION, TABLES, script

__all__ = ["ADDED", "SCHEMA_VERSION", "prepare_schema", "table_definition"]

_CREATED = re.compile(r"^CREATE (?:VIEW|MACRO) (\w+)(?![\w.])", re.MULTILINE)

#: Views and macros that versions added. An upgrade replaces those the file has; a name that came later may be a user's.
ADDED = {
    1: frozenset(
        {"models", "images", "image_sets", "predictions", "runs", "failures", "heatmaps", "cells"}
        | {"box_mean", "cells_between", "map_iou", "map_difference", "score_of", "top_cells"}
    ),
    2: frozenset({"box_cells", "maps_of", "cells_of", "pixel_map", "deletion_order", "centre_of_mass"}),
    3: frozenset({"evaluations"}),
    5: frozenset({"run_of", "image_of"}),
    6: frozenset({"importance_of", "windows"}),
}


def prepare_schema(database: Database) -> None:
    """Create the schema where it is missing; raise StoreError where it cannot be, or is newer than this program."""
    if Path(database.path).stem.lower() == SCHEMA:
        raise StoreError(
            f"a database cannot be named {Path(database.path).name!r}: its tables live in a schema {SCHEMA}"
        )
    try:
        ((version,),) = database.rows(f"SELECT max(version) FROM {SCHEMA}.schema_version")
    except StoreError as error:
        if not isinstance(error.__cause__, duckdb.CatalogException):
            raise
        if database.read_only:
            raise StoreError(
                f"{database.path!r} is a DuckDB file without heat maps; open it without read_only to add them"
            ) from None
        _create(database)
        return
    if version is None or version > SCHEMA_VERSION:
        raise StoreError(
            f"the database {database.path!r} has schema version {version}, this program knows versions up to "
            f"{SCHEMA_VERSION}; upgrade OBEQL to open it"
        )
    if version < SCHEMA_VERSION and not database.read_only:  # what is read only is read with the views it has
        _upgrade(database, version)


def table_definition(table: str) -> str:
    """Return the CREATE TABLE of a base table that is as it was in the first version."""
    tables = script(TABLES[1])
    start = tables.index(f"CREATE TABLE {SCHEMA}.{table} (")
    return tables[start : tables.index(";", start)]


def _create(database: Database) -> None:
    """Add the schema to a file of others."""
    _require_free(database, frozenset())
    with database.transaction():
        database.change(fresh.make)
        database.change(fresh.complete)
    database.checkpoint()


def _upgrade(database: Database, version: int) -> None:
    """Add the tables that came after an earlier version, and replace its views and macros."""
    own = frozenset().union(*(names for since, names in ADDED.items() if since <= version))
    _require_free(database, own)
    with database.transaction():
        for kind, name in _taken(database):
            if name.lower() in own:
                database.run(f'DROP {kind.upper()} main."{name}"')
        inner = "SELECT view_name FROM duckdb_views() WHERE database_name = current_database() AND schema_name = ?"
        for (name,) in database.rows(inner, [SCHEMA]):
            database.run(f"DROP VIEW {SCHEMA}.{name}")
        for scripts in (TABLES, CHANGES, {SCHEMA_VERSION: "views"}):
            for since, name in scripts.items():
                if since > version:
                    database.run(script(name))
        database.change(fresh.complete)
        database.append_row("schema_version", version=SCHEMA_VERSION, written_at=utc_now())
    database.checkpoint()


def _require_free(database: Database, own: frozenset[str]) -> None:
    """Raise StoreError where a name that the schema needs is a user's; `own` are those known to be ours."""
    wanted = {name.lower() for text in ("views", "macros") for name in _CREATED.findall(script(text))} - own
    clashes = {f"{kind} {name!r}" for kind, name in _taken(database) if name.lower() in wanted}
    if not own and database.rows(
        "SELECT 1 FROM duckdb_schemas() WHERE database_name = current_database() AND schema_name = ?", [SCHEMA]
    ):
        clashes.add(f"schema {SCHEMA!r}")
    if clashes:
        raise StoreError(
            f"{database.path!r} already has the {' and the '.join(sorted(clashes)).replace('macro table', 'macro')}, "
            "a name that OBEQL needs for itself; rename it or use another file"
        )


def _taken(database: Database) -> list[tuple[str, str]]:
    """(kind, name) of what a user sees in the file: tables, views, macros of values and of tables."""
    return [
        (str(kind), str(name))
        for kind, name in database.rows(
            "SELECT 'table', table_name FROM duckdb_tables() WHERE database_name = current_database() "
            "AND schema_name = 'main' "
            "UNION ALL SELECT 'view', view_name FROM duckdb_views() WHERE database_name = current_database() "
            "AND schema_name = 'main' AND NOT internal "
            "UNION ALL SELECT DISTINCT CASE function_type WHEN 'table_macro' THEN 'macro table' ELSE 'macro' END, "
            "function_name FROM duckdb_functions() WHERE database_name = current_database() "
            "AND schema_name = 'main' AND NOT internal"
        )
    ]
