"""The rules of push-down by themselves: examples that hold, and what is read of DuckDB's tree."""

from __future__ import annotations

import doctest
import json
import sys
from typing import Any

import duckdb
import pytest

from obeql.planner.pushdown.query import Speaker, read_query
from obeql.planner.pushdown.rules import PUSHDOWN_RULES

COLUMNS = {
    "#1": frozenset(("image", "label", "path", "image_id", "top_px", "importance")),
    "#2": frozenset(("image", "path", "image_id", "probability")),
}


@pytest.mark.parametrize("rule", PUSHDOWN_RULES, ids=lambda rule: rule.__name__)
def test_a_rule_has_a_file_of_its_name_and_an_example_that_holds(rule: Any) -> None:
    assert rule.__module__ == f"obeql.planner.pushdown.rules.{rule.__name__}"
    n_failed, n_tried = doctest.testmod(sys.modules[rule.__module__])
    assert n_tried and not n_failed


def read(sql: str, table: str = "#1") -> Any:
    connection = duckdb.connect()
    ((text,),) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    tree = json.loads(text)

    def shown(expression: dict[str, Any]) -> str:
        return " ".join(expression.get("column_names", [expression["type"]]))

    return read_query(
        tree,
        table,
        COLUMNS,
        frozenset(["#2"]),
        Speaker(shown, lambda name: name not in ("random", "max"), lambda name: name == "max"),
    )


M, P = '(FROM "#1")', '(FROM "#2")'


@pytest.mark.parametrize(
    ("sql", "n_conditions"),
    [
        (f"SELECT 1 FROM {M} WHERE label = 'x'", 1),
        (f"SELECT 1 FROM {M} AS m WHERE m.label = 'x' AND M.TOP_PX > 1 AND n.label = 2", 2),
        (f"SELECT 1 FROM {M} m LEFT JOIN t ON true WHERE m.label = 'x'", 1),
        (f"SELECT 1 FROM t RIGHT JOIN {M} m ON true WHERE m.label = 'x'", 1),
        (f"SELECT 1 FROM t, {M} m WHERE m.label = 'x'", 1),
        (f"WITH m AS {M} SELECT 1 FROM m AS k WHERE k.label = 'x'", 1),
        (f"SELECT 1 WHERE 1 IN (SELECT top_px FROM {M} WHERE label = 'x')", 1),
        (f"SELECT 1 FROM {M} WHERE label = 'x' LIMIT 1", 1),
        (f"SELECT 1 FROM {M} m JOIN {P} p USING (image_id) WHERE image_id = 1 AND label = 'x'", 2),
        (f"SELECT 1 FROM t JOIN {M} m USING (image_id) WHERE image_id = 1", 0),
        (f"SELECT 1 FROM {M} m JOIN (SELECT '1' AS image_id) t USING (image_id) WHERE image_id = 1", 0),
        (f"SELECT 1 FROM t LEFT JOIN {M} m ON true WHERE m.label = 'x'", 0),
        (f"SELECT 1 FROM t FULL JOIN {M} m ON true WHERE m.label = 'x'", 0),
        (f"SELECT 1 FROM t NATURAL JOIN {M} m WHERE m.label = 'x'", 0),
        (f"SELECT 1 FROM t POSITIONAL JOIN {M} m WHERE m.label = 'x'", 0),
        (f"SELECT 1 FROM ({M} LIMIT 3) WHERE label = 'x'", 0),
        (f"SELECT 1 FROM {M} WHERE label = 'x' USING SAMPLE 3", 0),
        (f"SELECT 1 FROM {M} m TABLESAMPLE 3 ROWS WHERE label = 'x'", 0),
        (f"SELECT 1 FROM {M} m(label) WHERE label = 'x'", 0),
        (f"SELECT 1 FROM {M} WHERE random() > top_px", 0),
        (f"SELECT 1 FROM {M} WHERE label = (SELECT 'x')", 0),
        (f"SELECT 1 FROM {M} WHERE list_filter([1], lambda label: label > 1) = [1]", 0),
        (f"SELECT 1 FROM {M} WHERE row_number() OVER (ORDER BY label) > 1", 0),
        (f"WITH m AS {M} SELECT 1 FROM m WHERE label = 'x' UNION ALL SELECT 1 FROM m", 0),
        (f"WITH m(label) AS {M} SELECT 1 FROM m WHERE label = 'x'", 0),
        (f"WITH RECURSIVE r AS (SELECT 1 UNION SELECT top_px FROM {M} WHERE label = 'x') FROM r", 0),
        (f"SELECT 1 FROM {M} UNION SELECT 1 FROM {M} WHERE label = 'x'", 0),
        (f"FROM {M} PIVOT (count(*) FOR label IN ('x'))", 0),
        (f"SELECT 1 FROM {M} HAVING any_value(label) = 'x'", 0),
        (f"SELECT 1 FROM {M} QUALIFY label = 'x'", 0),
        (M, 0),
        # conditions of ON
        (f"SELECT 1 FROM t JOIN {M} m ON m.label = 'x' AND top_px > t.a WHERE m.top_px > 1", 2),
        (f"SELECT 1 FROM t LEFT JOIN {M} m ON m.label = 'x' WHERE m.top_px > 1", 1),
        (f"SELECT 1 FROM {M} m RIGHT JOIN t ON m.label = 'x'", 1),
        (f"SELECT 1 FROM {M} m LEFT JOIN t ON m.label = 'x' WHERE m.top_px > 1", 1),
        (f"SELECT 1 FROM {M} m FULL JOIN t ON m.label = 'x'", 0),
        (f"SELECT 1 FROM {M} m SEMI JOIN t ON m.label = 'x'", 1),
        (f"SELECT 1 FROM {M} m ANTI JOIN t ON m.label = 'x'", 0),
        (f"SELECT 1 FROM t ANTI JOIN {M} m ON m.label = 'x'", 1),
        (f"SELECT 1 FROM s LEFT JOIN ({M} m JOIN t ON m.label = 'x') ON m.top_px = 0 AND s.a", 2),
        (f"SELECT 1 FROM (s LEFT JOIN {M} m ON m.label = 'x') JOIN t ON m.top_px = 0", 1),
        # queries over predictions
        (f"SELECT 1 FROM {M} WHERE image IN (SELECT image FROM {P} WHERE probability < 0.7)", 1),
        (f"SELECT 1 FROM {M} m WHERE NOT EXISTS (FROM {P} p WHERE p.path = m.path)", 1),
        (f"SELECT 1 FROM {M} m WHERE m.label = (SELECT max(image) FROM {P})", 1),
        (f"WITH p AS {P} SELECT 1 FROM {M} WHERE image NOT IN (SELECT p.image FROM p)", 1),
        (f"SELECT 1 FROM {M} WHERE image IN (SELECT image FROM {P} ORDER BY probability LIMIT 3)", 1),
        (f"SELECT 1 FROM {M} WHERE image IN (SELECT image FROM {P} LIMIT 3)", 0),
        (f"SELECT 1 FROM {M} WHERE image IN (SELECT image FROM {P} WHERE random() < 1)", 0),
        (f"SELECT 1 FROM {M} WHERE image IN (SELECT image FROM {P} JOIN t USING (path))", 0),
        (f"WITH p AS (FROM {P} LIMIT 2) SELECT 1 FROM {M} WHERE image IN (SELECT image FROM p)", 0),
        (f"SELECT 1 FROM {M} m, t WHERE m.image IN (SELECT image FROM {P} p WHERE p.path = t.path)", 0),
        (f"SELECT 1 FROM t LEFT JOIN {M} m ON true WHERE m.image IN (SELECT image FROM {P})", 0),
    ],
)
def test_which_conditions_every_row_has_to_meet(sql: str, n_conditions: int) -> None:
    assert len(read(sql).conditions) == n_conditions


@pytest.mark.parametrize(
    ("sql", "column"),
    [
        (f"SELECT 1 FROM {M} m JOIN {P} p USING (path) WHERE p.probability < 1", "path"),
        (f"SELECT 1 FROM {P} p JOIN {M} m ON p.image_id = m.image_id AND p.rank = 1", "image_id"),
        (f"WITH p AS {P} SELECT 1 FROM {M} m JOIN p USING (image)", "image"),
        (f"SELECT 1 FROM ({M} m JOIN {P} p ON p.path = m.path) LEFT JOIN t ON true", "path"),
        (f"SELECT 1 FROM {M} m LEFT JOIN {P} p USING (path)", None),
        (f"SELECT 1 FROM {P} p RIGHT JOIN {M} m USING (path)", None),
        (f"SELECT 1 FROM {M} m JOIN {P} p ON p.path = m.path OR true", None),
        (f"SELECT 1 FROM {M} m JOIN {P} p ON p.path = m.image", None),
        (f"SELECT 1 FROM {M} m SEMI JOIN {P} p USING (path)", "path"),
        (f"SELECT 1 FROM t LEFT JOIN ({M} m JOIN {P} p ON p.path = m.path) ON true", "path"),
        (f"SELECT 1 FROM {M} m JOIN (t LEFT JOIN {P} p ON true) ON p.path = m.path", "path"),
        (f"SELECT 1 FROM {M} m JOIN ({P} p RIGHT JOIN t ON true) ON p.path = m.path", "path"),
        (f"SELECT 1 FROM {P} p SEMI JOIN {M} m USING (path)", None),
        (f"SELECT 1 FROM {M} m ANTI JOIN {P} p USING (path)", None),
        (f"SELECT 1 FROM {M} m, {P} p", None),
    ],
)
def test_which_predictions_are_joined(sql: str, column: str | None) -> None:
    assert [join.column for join in read(sql).joins] == ([] if column is None else [column])
