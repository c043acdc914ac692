"""Which SQL only reads what is in the database: no file, no other machine, nothing of this process.

Asked by `guard` and `reader` before a page's SQL runs. DuckDB gives the tree of a SELECT; all it has that opens a file
is a table function or a table named like a path, so those that are known not to are listed here, and all others are
refused. Where the page has the process for itself, `enable_external_access` is off besides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from obeql.errors import QueryTypeError, UnsupportedError

__all__ = ["ALLOW_FILES", "require_reading"]

#: How the page is started so that statements may name files.
ALLOW_FILES = "obeql ui --allow-files (allow_files=True in Python)"

#: Table functions of DuckDB that read the database, or nothing at all.
_HARMLESS = frozenset(
    [
        "duckdb_columns",
        "duckdb_constraints",
        "duckdb_databases",
        "duckdb_functions",
        "duckdb_indexes",
        "duckdb_keywords",
        "duckdb_schemas",
        "duckdb_sequences",
        "duckdb_tables",
        "duckdb_types",
        "duckdb_views",
        "generate_series",
        "json_each",
        "json_tree",
        "pragma_database_size",
        "pragma_show",
        "pragma_storage_info",
        "pragma_table_info",
        "pragma_version",
        "range",
        "regexp_split_to_table",
        "repeat",
        "repeat_row",
        "summary",
        "unnest",
    ]
)

_TABLES = (
    "SELECT lower(table_name) FROM duckdb_tables() UNION SELECT lower(view_name) FROM duckdb_views() "
    "UNION SELECT lower(table_name) FROM information_schema.tables"
)
_MACROS = "SELECT lower(function_name) FROM duckdb_functions() WHERE function_type = 'table_macro' AND NOT internal"
_UNSTEADY = "SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE stability = 'VOLATILE'"
#: Functions that change something although they stand in a SELECT.
_CHANGING = frozenset(("nextval", "setval", "write_log", "setseed"))


def require_reading(
    connection: duckdb.DuckDBPyConnection, sql: str, steady: bool = False, beside: Sequence[str] = ()
) -> None:
    """Raise UnsupportedError, saying what is in the way, unless `sql` is one SELECT that only reads the database.

    DESCRIBE, SUMMARIZE and SHOW count as such. With `steady` it must also give the same answer each time. `beside` are
    names of tables that the statement brings along. Raises DuckDB's own error where the text does not parse.
    """
    if len(connection.extract_statements(sql)) != 1:
        raise UnsupportedError("The page runs one SQL statement at a time.")
    ((text,),) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    tree = json.loads(text)
    if tree["error"] and tree.get("error_type") == "parser":
        raise QueryTypeError(str(tree.get("error_message")))
    if tree["error"]:
        raise UnsupportedError(
            f"The page's SQL reads (SELECT, FROM, DESCRIBE, SUMMARIZE, SHOW); what writes needs {ALLOW_FILES}."
        )
    nodes = list(_nodes(tree["statements"]))
    own = {entry["key"].lower() for node in nodes for entry in node.get("cte_map", {}).get("map", ())}
    own |= set(beside) | {str(node["cte_name"]).lower() for node in nodes if "cte_name" in node}
    tables, macros, unsteady = (_names(connection, query) for query in (_TABLES, _MACROS, _UNSTEADY))
    for node in nodes:
        match node.get("type"):
            case "BASE_TABLE" | "SHOW_REF" if (name := str(node.get("table_name", ""))) and not _is_special(node):
                if name.lower() not in tables | own:
                    raise UnsupportedError(
                        f"There is no table or view {name!r} in the database; to read files from the page, start it "
                        f"with {ALLOW_FILES}."
                    )
            case "TABLE_FUNCTION":
                function = str(node.get("function", {}).get("function_name", ""))
                if function.lower() not in _HARMLESS | macros:
                    raise UnsupportedError(f"{function}() reads more than the database; that needs {ALLOW_FILES}.")
            case "FUNCTION" if (function := str(node.get("function_name", "")).lower()) in _CHANGING:
                raise UnsupportedError(f"{function}() changes something; that needs {ALLOW_FILES}.")
            case "FUNCTION" if steady and function in unsteady:
                raise UnsupportedError(
                    f"{function}() gives another answer each time; a SELECT that names images must not."
                )


def _is_special(node: dict[str, Any]) -> bool:
    """Return whether a node is `SHOW TABLES` and the like, which name no table."""
    return node.get("type") == "SHOW_REF" and node.get("query") is None


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _names(connection: duckdb.DuckDBPyConnection, query: str) -> frozenset[str]:
    return frozenset(str(name) for (name,) in connection.execute(query).fetchall())
