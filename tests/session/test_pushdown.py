"""Push-down: SQL around a statement leaves out images, classes and windows, and never a row of the answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import obeql
from obeql.planner.pushdown.rules import PUSHDOWN_NAMES

MAPS = "EXPLAIN OCCLUDE scans USING net FOR ALL WITH patch=16 stride=8"
OFF = f"SET obeql.disabled_rules = '{', '.join(PUSHDOWN_NAMES)}'"


@pytest.fixture(scope="module")
def scans_db(tiny_net: Any, pixels: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A session with the model `net` and four images: labels ant, Bee, NULL and ant."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(4):
        Image.fromarray(pixels(number)).save(folder / f"scan{number}.png")
    with obeql.connect() as db:
        db.create_model("net", tiny_net(), size=(32, 32), classes=["ant", "bee", "cat"])
        labels = "CASE file[-5] WHEN '1' THEN 'Bee' WHEN '2' THEN NULL ELSE 'ant' END AS label"
        db.execute(
            f"CREATE IMAGES scans FROM (SELECT file AS path, {labels} FROM glob('{folder}/*.png') ORDER BY file)"
        )
        db.execute("CREATE TABLE ages AS SELECT path, image_id::VARCHAR AS image_id, 10 * image_id AS age FROM images")
        db.execute(f"SELECT 1 FROM ({MAPS})")  # from here on, stored cells answer
        yield db


@pytest.fixture(autouse=True)
def all_rules(scans_db: Any) -> None:
    scans_db.execute("RESET obeql.disabled_rules")


def rows(db: Any, sql: str, values: Any = None) -> list[Any]:
    found = db.execute(sql, values).fetchall()
    return sorted((tuple(round(v, 5) if isinstance(v, float) else v for v in row) for row in found), key=repr)


def both(db: Any, sql: str, values: Any = None) -> tuple[list[Any], list[Any]]:
    """Return the rows with all rules and without any."""
    db.execute(OFF)
    off = rows(db, sql, values)
    db.execute("RESET obeql.disabled_rules")
    return rows(db, sql, values), off


def last_query(db: Any) -> str:
    return str(db.execute("SELECT arg_max(query, run_id) FROM runs").fetchall()[0][0])


# ---- what is left ----------------------------------------------------------------------------------------------------

LEFT = [
    ("label = 'ant'", "2 of 4 images"),
    ("m.label <> 'ant'", "1 of 4 images"),
    ("label IS NULL", "1 of 4 images"),
    ("lower(label) IN ('bee', 'x') AND path LIKE '%scan1.png'", "1 of 4 images"),
    ("NOT (label = 'ant' OR image = 'scan2')", "1 of 4 images"),
    ("coalesce(label, 'none') = 'none'", "1 of 4 images"),
    ("image_id BETWEEN 2 AND 3", "2 of 4 images"),
    ("class_name = 'bee'", "classes 1"),
    ("class_id <> 1", "classes 0, 2"),
    ("class_name = label", "classes 0, 2 of 4 images"),
    ("top_px >= 8", "REGION (8, 0, 24, 32)"),
    ("top_px + height_px <= 24 AND left_px = 8", "REGION (0, 8, 24, 16)"),
    ('"row" = 2 AND col <= 1', "REGION (16, 0, 16, 24)"),
    (
        "label = 'ant' AND class_id = 2 AND top_px > 0 AND importance > 0",
        "classes 2, 2 of 4 images, REGION (8, 0, 24, 32)",
    ),
]


@pytest.mark.parametrize(("condition", "left"), LEFT)
def test_what_is_left_of_the_statement(scans_db: Any, condition: str, left: str) -> None:
    on, off = both(scans_db, f"SELECT * EXCLUDE (run, run_id) FROM ({MAPS}) AS m WHERE {condition}")
    assert on == off
    assert last_query(scans_db).endswith(f"/* what the SQL around it needs: {left} */")


STAYS = [
    ("SELECT count(*) FROM ({maps}) WHERE label = 'ant' OR top_px = 0", "together"),
    ("SELECT count(*) FROM ({maps}) WHERE importance > 0", "when windows are computed"),
    ("SELECT count(*) FROM ({maps}) WHERE label = 'ant' OR random() < 0.5", "differently each time"),
    ("SELECT count(*) FROM ({maps}) WHERE label = (SELECT 'ant')", "differently each time"),
    ("SELECT count(*) FROM (({maps}) ORDER BY importance LIMIT 5) WHERE label = 'ant'", "comes before the conditions"),
    ("SELECT count(*) FROM (SELECT * FROM ({maps}) LIMIT 5) WHERE label = 'ant'", ""),
    ("SELECT count(*) FROM images i LEFT JOIN ({maps}) m USING (path) WHERE m.label IS NULL", "outer join"),
    (
        "WITH m AS ({maps}) SELECT (SELECT count(*) FROM m WHERE label = 'ant') + (SELECT count(*) FROM m)",
        "several places",
    ),
    ("SELECT count(*) FROM ({maps}) a JOIN ({maps}) b USING (path) WHERE a.label = 'ant'", "twice"),
    ("SELECT count(*) FROM ({maps}) AS m(a, label) WHERE label = 'ant'", "other names"),
    ("SELECT count(*) FROM ({maps} INTO OR REPLACE mine) WHERE label = 'ant'", "INTO"),
    ("SELECT count(*) FROM ages JOIN ({maps}) m USING (image_id) WHERE image_id LIKE '%1'", ""),
]


@pytest.mark.parametrize(("sql", "why"), STAYS)
def test_what_is_not_pushed_down(scans_db: Any, sql: str, why: str) -> None:
    sql = sql.format(maps=MAPS)
    if "random" not in sql:
        on, off = both(scans_db, sql)
        assert on == off
    assert "what the SQL around it needs" not in last_query(scans_db)
    plan = str(scans_db.execute(f"PLAN {sql}"))
    assert "pushed  " not in plan and why in plan


def test_a_timed_or_estimated_map_keeps_its_windows(scans_db: Any) -> None:
    for clause, n_pushed in (("WITHIN 9 SECONDS", 0), ("APPROX 0.9", 1)):
        where = "label = 'ant' AND class_id = 1 AND top_px > 0"
        plan = str(scans_db.execute(f"PLAN SELECT 1 FROM ({MAPS} {clause}) WHERE {where}"))
        assert plan.count("pushed  ") == n_pushed and plan.count("left  ") == 3 - n_pushed


def test_a_class_chosen_image_by_image_stays(scans_db: Any) -> None:
    sql = "SELECT * EXCLUDE (run, run_id) FROM (EXPLAIN OCCLUDE scans USING net FOR TOP 2) WHERE class_name <> 'ant'"
    on, off = both(scans_db, sql)
    assert on == off and "image by image" in str(scans_db.execute(f"PLAN {sql}"))


def test_nothing_is_computed_where_nothing_can_be_in_the_answer(scans_db: Any) -> None:
    before = scans_db.execute("SELECT count(*) FROM runs").fetchall()
    assert rows(scans_db, f"SELECT count(*) FROM ({MAPS}) WHERE label = 'nothing'") == [(0,)]
    assert rows(scans_db, f"SELECT count(*) FROM ({MAPS}) WHERE top_px > 99") == [(0,)]
    assert scans_db.execute("SELECT count(*) FROM runs").fetchall() == before
    assert "computes nothing" in str(scans_db.execute(f"PLAN FROM ({MAPS}) WHERE class_id > 7"))


def test_a_condition_that_cannot_be_asked_leaves_everything(scans_db: Any) -> None:
    with pytest.raises(Exception, match="Could not convert"):
        scans_db.execute(f"SELECT count(*) FROM ({MAPS}) WHERE label::INT = 3").fetchall()


def test_parameters_and_statements_that_store_rows(scans_db: Any, tmp_path: Path) -> None:
    on, off = both(
        scans_db, f"SELECT image, count(*) FROM ({MAPS}) WHERE label = ? AND top_px >= ? GROUP BY 1", ["ant", 8]
    )
    assert on == off == [("scan0", 18), ("scan3", 18)]
    for sql in (
        f"CREATE OR REPLACE TABLE kept AS SELECT * FROM ({MAPS}) WHERE class_name = 'cat'",
        f"INSERT INTO kept SELECT * FROM ({MAPS}) WHERE class_name = 'cat'",
        f"COPY (SELECT * FROM ({MAPS}) WHERE class_name = 'cat') TO '{tmp_path}/kept.csv'",
    ):
        scans_db.execute(sql)
        assert last_query(scans_db).endswith("classes 2 */")
    assert rows(scans_db, "SELECT count(*) FROM kept") == [(72,)]


def test_rules_are_switched_off_by_name(scans_db: Any) -> None:
    sql = f"PLAN FROM ({MAPS}) WHERE label = 'ant' AND class_id = 1 AND top_px > 0"
    assert str(scans_db.execute(sql)).count("pushed  ") == 3
    scans_db.execute("SET obeql.disabled_rules = 'push_class_conditions'")
    plan = str(scans_db.execute(sql))
    assert plan.count("pushed  ") == 2 and "its rule is switched off" in plan


# ---- predictions first -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "join",
    [
        "({maps}) m JOIN (PREDICT scans USING net FOR TOP 1) p USING (image_id)",
        "(PREDICT scans USING net FOR TOP 1) p JOIN ({maps}) m ON m.path = p.path",
    ],
)
def test_predictions_are_asked_before_any_map_of_an_image(scans_db: Any, join: str) -> None:
    ((most,),) = scans_db.execute("SELECT max(probability) FROM (PREDICT scans USING net FOR TOP 1)").fetchall()
    sql = f"SELECT m.image, m.class_id, m.top_px, p.probability FROM {join.format(maps=MAPS)} WHERE p.probability >= ?"
    on, off = both(scans_db, sql, [most])
    assert on == off and len(on) == 27
    assert last_query(scans_db).endswith("1 of 4 images */")
    assert "when the SQL runs" in str(scans_db.execute(f"PLAN {sql}", [most]))


def test_an_outer_join_with_predictions_keeps_all_images(scans_db: Any) -> None:
    join = "LEFT JOIN (PREDICT scans USING net FOR TOP 1) p ON m.path = p.path AND p.rank > 1"
    on, off = both(scans_db, f"SELECT m.image FROM ({MAPS}) m {join}")
    assert on == off and len(on) == 108


SURE = "PREDICT scans USING net FOR TOP 1"
CASCADES = [
    (f"SELECT m.image, m.top_px FROM ({MAPS}) m WHERE image IN (SELECT image FROM ({SURE}) WHERE {{is_most}})", 1),
    (
        f"SELECT m.image, top_px FROM ({MAPS}) AS m WHERE image_id NOT IN (SELECT image_id FROM ({SURE}) AS p "
        "WHERE {is_most})",
        3,
    ),
    (f"WITH p AS ({SURE}) SELECT m.col FROM ({MAPS}) AS m WHERE m.path IN (SELECT path FROM p WHERE {{is_most}})", 1),
    (f"SELECT m.col FROM ({MAPS}) AS m SEMI JOIN ({SURE}) AS p ON m.image = p.image AND {{is_most}}", 1),
    (f"SELECT m.col FROM ({MAPS}) AS m JOIN ({SURE}) AS p ON m.image = p.image AND {{is_most}} AND m.top_px > 0", 1),
    (
        f"SELECT i.name, m.col FROM images AS i LEFT JOIN (({MAPS}) AS m JOIN ({SURE}) AS p ON m.path = p.path "
        "AND {is_most}) ON i.path = m.path",
        1,
    ),
    (
        f"SELECT m.col FROM ({MAPS}) m WHERE EXISTS (FROM ({SURE}) AS p WHERE p.image_id = m.image_id AND {{is_most}})",
        1,
    ),
    (f"SELECT m.col FROM ({MAPS}) m WHERE image IN (SELECT image FROM ({SURE}) ORDER BY probability DESC LIMIT 1)", 1),
]


@pytest.mark.parametrize(("sql", "n_images"), CASCADES)
def test_a_query_over_predictions_leaves_out_images(scans_db: Any, sql: str, n_images: int) -> None:
    ((most,),) = scans_db.execute(f"SELECT max(probability) FROM ({SURE})").fetchall()
    asked = sql.format(is_most=f"probability >= {most!r}::DOUBLE")
    on, off = both(scans_db, asked)
    assert on == off and on
    assert f"{n_images} of 4 images" in last_query(scans_db)
    assert "when the SQL runs" in str(scans_db.execute(f"PLAN {asked}"))


def test_without_its_rule_no_prediction_leaves_out_an_image(scans_db: Any) -> None:
    scans_db.execute("SET obeql.disabled_rules = 'push_joined_predictions'")
    sql = f"SELECT count(*) FROM ({MAPS}) WHERE image IN (SELECT image FROM ({SURE}) WHERE probability < 0)"
    assert rows(scans_db, sql) == [(0,)] and "what the SQL" not in last_query(scans_db)
    assert "its rule is switched off" in str(scans_db.execute(f"PLAN {sql}"))


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("NOT exact", "computes nothing"),
        ("exact IS NULL", "computes nothing"),
        ("run = 'yesterday'", "computes nothing"),
        ("run_id < 1", "computes nothing"),
        ("exact", "pushed  push_run_conditions"),
        ("exact AND run_id > 0", "pushed  push_run_conditions"),
        ("run_id % 2 = 0", "the number of the run is known when it is stored"),
        ("exact = (label = 'ant')", "the run and its images"),
    ],
)
def test_conditions_on_the_run_are_asked_before(scans_db: Any, condition: str, said: str) -> None:
    sql = f"SELECT * EXCLUDE (run, run_id) FROM ({MAPS}) WHERE {condition}"
    assert said in str(scans_db.execute(f"PLAN {sql}"))
    before = rows(scans_db, "SELECT count(*) FROM runs")
    on = rows(scans_db, sql)
    assert (before == rows(scans_db, "SELECT count(*) FROM runs")) == (said == "computes nothing")
    if "%" not in condition:
        assert on == both(scans_db, sql)[1]


def test_which_cells_are_exact_is_known_when_an_estimated_map_is_done(scans_db: Any) -> None:
    plan = str(scans_db.execute(f"PLAN FROM ({MAPS} APPROX 0.9) WHERE exact"))
    assert "known when the map is done" in plan and "pushed  " not in plan


# ---- any query -------------------------------------------------------------------------------------------------------

_ATOMS = [
    "label = 'ant'",
    "m.label <> 'ANT'",
    "label IS NULL",
    "label IS DISTINCT FROM 'Bee'",
    "image LIKE 'scan_'",
    "image > 'scan1'",
    "m.image_id % 2 = 0",
    "class_name = 'bee'",
    "class_name IN ('ant', 'cat', NULL)",
    "class_id < 2",
    "class_name = lower(label)",
    "top_px >= 8",
    "left_px + width_px <= 24",
    '"row" BETWEEN 1 AND 2',
    "col = 1",
    "patch = '16x16'",
    "importance > 0",
    "exact",
    "run_id > 0",
    "image IN (SELECT image FROM (PREDICT scans USING net FOR TOP 1) WHERE rank < image_id)",
    "top_px > m.image_id",
    "score < clean_score",
]
_CONDITIONS = st.recursive(
    st.sampled_from(_ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda part: f"(NOT {part})"),
    ),
    max_leaves=4,
)
_SHAPES = [
    "SELECT * EXCLUDE (run, run_id) FROM ({maps}) AS m WHERE {where}",
    "WITH m AS ({maps}) SELECT image, class_name, count(*), sum(importance) FROM m WHERE {where} GROUP BY ALL",
    "SELECT image, row, col, importance FROM ({maps}) AS m WHERE {where} ORDER BY ALL LIMIT 7",
    "SELECT DISTINCT m.image FROM ({maps}) AS m JOIN ages ON ages.path = m.path WHERE {where} AND age > 10",
    "SELECT name, (SELECT count(*) FROM ({maps}) AS m WHERE m.path = i.path AND {where}) FROM images i",
    "SELECT max(m.importance) OVER (PARTITION BY m.image) FROM ({maps}) AS m WHERE {where}",
    "SELECT m.label FROM ({maps}) AS m LEFT JOIN ages ON ages.path = m.path AND age > 20 WHERE {where}",
    "SELECT m.label FROM ages LEFT JOIN ({maps}) AS m ON ages.path = m.path AND top_px = 0 WHERE {where}",
    "SELECT m.label, top_px FROM ages LEFT JOIN ({maps}) AS m ON ages.path = m.path AND {where}",
    "SELECT m.label, age FROM ({maps}) AS m JOIN ages ON ages.path = m.path AND {where}",
    "SELECT m.label, col FROM ({maps}) AS m SEMI JOIN ages ON ages.path = m.path AND {where}",
]
_STATEMENTS = [
    MAPS,
    "EXPLAIN OCCLUDE scans USING net FOR CLASSES ('cat', 0) REGION (4, 0, 28, 30) WITH patch=[16, 8] border=clip",
]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(_STATEMENTS), st.sampled_from(_SHAPES), st.lists(_CONDITIONS, min_size=1, max_size=3))
def test_rules_change_no_row(scans_db: Any, maps: str, shape: str, conditions: list[str]) -> None:
    sql = shape.format(maps=maps, where=" AND ".join(conditions))
    on, off = both(scans_db, sql)
    assert on == off
