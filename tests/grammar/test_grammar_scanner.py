"""Which statements are OBEQL's, and that SQL arrives at DuckDB as it was written."""

import duckdb
import pytest

from obeql.grammar import SqlStatement, is_complete, parse_script
from obeql.grammar.scanner import is_obeql_statement, split_script

# Statements that DuckDB's own parser takes.
SQL = r"""
SELECT 1
SELECT * FROM explain
select 'EXPLAIN OCCLUDE a USING m'
SELECT ';', ';;', $$;$$, $a$;$$;$a$
SELECT E'it\'s; fine', ";" FROM (SELECT 1 AS ";")
SELECT 1 /* ; */ -- ;
SELECT 1 /* a /* ; */ ; */ + 1
/* EXPLAIN OCCLUDE */ SELECT 2
FROM images
FROM runs SELECT run_id
WITH predict AS (SELECT 1) SELECT * FROM predict
(SELECT 1) UNION (SELECT 2)
VALUES (1), (2)
EXPLAIN SELECT * FROM occlude
EXPLAIN ANALYZE SELECT 1
EXPLAIN (FORMAT json) SELECT 1
EXPLAIN FROM occlude
EXPLAIN WITH x AS (SELECT 1) FROM x
EXPLAIN DELETE FROM models USING images WHERE true
EXPLAIN VALUES (1)
CREATE TABLE models (a INTEGER)
CREATE OR REPLACE TABLE images (a INTEGER)
CREATE VIEW model AS SELECT 1
CREATE OR REPLACE TEMP VIEW images AS SELECT 1
CREATE MACRO render(a) AS a
CREATE SCHEMA model
CREATE SEQUENCE run
CREATE TYPE mood AS ENUM ('a')
CREATE UNIQUE INDEX i ON images (a)
DROP TABLE model
DROP VIEW IF EXISTS images
DROP SCHEMA run
DESCRIBE images
DESCRIBE models
DESCRIBE model
DESCRIBE run.t
DESCRIBE SELECT 1
DESC images
SHOW TABLES
SHOW ALL TABLES
SHOW model
SHOW "models"
SHOW runs.t
SHOW cells
SUMMARIZE images
SET threads = 2
SET memory_limit = '1GB'
SET VARIABLE obeql = 1
RESET threads
USE memory
PRAGMA version
CALL range(3)
COPY images TO 'x.parquet'
ATTACH 'x.db' AS model
DETACH model
INSTALL json
LOAD json
CHECKPOINT
VACUUM
ANALYZE
BEGIN
COMMIT
PREPARE plan AS SELECT 1
EXECUTE plan
DEALLOCATE plan
INSERT INTO images VALUES (';')
UPDATE runs SET a = 1
DELETE FROM runs
ALTER TABLE runs ADD COLUMN b INTEGER
PIVOT images ON a
UNPIVOT images ON a
TRUNCATE runs
EXPORT DATABASE 'x'
""".strip()

OURS = """
EXPLAIN OCCLUDE a USING m
explain/**/occlude a using m
EXPLAIN OCLUDE a USING m
EXPLAIN OCCLUDED a USING m
EXPLAIN a USING m
EXPLAN OCCLUDE a USING m
PLAN EXPLAIN OCCLUDE a USING m
PLAN
PREDICT
PREDICT a
RENDER r
CREATE MODEL
CREATE OR REPLACE IMAGES x
CREATE MODLE x
DROP MODEL m
DROP IMAGE x
DROP RUN 3
SHOW MODELS
SHOW images
Show Runs
SHOW DEVICES
SHOW OPERATORS
DESCRIBE MODEL m
DESCRIBE images images
DESC RUN "x"
DESCRIBE RUN 3
SET obeql.x = 1
RESET Obeql . x
""".strip()


@pytest.mark.parametrize("text", SQL.splitlines())
def test_sql_is_passed_on_untouched(text: str) -> None:
    assert not is_obeql_statement(text)
    assert parse_script(f"SHOW RUNS;\n {text}\n;SHOW MODELS")[1] == SqlStatement(text)
    assert parse_script(f"\n{text}\n;") == (SqlStatement(text),)
    try:
        assert len(duckdb.extract_statements(text)) == 1  # so the list holds what DuckDB parses
    except duckdb.Error:
        pytest.skip("not of this DuckDB version's language")


@pytest.mark.parametrize("text", [*OURS.splitlines(), "-- x\nEXPLAIN OCCLUDE", "EXPLAIN -- SELECT\n OCCLUDE"])
def test_obeql_statements_are_claimed(text: str) -> None:
    (raw,) = split_script(text)
    assert raw.is_obeql


def test_statements_keep_their_place() -> None:
    script = " ;; SELECT ';' ; -- a;b\n\tEXPLAIN OCCLUDE ';' USING \";\" /* ; */ ;SELECT $$;$$"
    found = list(split_script(script))
    assert [raw.text for raw in found] == [
        "SELECT ';'",
        "-- a;b\n\tEXPLAIN OCCLUDE ';' USING \";\" /* ; */",
        "SELECT $$;$$",
    ]
    assert [raw.is_obeql for raw in found] == [False, True, False]
    assert [raw.terminated for raw in found] == [True, True, False]
    assert all(script[raw.start : raw.end] == raw.text for raw in found)


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("", False),
        ("SELECT 1", False),
        ("SELECT 1;", True),
        ("SELECT 1; -- done", True),
        ("SELECT 1; /* done */ \n", True),
        ("SELECT 1; /* going on", False),
        ("SELECT ';", False),
        ("SELECT ';'", False),
        ("SELECT ';';", True),
        ("SELECT $$;", False),
        ("SELECT $a$ $$;$a$;", True),
        ("SELECT 1 -- ;", False),
        ("SELECT 1; SELECT", False),
        ("/* ; */", False),
        (";", True),
        ('SELECT ";', False),
        (r"SELECT E'\';", False),
        (r"SELECT E'\'';", True),
    ],
)
def test_complete(text: str, complete: bool) -> None:
    assert is_complete(text) is complete
