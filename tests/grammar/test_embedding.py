"""Statements in parentheses inside SQL: cut out where they are meant, and only there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obeql.errors import QuerySyntaxError
from obeql.grammar import ExplainOcclude, PlanSql, Predict, SqlStatement, expected, parameters_of, parse_statement
from obeql.grammar.embedding import innermost

#: SQL in which words look like statements, and none is one.
PLAIN = [
    "SELECT '(EXPLAIN OCCLUDE a USING b)'",
    "SELECT 1 -- (EXPLAIN OCCLUDE a USING b)",
    "SELECT 1 /* (PREDICT a USING b) */",
    'SELECT "(PREDICT a USING b)" FROM t',
    "SELECT $$(PREDICT a USING b)$$, $x$ (EXPLAIN OCCLUDE a USING b) $x$",
    "SELECT E'\\'(PREDICT a USING b)'",
    "CREATE TABLE t (predict INTEGER USING COMPRESSION rle, explain VARCHAR)",
    "SELECT * FROM (predict p JOIN b USING (id))",
    "SELECT * FROM (predict p)",
    "SELECT (predict), max(predict ORDER BY explain) FROM predict",
    "SELECT (predict(1)) FROM t JOIN u USING (id)",
    "INSERT INTO t (predict, explain) VALUES (1, 2)",
    "FROM (FROM predict USING SAMPLE 3)",
    "SELECT (explain) FROM explain",
]


@pytest.mark.parametrize("sql", PLAIN)
def test_sql_reaches_duckdb_as_it_is(sql: str) -> None:
    statement = parse_statement(sql)
    assert isinstance(statement, SqlStatement) and not statement.embedded
    assert statement.query == sql


@pytest.mark.parametrize(
    ("sql", "kinds"),
    [
        ("SELECT * FROM (EXPLAIN OCCLUDE a USING b)", [ExplainOcclude]),
        ("SELECT * FROM ( -- maps\n explain /* ) */ occlude 'a)' using b) AS m", [ExplainOcclude]),
        ("FROM (PREDICT a USING b) JOIN (predict 'x.png' using b for top 2) USING (path)", [Predict, Predict]),
        ("COPY (PREDICT ? USING b) TO 'x.csv'", [Predict]),
        ("CREATE TABLE t AS (EXPLAIN OCCLUDE (SELECT ')' AS path) USING b)", [ExplainOcclude]),
        ("SELECT x IN (PREDICT(SELECT path FROM t) USING b)", [Predict]),
        ('SELECT * FROM (predict"a"using"b")', [Predict]),
    ],
)
def test_statements_are_cut_out(sql: str, kinds: list[type]) -> None:
    statement = parse_statement(sql)
    assert isinstance(statement, SqlStatement)
    assert [type(each.statement) for each in statement.embedded] == kinds
    assert len(statement.query) == len(sql) and statement.query.count("\n") <= sql.count("\n")
    for each in statement.embedded:
        assert f'(FROM "{each.table}"' in statement.query
        assert sql[each.span.start - 1] == "(" and sql[each.span.end] == ")"


def test_they_nest_to_any_depth_and_count_their_parameters_together() -> None:
    sql = (
        "SELECT ? FROM (EXPLAIN OCCLUDE (SELECT path FROM (EXPLAIN OCCLUDE (PREDICT ? USING m) USING m WITH patch=?) "
        "WHERE importance > ?) USING m WITH patch=?) WHERE x = ?"
    )
    statement = parse_statement(sql)
    assert isinstance(statement, SqlStatement)
    assert [parameter.index for parameter in parameters_of(statement)] == [1, 2, 3, 4]
    (outer,) = statement.embedded
    (middle,) = outer.statement.source.embedded  # type: ignore[union-attr]
    (inner,) = middle.statement.source.embedded
    assert isinstance(inner.statement, Predict)
    assert outer.statement.source.query.startswith('SELECT path FROM (FROM "#')  # type: ignore[union-attr]


def test_plan_of_sql_is_ours_where_something_is_inside() -> None:
    assert isinstance(parse_statement("PLAN SELECT * FROM (PREDICT a USING b)"), PlanSql)
    assert isinstance(parse_statement("PLAN WITH m AS (PREDICT a USING b) FROM m"), PlanSql)
    with pytest.raises(QuerySyntaxError, match="EXPLAIN SELECT"):
        parse_statement("PLAN SELECT 1")


@pytest.mark.parametrize(
    ("sql", "place", "said"),
    [
        ("SELECT *\nFROM (EXPLAIN OCCLUDE a USING b", (2, 6), "this parenthesis is not closed"),
        ("SELECT * FROM (EXPLAIN OCLUDE a USING b)", (1, 24), "OCCLUDE"),
        ("SELECT * FROM (EXPLIAN OCCLUDE a USING b)", (1, 16), "EXPLAIN"),
        ("SELECT * FROM (EXPLAIN OCCLUDE a)", (1, 33), "expected USING"),
        ("SELECT * FROM (PREDICT a USNG b)", (1, 26), "USING"),
        ("SELECT * FROM (PREDICT a USING b\n FOR TOP x)", (2, 10), "whole number"),
        ("SELECT * FROM (PLAN EXPLAIN OCCLUDE a USING b)", (1, 16), "PLAN SELECT"),
        ("SELECT * FROM (EXPLAIN OCCLUDE a USING b INTO 'x)", (1, 47), "string is not closed"),
        ("EXPLAIN OCCLUDE (PREDICT a) USING b", (1, 27), "expected USING"),
    ],
)
def test_mistakes_are_placed_in_the_whole_text(sql: str, place: tuple[int, int], said: str) -> None:
    with pytest.raises(QuerySyntaxError, match=said) as caught:
        parse_statement(sql)
    assert (caught.value.line, caught.value.column) == place


@pytest.mark.parametrize(
    ("text", "terminal"),
    [
        ("SELECT * FROM (EXPLAIN OCCLUDE a USING b FOR ", "_TOP"),
        ("SELECT * FROM (PREDICT a ", "_USING"),
        ("EXPLAIN OCCLUDE (SELECT path FROM (PREDICT a USING b ", "_FOR"),
        ("EXPLAIN OCCLUDE (SELECT path FROM (PREDICT a USING b)) ", "_USING"),
    ],
)
def test_what_may_follow_inside(text: str, terminal: str) -> None:
    assert terminal in expected(text).terminals


def test_the_innermost_piece() -> None:
    assert innermost("SELECT * FROM (PREDICT a") == (15, True)
    assert innermost("EXPLAIN OCCLUDE (SELECT p") == (17, False)
    assert innermost("EXPLAIN OCCLUDE (SELECT p) USING") == (0, True)
    assert innermost("SELECT (1 + ") == (0, False)


_PIECES = [
    "(",
    ")",
    "EXPLAIN",
    "OCCLUDE",
    "PREDICT",
    "a",
    "USING",
    "b",
    "'x'",
    '"y"',
    "--\n",
    "/*",
    "*/",
    "$$",
    "?",
    ",",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=14).map(" ".join))
def test_whatever_is_written_keeps_its_length_or_is_refused(text: str) -> None:
    sql = f"SELECT {text}"
    try:
        statement = parse_statement(sql)
    except QuerySyntaxError as error:
        assert error.line is not None
        return
    assert isinstance(statement, SqlStatement)
    assert len(statement.query) == len(statement.text)
