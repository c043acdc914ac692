"""Check the tables, views and macros that a file has and bring them up to date; add them to a file of others.

Before it: `driver` has opened the file; a new one has all of them by then. After it: every other module of
`obeql.store` may rely on the schema. The tables hold what users have and are only added to; views and macros are made
from them, so that an upgrade drops and creates those.
"""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress
from pathlib import Path

import duckdb

from obeql.errors import StoreError
from obeql.store import fresh
from obeql.store.codec import utc_now
from obeql.store.driver import Database
from obeql.store.fresh import CHANGES, SCHEMA, SCHEMA_VERSION, TABLES, script

__all__ = ["ADDED", "SCHEMA_VERSION", "prepare_schema", "table_definition"]

#: Views and macros that versions added up to the one from which on a file remembers the names of its own.
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
        version, digest, own = _last_made(database)
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
    if database.read_only:
        return  # it is read with the views it has
    if version < SCHEMA_VERSION:
        _upgrade(database, version, own)
        return
    if digest and digest != fresh.digest():
        _require_free(database, own)
        # Where Parquet files are lost that a view reads, it cannot be made anew: views stay as they are meanwhile.
        with suppress(StoreError):
            _renew_views(database, own)


def _last_made(database: Database) -> tuple[int | None, str, frozenset[str]]:
    """Return the file's version, and the digest and names of its views; none of those in memory, or of old versions.

    Of a database in memory, macros are made when SQL of users comes.
    """
    version = f"SELECT max(version) FROM {SCHEMA}.schema_version"
    views = f"FROM {SCHEMA}.view_rows ORDER BY rowid DESC LIMIT 1"
    try:
        rows = database.rows(f"SELECT ({version}), (SELECT digest {views}), (SELECT names {views})")
    except StoreError as error:
        if not isinstance(error.__cause__, duckdb.CatalogException):
            raise
        rows = [(*each, "", []) for each in database.rows(version)]
    ((found, digest, names),) = rows
    return found, digest or "", frozenset(names or ())


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


def _upgrade(database: Database, version: int, own: Set[str]) -> None:
    """Add the tables that came after an earlier version, and replace its views and macros."""
    own = frozenset(own).union(*(names for since, names in ADDED.items() if since <= version))
    _require_free(database, own)
    with database.transaction():
        of_maps = _drop_views(database, own)
        for scripts in (TABLES, CHANGES):
            for since, name in scripts.items():
                if since > version:
                    database.run(script(name))
        _make_views(database, of_maps)
        database.append_row("schema_version", version=SCHEMA_VERSION, written_at=utc_now())
    database.checkpoint()


def _renew_views(database: Database, own: Set[str]) -> None:
    """Replace views and macros, whose names are `own`, by those of this program."""
    with database.transaction():
        _make_views(database, _drop_views(database, own))
    database.checkpoint()


def _drop_views(database: Database, own: Set[str]) -> str:
    """Drop views and macros that are ours; returns the definition of the view of maps, which names Parquet files."""
    for kind, name in _taken(database):
        if name.lower() in own:
            database.run(f'DROP {kind.upper()} main."{name}"')
    of_maps = ""
    inner = "SELECT view_name, sql FROM duckdb_views() WHERE database_name = current_database() AND schema_name = ?"
    for name, sql in database.rows(inner, [SCHEMA]):
        database.run(f"DROP VIEW {SCHEMA}.{name}")
        if name == "map_rows" and "read_parquet(" in sql:
            of_maps = sql
    return of_maps


def _make_views(database: Database, of_maps: str) -> None:
    """Make views and macros, that of maps as it was where it names Parquet files."""
    database.run(script("views"))
    if of_maps:
        database.run(of_maps.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))
    database.change(fresh.complete)


def _require_free(database: Database, own: Set[str]) -> None:
    """Raise StoreError where a name that the schema needs is a user's; `own` are those known to be ours."""
    wanted = fresh.names() - own
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
    """Return (kind, name) of what a user sees in the file: tables, views, macros of values and of tables."""
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
