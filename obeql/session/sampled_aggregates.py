"""Aggregates that a sample of the windows tells: what a window adds to them, and the SQL that adds up the sample.

Between `pushdown`, which found the aggregates in SQL, and `embedded`, which runs the SQL. While windows are computed,
DuckDB is asked what they add; afterwards every window that was drawn has a weight, the number of windows that it stands
for, and the aggregates of the SQL are those of weighted rows. Each gets a further column with its error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from obeql.planner.aggregates import AggregateAim, draw_sample
from obeql.planner.pushdown.aims import AGGREGATES, aggregate_nodes
from obeql.planner.pushdown.tree import Tree, arguments_of, nodes
from obeql.session.derived_tables import Rows, sql_beside
from obeql.session.query_trees import QueryTrees, marked_values
from obeql.store import Store

__all__ = ["SampledAggregates"]

_WEIGHT, _ERROR = "obeql_weight", "obeql_error_"

#: What tells the windows of a run apart, beside the columns that are asked for.
_KEYS = ("#image_id", "#class_id", "#row", "#col")
_WINDOWS = """
SELECT {columns}, image_id AS "#image_id", class_id AS "#class_id", "row" AS "#row", col AS "#col"
FROM {views}.windows WHERE run_id = {run_id}
"""


class SampledAggregates:
    """Reads the SQL of aggregates, and adds up a sample, on the connection of users' SQL."""

    def __init__(self, store: Store, views: str) -> None:
        self._store = store
        self._views = views
        self._trees = QueryTrees(store)

    def ask_columns(
        self, alias: str, values: Mapping[str, Any]
    ) -> Callable[[AggregateAim, Mapping[str, npt.NDArray[Any]]], npt.NDArray[np.float64]]:
        """Return what asks DuckDB for the columns of an aim, of rows that the SQL knows as `alias`."""
        quoted = '"' + (alias or "obeql_rows").replace('"', '""') + '"'

        def ask(aim: AggregateAim, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
            n_rows = len(columns["row"])
            rows = pa.table({"obeql_place": np.arange(n_rows), **columns})
            shown = ", ".join(f"({each.sql})::DOUBLE" for each in aim.columns)
            sql = f'SELECT {shown} FROM "#rows" AS {quoted} ORDER BY obeql_place'
            named = marked_values(sql, values)

            def run(connection: duckdb.DuckDBPyConnection) -> Any:
                return sql_beside(connection, sql, {"#rows": lambda _: rows}, named).fetchall()

            found = np.array(self._store.on_connection(run), float)  # None is NaN
            return found.reshape(n_rows, len(aim.columns)).T

        return ask

    def rows(self, run_id: int, aim: AggregateAim, columns: str, query: str) -> Rows:
        """Return the windows that a run has drawn, with their weights, and the errors of their map.

        Only the columns that the `query` names. Windows and weights are joined by Arrow: DuckDB 2.0 fails where strings
        come out of a join of two that are this large ("global dictionary column changed identity").
        """
        named = {
            str(name).lower() for node in nodes(self._trees.tree(query)) for name in node.get("column_names") or ()
        }
        sql = _WINDOWS.format(columns=columns, views=self._views, run_id=run_id)

        def read(connection: duckdb.DuckDBPyConnection) -> Any:
            found = connection.sql(sql)
            shown = [name for name in found.columns if name.lower() in named or name in _KEYS]
            return found.select(*(duckdb.ColumnExpression(name) for name in shown)).to_arrow_table()

        windows = self._store.on_connection(read)
        drawn = self._drawn(run_id, aim)
        drawn = drawn.cast(
            pa.schema(
                [
                    (name, windows.schema.field(name).type if name in _KEYS else kind)
                    for name, kind in zip(drawn.column_names, drawn.schema.types, strict=True)
                ]
            )
        )
        rows = windows.join(drawn, list(_KEYS), join_type="inner").drop_columns(list(_KEYS))
        return lambda _: rows

    def _drawn(self, run_id: int, aim: AggregateAim) -> pa.Table:
        sql = f'SELECT image_id, class_id, "rows", cols, quality FROM {self._views}.heatmaps WHERE run_id = {run_id}'
        maps = self._store.on_connection(lambda connection: connection.sql(sql).fetchall())
        n_errors = len(aim.selected)
        parts: list[dict[str, npt.NDArray[Any]]] = []
        for image_id, class_id, n_rows, n_cols, stated in maps:
            quality = json.loads(stated) if stated else {}
            sample = quality.get("sample") or {"level": None}
            weights = np.ones((n_rows, n_cols))
            if sample["level"] is not None:
                weights = draw_sample((n_rows, n_cols), sample["seed"], sample["level"]).weights
            row, col = np.nonzero(weights)
            told = quality.get("aggregates") or [{"error": 0.0}] * n_errors
            errors = [np.full(len(row), np.nan if each["error"] is None else each["error"]) for each in told]
            part = {"#image_id": np.full(len(row), image_id), "#class_id": np.full(len(row), class_id)}
            part |= {"#row": row, "#col": col, _WEIGHT: weights[row, col]}
            parts.append(part | {f"{_ERROR}{place}": error for place, error in enumerate(errors)})
        return pa.concat_tables([pa.table(part) for part in parts])

    def rewritten(self, query: str, aim: AggregateAim) -> str:
        """Return SQL whose aggregates are those of weighted rows, with a further column for the error of each item."""
        tree = self._trees.tree(query)
        assert tree is not None
        select: Tree = tree["statements"][0]["node"]
        for item in select["select_list"]:
            if next(aggregate_nodes({"select_list": [item]}), None) is not None and not item.get("alias"):
                item["alias"] = self._trees.text(item)
        for node in list(aggregate_nodes(select)):
            alias = node.get("alias", "")
            weighted = self._trees.expression(self._weighted(node))
            node.clear()
            node.update(weighted | {"alias": alias})
        names = [name for name, _ in aim.selected]
        for place, name in enumerate(names):
            if name:
                error = self._trees.expression(f"any_value({_ERROR}{place})")
                select["select_list"].append(error | {"alias": f"{name}_error"})
        return self._trees.query(tree)

    def _weighted(self, node: Tree) -> str:
        """Return the SQL of an aggregate over weighted rows."""
        name, parts = str(node["function_name"]).lower(), arguments_of(node)
        value = self._trees.text(parts[0]) if parts else "1"
        asked = [] if node.get("filter") is None else [self._trees.text(node["filter"])]
        if name == "count_if":
            asked, value = [*asked, value], "1"
        counted = " AND ".join(f"({each})" for each in (*asked, f"({value}) IS NOT NULL"))
        total = f"sum({_WEIGHT} * ({value})::DOUBLE) FILTER (WHERE {counted})"
        n_rows = f"sum({_WEIGHT}) FILTER (WHERE {counted})"
        made = {"Sum": total, "Mean": f"({total} / {n_rows})", "Count": f"coalesce(round({n_rows}), 0)::BIGINT"}
        return made[AGGREGATES[name].__name__]
