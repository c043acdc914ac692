"""DuckDB's trees of queries and expressions, and what DuckDB makes of them: text, values.

Used by `pushdown` and `sampled_aggregates`, on the connection of users' SQL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import duckdb

from obeql.grammar.scanner import scan
from obeql.planner.pushdown.tree import Tree
from obeql.store import Store

__all__ = ["QueryTrees", "marked_values"]


class QueryTrees:
    """Parses SQL into trees and prints trees as SQL, as DuckDB does."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def tree(self, query: str) -> Tree | None:
        """Return the tree of a query; None for SQL that DuckDB makes no tree of."""
        ((text,),) = self._rows("SELECT json_serialize_sql(?)", [query])
        tree: Tree = json.loads(text)
        return None if tree["error"] else tree

    def query(self, tree: Tree) -> str:
        """Return the SQL of a tree."""
        ((text,),) = self._rows("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)])
        return str(text)

    def text(self, expression: Tree) -> str:
        """Return the SQL of an expression."""
        tree = self.tree("SELECT 1")
        assert tree is not None
        tree["statements"][0]["node"]["select_list"] = [{**expression, "alias": ""}]
        return self.query(tree).removeprefix("SELECT ")

    def expression(self, sql: str) -> Tree:
        """Return the tree of an expression."""
        tree = self.tree(f"SELECT {sql}")
        assert tree is not None
        found: Tree = tree["statements"][0]["node"]["select_list"][0]
        return found

    def value(self, expression: Tree, values: Mapping[str, Any]) -> Any:
        """Return the value of an expression without columns; None where it has none."""
        sql = f"SELECT {self.text(expression)}"
        try:
            return self._rows(sql, marked_values(sql, values))[0][0]
        except duckdb.Error:
            return None

    def _rows(self, sql: str, values: Any) -> list[tuple[Any, ...]]:
        found = self._store.on_connection(lambda connection: connection.sql(sql, params=values).fetchall())
        return list(found)


def marked_values(sql: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the values of the parameters that stand in a text; None for none."""
    marks = {sql[token.start + 1 : token.end] for token in scan(sql) if token.kind == "parameter"}
    return {name: value for name, value in values.items() if name in marks} or None
