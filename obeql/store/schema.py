"""Create the tables, views and macros of a store, or check those a file already has.

Before it: `driver` has opened the file. After it: every other module of `obeql.store` may rely on the schema.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from obeql.errors import StoreError
from obeql.store.codec import utc_now
from obeql.store.driver import Database

__all__ = ["SCHEMA_VERSION", "prepare_schema"]

#: Raised by one with every change of tables.sql, views.sql or macros.sql that older programs cannot read.
SCHEMA_VERSION = 1

_SCHEMA = "obeql_store"
_CREATED = re.compile(r"^CREATE (?:VIEW|MACRO) (\w+)", re.MULTILINE)


def prepare_schema(database: Database) -> None:
    """Create the schema where it is missing; raise StoreError where it cannot be, or is newer than this program."""
    if Path(database.path).stem.lower() == _SCHEMA:
        raise StoreError(f"a store cannot be named {Path(database.path).name!r}: its tables live in a schema {_SCHEMA}")
    if not _has_version_table(database):
        if database.read_only:
            raise StoreError(
                f"{database.path!r} is a DuckDB file without heat maps; open it without read_only to add them"
            )
        _create(database)
        return
    ((version,),) = database.rows(f"SELECT max(version) FROM {_SCHEMA}.schema_version")
    if version is None or version > SCHEMA_VERSION:
        raise StoreError(
            f"the store {database.path!r} has schema version {version}, this program knows versions up to "
            f"{SCHEMA_VERSION}; upgrade OBEQL to open it"
        )


def _has_version_table(database: Database) -> bool:
    return bool(
        database.rows(
            "SELECT 1 FROM duckdb_tables() WHERE database_name = current_database() "
            "AND schema_name = ? AND table_name = 'schema_version'",
            [_SCHEMA],
        )
    )


def _create(database: Database) -> None:
    folder = files("obeql.store")
    scripts = [folder.joinpath(f"{name}.sql").read_text("utf-8") for name in ("tables", "views", "macros")]
    wanted = {name.lower() for script in scripts[1:] for name in _CREATED.findall(script)}
    taken = database.rows(
        "SELECT 'table', table_name FROM duckdb_tables() WHERE database_name = current_database() "
        "AND schema_name = 'main' "
        "UNION ALL SELECT 'view', view_name FROM duckdb_views() WHERE database_name = current_database() "
        "AND schema_name = 'main' AND NOT internal "
        "UNION ALL SELECT 'macro', function_name FROM duckdb_functions() WHERE database_name = current_database() "
        "AND schema_name = 'main' AND NOT internal "
        "UNION ALL SELECT 'schema', schema_name FROM duckdb_schemas() WHERE database_name = current_database() "
        "AND schema_name = ?",
        [_SCHEMA],
    )
    clashes = sorted({f"{kind} {name!r}" for kind, name in taken if name.lower() in wanted or kind == "schema"})
    if clashes:
        raise StoreError(
            f"{database.path!r} already has the {' and the '.join(clashes)}, a name the store needs for itself; "
            "rename it or use another file"
        )
    with database.transaction():
        for script in scripts:
            database.run(script)
        database.append_row("schema_version", version=SCHEMA_VERSION, written_at=utc_now())
    database.checkpoint()
