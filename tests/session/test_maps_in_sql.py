"""Maps and predictions as tables: EXPLAIN OCCLUDE and PREDICT in parentheses, wherever SQL takes a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import obeql
from obeql import Plan
from obeql.cli.runner import Runner
from obeql.errors import ImageError, QueryError, QueryTypeError, StoreError, UnknownNameError
from obeql.results.result import Result

MAPS = "EXPLAIN OCCLUDE scans USING net FOR ALL WITH patch=16 stride=8"
#: windows of three images, of three classes, 3 x 3 of each
N_ROWS = 81


@pytest.fixture
def scans_db(net_db: Any, folder: Path) -> Any:
    """A session with the model `net` and three images `scans`, each with a label."""
    labels = "CASE file[-5] WHEN '1' THEN 'ant' ELSE 'bee' END AS label"
    net_db.execute(
        f"CREATE IMAGES scans FROM (SELECT file AS path, {labels} FROM glob('{folder}/*.png') ORDER BY file)"
    )
    return net_db


def n_runs(db: Any) -> int:
    return int(db.execute("SELECT count(*) FROM runs").fetchall()[0][0])


# ---- where they stand ------------------------------------------------------------------------------------------------


def test_the_rows_are_the_windows_of_that_run_alone(scans_db: Any) -> None:
    db = scans_db
    db.execute("EXPLAIN OCCLUDE scans USING net WITH patch=8")
    found = db.execute(f"SELECT * FROM ({MAPS}) ORDER BY ALL")
    wanted = db.execute("SELECT * FROM windows WHERE run_id = 2 ORDER BY ALL")
    assert found.columns == wanted.columns
    rows = found.fetchall()
    assert rows == wanted.fetchall() and len(rows) == N_ROWS


def test_every_place_of_a_table(scans_db: Any, tmp_path: Path) -> None:
    db = scans_db
    n_rows = N_ROWS

    def one(sql: str) -> Any:
        return db.execute(sql).fetchall()[0][0]

    assert one(f"SELECT count(*) FROM ({MAPS}) AS m WHERE m.importance IS NOT NULL") == n_rows
    assert one(f"WITH m AS ({MAPS}) SELECT count(*) FROM m") == n_rows
    assert one(f"SELECT count(*) FROM images JOIN ({MAPS}) USING (image_id)") == n_rows
    assert one(f"SELECT count(*) FROM images WHERE image_id IN (SELECT image_id FROM ({MAPS}))") == 3
    assert one(f"SELECT (SELECT count(*) FROM ({MAPS}))") == n_rows
    assert one(f"SELECT EXISTS ({MAPS})") is True
    assert one(f"SELECT sum(n) FROM (SELECT image, count(*) AS n FROM ({MAPS}) GROUP BY image)") == n_rows
    db.execute(f"CREATE TABLE kept AS ({MAPS})")
    db.execute(f"INSERT INTO kept ({MAPS})")
    db.execute(f"INSERT INTO kept SELECT * FROM ({MAPS}) LIMIT 1")
    assert one("SELECT count(*) FROM kept") == 2 * n_rows + 1
    db.execute(f"COPY ({MAPS}) TO '{tmp_path}/maps.parquet'")
    assert one(f"SELECT count(*) FROM '{tmp_path}/maps.parquet'") == n_rows
    assert one(f"EXPLAIN ANALYZE SELECT count(*) FROM ({MAPS})")


def test_predictions_have_the_same_columns_whatever_they_say(scans_db: Any, folder: Path) -> None:
    db = scans_db
    found = db.execute("FROM (PREDICT scans USING net FOR TOP 1) ORDER BY image")
    columns = "image label rank class_id class_name probability logit error note path image_id"
    assert found.columns == columns.split()
    rows = found.fetchall()
    shown = db.execute("PREDICT scans USING net FOR TOP 1").fetchall()
    assert [row[0] for row in rows] == ["scan1", "scan2", "scan3"]
    assert [row[1:7] for row in rows] == [row[1:7] for row in shown]
    (folder / "broken.png").write_bytes(b"no image")
    errors = db.execute(f"SELECT image, error FROM (PREDICT '{folder}/*.png' USING net) WHERE error IS NOT NULL")
    ((image, error),) = errors.fetchall()
    assert image == "broken" and "broken.png" in error


def test_as_a_source(scans_db: Any) -> None:
    db = scans_db
    sure = "SELECT path FROM (PREDICT scans USING net FOR TOP 1) ORDER BY probability DESC LIMIT 2"
    result = db.execute(f"EXPLAIN OCCLUDE ({sure}) USING net WITH patch=16")
    assert isinstance(result, Result) and len(result) == 2
    assert len(db.execute("EXPLAIN OCCLUDE (PREDICT scans USING net) USING net WITH patch=16")) == 3
    db.execute(f"CREATE IMAGES sure FROM ({sure})")
    assert db.execute("SELECT count(*) FROM image_sets WHERE name = 'sure'").fetchall()[0] == (2,)
    deep = f"SELECT path FROM (EXPLAIN OCCLUDE ({sure}) USING net WITH patch=16) ORDER BY importance DESC LIMIT 1"
    assert db.execute(f"SELECT count(DISTINCT image) FROM (PREDICT ({deep}) USING net)").fetchall()[0] == (1,)


def test_images_of_python_have_ids_in_place_of_paths(net_db: Any, pixels: Any) -> None:
    net_db.create_images("arrays", [pixels(1), pixels(2)])
    query = "EXPLAIN OCCLUDE (SELECT path, image_id FROM (PREDICT arrays USING net FOR TOP 1)) USING net WITH patch=16"
    assert len(net_db.execute(query)) == 2


# ---- stored like any run ---------------------------------------------------------------------------------------------


def test_it_is_a_run_whose_cells_are_used_again(scans_db: Any) -> None:
    db = scans_db
    db.execute(f"SELECT 1 FROM ({MAPS} INTO first)")
    db.execute(f"SELECT 1 FROM ({MAPS})")
    runs = db.execute(
        "SELECT run_name, status, query, measured->>'cells_computed' FROM runs ORDER BY run_id"
    ).fetchall()
    assert runs == [("first", "done", f"{MAPS} INTO first", str(N_ROWS // 3)), (None, "done", MAPS, "0")]


def test_the_same_statement_twice_runs_once(scans_db: Any) -> None:
    db = scans_db
    same = f"SELECT count(*) FROM ({MAPS}) a JOIN (  explain occlude scans using net for all with patch=16, stride=8) b"
    assert db.execute(f"{same} USING (image_id, class_id, row, col)").fetchall()[0] == (N_ROWS,)
    assert n_runs(db) == 1
    other = "SELECT count(*) FROM (EXPLAIN OCCLUDE (SELECT path FROM images WHERE name = ?) USING net) a, "
    db.execute(f"{other} (EXPLAIN OCCLUDE (SELECT path FROM images WHERE name = ?) USING net) b", ["scan1", "scan2"])
    images = db.execute(
        "SELECT list(DISTINCT image) FROM windows WHERE run_id > 1 GROUP BY run_id ORDER BY 1"
    ).fetchall()
    assert images == [(["scan1"],), (["scan2"],)]


def test_a_relation_stays_after_other_statements(scans_db: Any) -> None:
    relation = scans_db.execute(f"FROM ({MAPS})")
    assert scans_db.execute("SELECT 1").fetchall() == [(1,)]
    assert relation.filter("class_name = 'ant'").count("*").fetchall()[0] == (N_ROWS // 3,)
    assert "#" not in str(scans_db.execute("SHOW TABLES").fetchall())


def test_parameters(scans_db: Any, folder: Path, pixels: Any) -> None:
    db = scans_db
    query = "SELECT count(*) FROM (EXPLAIN OCCLUDE ? USING net WITH patch=? stride=16) WHERE ? AND importance > ?"
    assert db.execute(f"SELECT ?, ({query})", ["x", pixels(1), 8, True, -1.0]).fetchall()[0] == ("x", 9)
    named = "SELECT count(*) FROM (EXPLAIN OCCLUDE $image USING net WITH patch=$patch stride=16) WHERE $yes"
    assert db.execute(named, {"image": str(folder / "scan1.png"), "patch": 8, "yes": True}).fetchall()[0] == (9,)
    numbered = "SELECT count(*) FROM (EXPLAIN OCCLUDE $2 USING net WITH patch=8 stride=16) WHERE importance > $1"
    assert db.execute(numbered, [-1.0, str(folder / "scan1.png")]).fetchall()[0] == (9,)
    with pytest.raises(QueryTypeError, match="parameter number 4") as caught:
        db.execute(query, [pixels(1), 8, True])
    assert caught.value.column == query.rindex("?") + 1
    with pytest.raises(QueryTypeError, match="5 values were given; the statement takes 4"):
        db.execute(query, [pixels(1), 8, True, 1, 1])


def test_progress_and_cancel(scans_db: Any) -> None:
    seen = []

    def stop(progress: Any) -> None:
        seen.append(progress)
        scans_db.cancel()

    with pytest.raises(KeyboardInterrupt):
        scans_db.execute(f"SELECT * FROM ({MAPS})", on_progress=stop)
    assert seen
    assert scans_db.execute(f"SELECT count(*) FROM ({MAPS})").fetchall()[0] == (N_ROWS,)


def test_a_callback_may_run_such_a_statement_too(scans_db: Any) -> None:
    found = []

    def look(progress: Any) -> None:
        if not found:
            found.append(scans_db.execute("SELECT count(*) FROM (PREDICT scans USING net FOR TOP 1)").fetchall()[0])

    assert scans_db.execute(f"SELECT count(*) FROM ({MAPS})", on_progress=look).fetchall()[0] == (N_ROWS,)
    assert found == [(3,)]


def test_read_only_predicts_and_explains_nothing(tmp_path: Path, folder: Path, tiny_net: Any) -> None:
    path = tmp_path / "kept.duckdb"
    with obeql.connect(path) as db:
        db.create_model("net", tiny_net(), size=(32, 32))
    with obeql.connect(path, read_only=True) as db:
        db.create_model("net", tiny_net(), size=(32, 32))
        found = db.execute(f"SELECT count(*) FROM (PREDICT '{folder}/*.png' USING net FOR TOP 2)")
        assert found.fetchall() == [(6,)]
        with pytest.raises(StoreError, match="read-only"):
            db.execute(f"FROM (EXPLAIN OCCLUDE '{folder}/*.png' USING net)")


def test_plan_computes_nothing(scans_db: Any) -> None:
    plan = scans_db.execute(f"PLAN SELECT max(importance) FROM ({MAPS}) JOIN (PREDICT scans USING net) USING (path)")
    assert isinstance(plan, Plan) and "2 statements" in str(plan) and "Physical plan" in str(plan)
    scans_db.execute("PLAN SELECT 1 FROM (EXPLAIN OCCLUDE (SELECT path FROM (PREDICT scans USING net)) USING net)")
    assert n_runs(scans_db) == 0


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "place", "said"),
    [
        (f"SELECT 1,\n  nope FROM ({MAPS})", (2, 3), "nope"),
        (f"SELECT 1 FRM ({MAPS})", (1, 14), "syntax error"),
        (f"SELECT 1 FROM ({MAPS}) WHERE nofunction(importance)", (1, 86), "nofunction"),
        (f"CREATE VIEW v AS SELECT *\nFROM ({MAPS})", (2, 7), "A view keeps a text"),
        (f"CREATE OR REPLACE TEMP MACRO m() AS TABLE FROM ({MAPS})", (1, 49), "A macro keeps a text"),
        (f"PREPARE p AS FROM ({MAPS})", (1, 20), "prepared statement keeps a text"),
        (f"EXPLAIN FROM ({MAPS})", (1, 15), "PLAN SELECT"),
        (f"FROM ({MAPS} INTO a), ({MAPS} NO REUSE INTO a)", (1, 157), "INTO 'a'"),
        (f"PLAN EXPLAIN OCCLUDE ({MAPS}) USING net", (1, 23), "PLAN computes none"),
        (f"PLAN FROM (EXPLAIN OCCLUDE ({MAPS}) USING net)", (1, 29), "PLAN computes none"),
        ("FROM (EXPLAIN OCCLUDE scans USING net WITH patch=64)", (1, 50), "patch 64x64 is larger"),
        (
            "FROM (EXPLAIN OCCLUDE (SELECT 1 AS a, 2 AS b\nFROM (PREDICT scans USING net)) USING net)",
            (1, 23),
            "column path",
        ),
        ("FROM (EXPLAIN OCCLUDE (SELECT nope FROM (PREDICT scans USING net)) USING net)", (1, 31), "nope"),
        (
            "SELECT (SELECT 1 FROM (EXPLAIN OCCLUDE (SELECT path FROM images i WHERE i.name = o.name) USING net)) FROM "
            "images o",
            (1, 82),
            "runs once, before the SQL around it",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(
    scans_db: Any, sql: str, place: tuple[int, int], said: str
) -> None:
    with pytest.raises(QueryError, match=said) as caught:
        scans_db.execute(sql)
    assert (caught.value.line, caught.value.column) == place
    assert '"#' not in str(caught.value)
    assert n_runs(scans_db) == 0


def test_unknown_names_and_images(scans_db: Any) -> None:
    with pytest.raises(UnknownNameError, match="nett") as caught:
        scans_db.execute("SELECT 1\nFROM (EXPLAIN OCCLUDE scans USING nett)")
    assert (caught.value.line, caught.value.column) == (2, 35)
    with pytest.raises(ImageError):
        scans_db.execute("FROM (EXPLAIN OCCLUDE 'nothing.png' USING net)")


def test_not_inside_a_transaction(scans_db: Any) -> None:
    scans_db.execute("BEGIN")
    with pytest.raises(QueryTypeError, match="COMMIT or ROLLBACK") as caught:
        scans_db.execute("SELECT 1 FROM (EXPLAIN OCCLUDE scans USING net ON ray)")
    assert caught.value.column == 16
    scans_db.execute("ROLLBACK")


def test_maps_are_kept_where_the_sql_fails_afterwards(scans_db: Any, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="The maps are kept as run 1: FROM windows WHERE run_id = 1"):
        scans_db.execute(f"COPY ({MAPS}) TO '{tmp_path}/no/such/folder.csv'")
    with pytest.raises(QueryError, match="kept as run 'mine'"):
        Runner(scans_db, "csv").run(f"SELECT 1;\nSELECT class_name::INT FROM ({MAPS} INTO mine)")
    assert scans_db.execute("SELECT count(*) FROM windows WHERE run = 'mine'").fetchall()[0] == (N_ROWS,)


def test_rows_that_are_read_later_fail_with_their_place(scans_db: Any) -> None:
    rows = scans_db.execute(f"SELECT 1;\nSELECT class_name::INT\nFROM ({MAPS})")
    other = scans_db.execute("SELECT 'one' AS x, 2 AS y")
    with pytest.raises(QueryError, match="kept as run 1") as caught:
        rows.fetchall()
    assert (caught.value.line, caught.value.column) == (2, 8)
    with pytest.raises(QueryError, match="Could not convert"):
        other.project("x::INT").fetchall()
    with pytest.raises(QueryError, match="nope"):
        other.filter("nope > 1")


def test_rows_are_a_relation_of_duckdb(scans_db: Any) -> None:
    rows = scans_db.execute("SELECT 'one' AS x, 2 AS y")
    assert isinstance(rows, duckdb.DuckDBPyRelation)
    assert rows.columns == ["x", "y"] and len(rows) == 1 and "x" in rows
    assert rows["y"].fetchall() == rows.project("y").union(rows.project("1")).filter("y > 1").fetchall() == [(2,)]
    assert pa.table(rows).column("y").to_pylist() == [2]
    assert "one" in str(rows) and "one" in repr(rows)


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("COPY (FROM runs)\n TO '/no/such/folder.csv'", (2, 5)),
        ("COPY (FROM runs)\n TO 'x.csv' (FORMAT csv, nope 3)", (2, 26)),
        ("COPY (SELECT nope\n FROM runs) TO 'x.csv'", (1, 14)),
        ("SELECT 1;\nFROM read_csv('nothing_here.csv')", (2, 15)),
    ],
)
def test_what_copy_and_files_lack_is_placed(scans_db: Any, sql: str, place: tuple[int, int]) -> None:
    with pytest.raises(QueryError) as caught:
        scans_db.execute(sql)
    assert (caught.value.line, caught.value.column) == place


def test_numbers_are_those_of_the_statement_alone(scans_db: Any) -> None:
    inside = scans_db.execute(f"SELECT importance FROM ({MAPS}) ORDER BY image, class_id, row, col").fetchnumpy()
    alone = scans_db.execute(f"{MAPS} NO REUSE")
    assert np.allclose(inside["importance"], np.concatenate([heat.importance.ravel() for heat in alone]), atol=1e-6)
