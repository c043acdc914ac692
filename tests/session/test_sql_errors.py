"""DuckDB's errors: with the line and the column of the script, and a caret."""

from __future__ import annotations

from typing import Any

import pytest

from obeql.cli.runner import Runner
from obeql.errors import QueryError, QueryTypeError


@pytest.mark.parametrize(
    ("script", "place", "said"),
    [
        ("SELECT * FORM x", (1, 15), "syntax error"),
        ("SELECT 1;\n\n  SELECT 1,\n    nosuch FROM range(3)", (4, 5), "nosuch"),
        ("SELECT * FROM nope", (1, 15), "nope"),
        ("SELECT 'é日', x2", (1, 14), "x2"),
        ("SELECT\t1,\tzz", (1, 11), "zz"),
        ("SELECT " + "1 + " * 60 + "foo", (1, 248), "foo"),
        ("SELECT foo, " + "1 + " * 60 + "1", (1, 8), "foo"),
        ("SELECT nosuch(1)", (1, 8), "nosuch"),
        ("SELECT 1; INSERT INTO nowhere VALUES (1)", (1, 23), "nowhere"),
        ("DROP TABLE nowhere", (1, 12), "nowhere"),
        ("SELECT 'abc", (1, 8), "unterminated"),
        ("CREATE TEMP TABLE t AS SELECT 1 AS a; SELECT a, b FROM t", (1, 49), '"b"'),
        ("SELECT path FROM typo", (1, 18), "typo"),
    ],
)
def test_the_place_is_that_of_the_script(db: Any, script: str, place: tuple[int, int], said: str) -> None:
    with pytest.raises(QueryError, match=said) as caught:
        db.execute(script)
    error = caught.value
    assert (error.line, error.column) == place
    shown, caret = error.context.split("\n")
    assert caret.strip() == "^" and "LINE" not in str(error) and len(shown) == len(shown.rstrip("\n"))
    assert db.execute("SELECT 1").fetchall() == [(1,)]


def test_a_pending_result_and_a_transaction_outlive_the_question(db: Any) -> None:
    db.execute("BEGIN; CREATE TABLE kept AS SELECT 1 AS a;")
    with pytest.raises(QueryError, match="nope"):
        db.execute("SELECT nope FROM kept")
    assert db.execute("SELECT a FROM kept").fetchall() == [(1,)]
    db.execute("COMMIT")
    assert db.execute("SELECT a FROM kept").fetchall() == [(1,)]


def test_many_candidates_are_cut(db: Any) -> None:
    with pytest.raises(QueryError, match=r"\.\. and \d+ more") as caught:
        db.execute("SELECT 1 + 'a'::INT[]")
    assert str(caught.value).count("\n") < 12


def test_an_error_met_while_rows_are_read_has_its_place_too(db: Any) -> None:
    with pytest.raises(QueryError, match="Could not convert") as caught:
        Runner(db, "csv").run("SELECT 1;\nSELECT CAST('x' AS INT)")
    assert (caught.value.line, caught.value.column) == (2, 8)


def test_a_select_that_names_images_is_placed_inside(net_db: Any) -> None:
    with pytest.raises(QueryTypeError, match="The SELECT that names the images fails") as caught:
        net_db.execute("EXPLAIN OCCLUDE (\n  SELECT path FROM nope\n) USING net")
    assert (caught.value.line, caught.value.column) == (2, 20)
