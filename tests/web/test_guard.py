"""What a page may not do: files, code, other machines, unless it was started so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pytest

import obeql
from obeql.errors import UnsupportedError
from obeql.grammar import statements
from obeql.web.guard import Guard
from obeql.web.reading_sql import require_reading


@pytest.fixture(scope="module")
def connection() -> Any:
    with obeql.connect() as session:
        session.connection.execute("CREATE MACRO own(n) AS TABLE SELECT n AS n")
        yield session.connection


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 42",
        "FROM heatmaps",
        "SELECT * FROM runs JOIN models ON model = models.name",
        "WITH here AS (SELECT 1 AS a) FROM here",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3) FROM n",
        "SELECT list_transform([1], lambda x: x + 1), (SELECT max(run_id) FROM runs)",
        "FROM top_cells('first', 'scan1', 3)",
        "FROM own(3)",
        "SELECT unnest([1, 2]) UNION SELECT * FROM range(3)",
        "DESCRIBE heatmaps",
        "SUMMARIZE runs",
        "SHOW TABLES",
        "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'windows'",
        "VALUES (1), (2)",
        "SELECT random()",
    ],
)
def test_reading_is_allowed(connection: Any, sql: str) -> None:
    require_reading(connection, sql)
    connection.execute(f"EXPLAIN {sql}" if sql.startswith(("SELECT", "WITH", "FROM")) else sql)


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_csv('/etc/passwd')",
        "FROM read_text('/etc/passwd')",
        "FROM read_blob('/etc/passwd')",
        "FROM glob('/etc/*')",
        "FROM '/etc/passwd.csv'",
        "SELECT (SELECT count(*) FROM 'x.parquet')",
        "SELECT * FROM runs WHERE query IN (SELECT content FROM read_text('x'))",
        "WITH a AS (FROM read_json('x')) FROM a",
        "SUMMARIZE 'x.csv'",
        "DESCRIBE FROM read_csv('x.csv')",
        "FROM query('SELECT 1')",
        "FROM query_table(['x.csv'])",
        "FROM json_execute_serialized_sql('x')",
        "FROM parquet_metadata('x')",
        "FROM sniff_csv('x')",
        "COPY (SELECT 1) TO 'x.csv'",
        "COPY runs TO 'x.csv'",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "EXPORT DATABASE 'x'",
        "CREATE TABLE x AS SELECT 1",
        "INSERT INTO x VALUES (1)",
        "DELETE FROM obeql_store.maps",
        "DROP TABLE x",
        "SET enable_external_access = true",
        "SET log_query_path = 'x'",
        "PRAGMA enable_profiling",
        "CHECKPOINT",
        "USE x",
        "CALL pragma_version()",
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT 1; SELECT 2",
        "SELECT nextval('obeql_store.run_ids')",
        "BEGIN",
        "PIVOT runs ON model",
    ],
)
def test_everything_else_is_refused(connection: Any, sql: str) -> None:
    with pytest.raises(obeql.ObeqlError):
        require_reading(connection, sql)


def test_a_python_variable_is_no_table(connection: Any) -> None:
    hidden = connection.from_arrow  # noqa: F841  a name that DuckDB's replacement scans would find
    with pytest.raises(obeql.ObeqlError, match="no table or view 'hidden'"):
        require_reading(connection, "FROM hidden")


def test_all_functions_that_open_files_are_known(connection: Any) -> None:
    """A new DuckDB may bring a table function; what is not on the list is refused, and the list has none of these."""
    from obeql.web.reading_sql import _HARMLESS

    named = {
        name
        for (name,) in connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'table' AND "
            "regexp_matches(function_name, 'read|file|glob|scan|query|parquet|csv|attach|secret|log|sniff|execute')"
        ).fetchall()
    }
    assert named.isdisjoint(_HARMLESS)


def test_text_that_does_not_parse_has_duckdbs_own_words(connection: Any) -> None:
    with pytest.raises(duckdb.ParserException):
        require_reading(connection, "SELEC 1")


# ---- statements -----------------------------------------------------------------------------------------------


def test_images_of_the_database_are_explained_and_others_are_not(site: Any, tmp_path: Path) -> None:
    known = tmp_path / "scans" / "scan1.png"
    assert site.run("EXPLAIN OCCLUDE 'scans/scan1.png' USING net WITH patch=32 stride=32")["state"] == "done"
    assert site.run("EXPLAIN OCCLUDE scan2 USING net WITH patch=32 stride=32")["state"] == "done"
    chosen = "(SELECT path FROM images WHERE name = 'scan3')"
    assert site.run(f"EXPLAIN OCCLUDE {chosen} USING net WITH patch=32 stride=32")["state"] == "done"
    other = tmp_path / "other.png"
    other.write_bytes(known.read_bytes())
    for text in (
        f"EXPLAIN OCCLUDE '{other}' USING net WITH patch=32 stride=32",
        f"PLAN EXPLAIN OCCLUDE '{other}' USING net",
        f"PREDICT '{tmp_path}/*.png' USING net",
        f"CREATE IMAGES more FROM '{tmp_path}'",
        f"EXPLAIN OCCLUDE (SELECT '{other}' AS path) USING net",
        f"EXPLAIN OCCLUDE (SELECT path FROM images UNION SELECT '{other}') USING net",
        "EXPLAIN OCCLUDE (SELECT CASE WHEN random() < 2 THEN path END AS path FROM images) USING net",
        f"PREDICT (SELECT file FROM glob('{tmp_path}/*.png')) USING net",
    ):
        job = site.run(text)
        said = str(job["outcome"])
        assert job["state"] == "failed" and ("allow-files" in said or "another answer" in said), text


@pytest.mark.parametrize(
    "text",
    [
        "RENDER first TO '{}/x.png'",
        "EXPORT RUN first TO '{}/x'",
        "CREATE MODEL other FROM '{}/x.onnx'",
        "CREATE MODEL other FROM 'torchvision:resnet18' WITH weights='{}/x.pt'",
        "CREATE MODEL other FROM 'torchvision:resnet18' WITH weights=DEFAULT",
        "CREATE MODEL other FROM 'torchvision:resnet18' WITH classes='{}/x.txt'",
        "SET obeql.store_folder = '{}'",
        "SET obeql.store = parquet",
        "SET obeql.ray_address = 'x.example:1'",
        "COPY runs TO '{}/x.csv'",
        "EXPLAIN OCCLUDE scans USING net WITH mask='{}/x.png'",
        "EXPLAIN OCCLUDE scans USING net WINDOWS (SELECT '{}/x.png' AS mask)",
        "EXPLAIN OCCLUDE scans USING net WINDOWS (SELECT '{}/x.npy' AS labels)",
        'EXPLAIN OCCLUDE scans USING net WINDOWS (SELECT 0 AS top, 0 AS "left", 4 AS height, 4 AS width, '
        "content AS name "
        "FROM read_text('{}/x.txt'))",
        'EXPLAIN OCCLUDE scans USING net WINDOWS (SELECT 0 AS top, 0 AS "left", 4 AS height, 4 AS width '
        "FROM (PREDICT '{}/x.png' USING net))",
        "SELECT 1; COPY runs TO '{}/x.csv'",
    ],
)
def test_what_writes_or_reads_files_is_refused(site: Any, tmp_path: Path, text: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    job = site.run(text.format(tmp_path))
    assert job["state"] == "failed" and "allow-files" in job["outcome"]["error"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("allow_files", [False, True])
@pytest.mark.parametrize("text", ["FROM 'python:os:getcwd'", "FROM 'x.pt2' WITH trust=true"])
def test_models_that_run_code_are_refused_in_any_case(
    make_site: Callable[..., Any], text: str, allow_files: bool
) -> None:
    with obeql.connect(allow_python=True) as session:
        site = make_site(session, allow_files)
        job = site.run(f"CREATE MODEL other {text}")
        assert job["state"] == "failed" and "code of its own" in job["outcome"]["error"]
        site.page.close()


def test_with_files_allowed_files_are_read_and_written(
    session: Any, make_site: Callable[..., Any], tmp_path: Path
) -> None:
    site = make_site(session, allow_files=True)
    assert site.run(f"EXPLAIN OCCLUDE '{tmp_path}/scans/*.png' USING net WITH patch=32 INTO mine")["state"] == "done"
    assert site.run(f"COPY runs TO '{tmp_path}/runs.csv'")["state"] == "done"
    assert (tmp_path / "runs.csv").exists()
    found = site.post("/api/sql", sql=f"FROM '{tmp_path}/runs.csv'")
    assert len(found["rows"]) == 1


def test_the_sql_tab_only_reads(site: Any, tmp_path: Path) -> None:
    assert site.post("/api/sql", sql="SELECT name FROM models;")["rows"] == [["net"]]
    for sql in ("DROP VIEW runs", f"FROM '{tmp_path}/x.csv'", "COPY runs TO 'x.csv'"):
        refused = site.post("/api/sql", 403, sql=sql)
        assert "allow-files" in refused["error"]
        assert site.client.post("/api/sql.csv", json={"sql": sql}).status_code == 403
    wrong = site.post("/api/sql", 400, sql="SELECT nothing FROM runs")
    assert "nothing" in wrong["error"]


def test_windows_of_the_database_are_allowed(site: Any) -> None:
    box = 'SELECT 0 AS top, 0 AS "left", 4 AS height, 4 AS width'
    job = site.run(f"EXPLAIN OCCLUDE scan1 USING net WINDOWS ({box})")
    assert job["state"] == "done", job["outcome"]


def test_a_statement_that_the_page_was_not_told_of_is_refused(connection: Any) -> None:
    @dataclass(frozen=True, slots=True)
    class Publish(statements.StatementNode):
        about: ClassVar[statements.About] = statements.About(
            "PUBLISH", "sends a run away", "PUBLISH run;", (), "PUBLISH r;"
        )

    with pytest.raises(UnsupportedError, match=r"no PUBLISH.*allow-files"):
        Guard(None, connection, allow_files=False).check(Publish())  # type: ignore[arg-type]
    Guard(None, connection, allow_files=True).check(Publish())  # type: ignore[arg-type]
