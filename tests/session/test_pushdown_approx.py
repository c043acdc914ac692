"""Push-down into APPROX: the most important windows, aggregates with their errors, decisions of HAVING."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter
from torch import nn

import obeql
from obeql.planner.pushdown.rules import PUSHDOWN_NAMES

OFF = f"SET obeql.disabled_rules = '{', '.join(PUSHDOWN_NAMES)}'"
EXACT = "EXPLAIN OCCLUDE blobs USING net WITH patch=12 stride=3 score=log_odds"
MAPS = f"{EXACT} APPROX 0.9"


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A session with the model `net`, and `blobs`, five pictures of blurred discs: 19 x 19 windows each."""
    folder = tmp_path_factory.mktemp("blobs")
    torch.manual_seed(3)
    layers = (nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.Conv2d(6, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(3))
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 3)).eval()
    random = np.random.default_rng(3)
    for number in range(5):
        picture = Image.new("RGB", (64, 64))
        for left, top, size in random.integers((2, 2, 5), (45, 45, 20), (5, 3)).tolist():
            color = tuple(random.integers(40, 255, 3).tolist())
            ImageDraw.Draw(picture).ellipse((left, top, left + size, top + size), fill=color)
        picture.filter(ImageFilter.GaussianBlur(1.5)).save(folder / f"blob{number}.png")
    with obeql.connect() as db:
        db.create_model("net", net, size=(64, 64), classes=["ant", "bee", "cat"])
        labels = "CASE WHEN file[-5] < '2' THEN 'ant' ELSE 'bee' END AS label"
        db.execute(
            f"CREATE IMAGES blobs FROM (SELECT file AS path, {labels} FROM glob('{folder}/*.png') ORDER BY file)"
        )
        db.execute(f"SELECT 1 FROM ({EXACT} FOR ALL INTO everything)")
        yield db


@pytest.fixture(autouse=True)
def fresh(blobs: Any) -> Iterator[None]:
    """Begin without stored cells that answer, so that windows are counted as they are computed."""
    blobs.execute("RESET obeql.disabled_rules")
    blobs.execute("SET obeql.reuse = false")
    yield
    blobs.execute("RESET obeql.reuse")


def n_computed(db: Any) -> int:
    """Return how many windows the latest run computed."""
    return int(db.execute("SELECT arg_max((measured->>'cells_computed')::INT, run_id) FROM runs").fetchall()[0][0])


def last_query(db: Any) -> str:
    return str(db.execute("SELECT arg_max(query, run_id) FROM runs").fetchall()[0][0])


# ---- the most important windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("select", "order"),
    [
        ("image, top_px, left_px, importance", "importance DESC LIMIT 5"),
        ("image, top_px, importance AS evidence", "evidence DESC LIMIT 3 OFFSET 2"),
        ("importance, image, label, class_name", "1 DESC LIMIT 2 * 2"),
        ("image, row, col", "score ASC LIMIT 1"),
    ],
)
def test_the_most_important_windows_are_searched(blobs: Any, select: str, order: str) -> None:
    blobs.execute("SET obeql.reuse = true")
    sql = f"SELECT {select} FROM ({MAPS}) WHERE label = 'bee' ORDER BY {order}"
    assert "pushed  push_top_cells" in str(blobs.execute(f"PLAN {sql}"))
    assert blobs.execute(sql).fetchall() == blobs.execute(sql.replace(MAPS, EXACT)).fetchall()
    assert "CELLS" in last_query(blobs).split("/*")[1] or "APPROX" not in last_query(blobs)


NO_TOP = [
    ("SELECT image FROM ({maps}) ORDER BY importance DESC, image LIMIT 3", "other columns decide"),
    ("SELECT image FROM ({maps}) ORDER BY importance LIMIT 3", "of largest importance"),
    ("SELECT image FROM ({maps}) ORDER BY abs(importance) DESC LIMIT 3", "of largest importance"),
    ("SELECT -importance AS importance FROM ({maps}) ORDER BY importance DESC LIMIT 3", "of largest importance"),
    ("SELECT image FROM ({maps}) WHERE top_px > 8 ORDER BY importance DESC LIMIT 3", "leaves out windows"),
    (
        "SELECT image FROM ({maps}) WHERE label = (SELECT 'ant') ORDER BY importance DESC LIMIT 3",
        "differently each time",
    ),
    ("SELECT image FROM ({maps}) m JOIN images i USING (path) ORDER BY importance DESC LIMIT 3", "a join"),
    ("SELECT DISTINCT image, importance FROM ({maps}) ORDER BY importance DESC LIMIT 3", "as they are"),
    ("SELECT image, rank() OVER (ORDER BY col) FROM ({maps}) ORDER BY importance DESC LIMIT 3", "several rows"),
    ("SELECT image FROM ({maps}) ORDER BY importance DESC LIMIT 50", "too many"),
    ("SELECT image FROM ({maps}) ORDER BY importance DESC LIMIT 5%", "no number of rows"),
]


@pytest.mark.parametrize(("sql", "why"), NO_TOP)
def test_what_is_no_search_for_the_most_important_windows(blobs: Any, sql: str, why: str) -> None:
    plan = str(blobs.execute(f"PLAN {sql.format(maps=MAPS)}"))
    assert why in plan and "push_top_cells" not in plan


def test_a_search_stays_where_it_is_less_sure_and_where_maps_are_exact(blobs: Any) -> None:
    sql = "PLAN SELECT image FROM ({maps}) ORDER BY importance DESC LIMIT 3"
    assert "less than CONFIDENCE asks for" in str(blobs.execute(sql.format(maps=f"{MAPS} CONFIDENCE 0.99")))
    assert "ORDER BY importance" not in str(blobs.execute(sql.format(maps=EXACT))).split("Logical plan")[0]


# ---- aggregates ------------------------------------------------------------------------------------------------------

ITEMS = [
    "avg(importance)",
    "sum(importance) AS total",
    "count(*) FILTER (WHERE importance > 0) AS n_positive",
    "count_if(importance > 0) / count(*) AS positive",
    "sum(importance) FILTER (WHERE top_px < 24 AND importance > 0) / sum(greatest(importance, 0)) AS upper",
    "round(100.0 * avg(CASE WHEN importance > 0 THEN 1 ELSE 0 END), 1)::DOUBLE AS percent",
    "avg(importance) FILTER (WHERE left_px BETWEEN 8 AND 40) - avg(importance) AS more",
]


@pytest.mark.parametrize("item", ITEMS)
def test_aggregates_come_with_an_error_that_holds(blobs: Any, item: str) -> None:
    sql = f"SELECT image, {item} FROM ({MAPS}) GROUP BY image ORDER BY image"
    assert "pushed  push_aggregates" in str(blobs.execute(f"PLAN {sql}"))
    found = blobs.execute(sql)
    name = found.columns[1]
    assert found.columns == ["image", name, f"{name}_error"]
    told = found.fetchall()
    # A share of the evidence may take all of so few windows.
    assert n_computed(blobs) < 5 * 361 or "upper" in item
    exact = f"SELECT image, {item} FROM windows WHERE run = 'everything' AND class_id = top_class_of GROUP BY image"
    predicted = "(SELECT image_id AS i, class_id AS top_class_of FROM predictions WHERE rank = 1) ON i = image_id"
    blobs.execute("PREDICT blobs USING net")
    true = dict(blobs.execute(exact.replace("FROM windows", f"FROM windows JOIN {predicted}")).fetchall())
    n_held = sum(abs(value - true[image]) <= error + 1e-6 + 0.05 * ("round" in item) for image, value, error in told)
    assert n_held >= 4  # of 5, at 95 % each


def test_the_same_question_again_computes_nothing(blobs: Any) -> None:
    blobs.execute("SET obeql.reuse = true")
    sql = f"SELECT image, avg(score) FROM ({MAPS.replace('patch=12', 'patch=13')}) GROUP BY image ORDER BY image"
    first = blobs.execute(sql).fetchall()
    n_first = n_computed(blobs)
    assert 0 < n_first < 5 * 361
    assert blobs.execute(sql).fetchall() == first and n_computed(blobs) == 0


def test_a_condition_on_places_samples_those_windows(blobs: Any) -> None:
    sql = f"SELECT avg(importance) FROM ({MAPS}) WHERE image = 'blob1' AND top_px < 30"
    plan = str(blobs.execute(f"PLAN {sql}"))
    assert plan.count("pushed  ") == 3 and "REGION" in plan
    ((value, error),) = blobs.execute(sql).fetchall()
    ((true,),) = blobs.execute(sql.replace(MAPS, EXACT)).fetchall()
    assert abs(value - true) <= error


def test_a_map_that_was_computed_whole_has_no_error(blobs: Any) -> None:
    maps = "EXPLAIN OCCLUDE blobs USING net WITH patch=32 stride=16 APPROX 0.9"
    sql = f"SELECT label, path, sum(score), count(*) FROM ({maps}) GROUP BY ALL ORDER BY path"
    blobs.execute(OFF)
    off = blobs.execute(sql).fetchall()
    blobs.execute("RESET obeql.disabled_rules")
    on = blobs.execute(sql).fetchall()
    assert [row[4:] for row in on] == [(0.0, 0.0)] * 5
    assert [(*row[:2], pytest.approx(row[2]), row[3]) for row in off] == [row[:4] for row in on]


NO_SAMPLE = [
    ("SELECT image, median(importance), avg(importance) FROM ({maps}) GROUP BY image", "has no error"),
    ("SELECT avg(importance) FROM ({maps})", "several images"),
    ("SELECT label, avg(importance) FROM ({maps}) GROUP BY label", "several images"),
    ("SELECT image, avg(importance) FROM ({maps} ) GROUP BY image, top_px", "divide the windows"),
    ("SELECT image, avg(DISTINCT importance) FROM ({maps}) GROUP BY image", "no plain sum"),
    ("SELECT image, avg(importance) FROM ({maps}) WHERE importance > 0 GROUP BY image", "FILTER takes it"),
    ("SELECT image, count(*) FILTER (WHERE label = 'ant') FROM ({maps}) GROUP BY image", "its image or class"),
    ("SELECT image, avg(importance) FROM ({maps}) JOIN images USING (path) GROUP BY image", "a join"),
    ("SELECT * FROM (SELECT image, avg(importance) FROM ({maps}) GROUP BY image)", "the outermost SELECT"),
    ("SELECT image, sqrt(avg(importance)) FROM ({maps}) GROUP BY image", "more than sums"),
    ("SELECT image, avg(importance) FROM ({maps}) GROUP BY ROLLUP (image)", "one way at a time"),
    ("SELECT image FROM ({maps}) GROUP BY image HAVING count(*) = 361", "by size"),
    ("SELECT image, avg(importance) FROM ({maps}) m GROUP BY upper(image), image", "more than columns"),
]


@pytest.mark.parametrize(("sql", "why"), NO_SAMPLE)
def test_what_no_sample_tells(blobs: Any, sql: str, why: str) -> None:
    plan = str(blobs.execute(f"PLAN {sql.format(maps=MAPS)}"))
    assert why in plan and "SampledAggregates" not in plan.split("Rejected alternatives", maxsplit=1)[0]


def test_rows_that_are_stored_keep_their_columns(blobs: Any) -> None:
    blobs.execute("SET obeql.reuse = true")
    blobs.execute(f"CREATE OR REPLACE TABLE means AS SELECT image, avg(importance) AS m FROM ({MAPS}) GROUP BY image")
    blobs.execute(f"INSERT INTO means SELECT image, avg(importance) FROM ({MAPS}) GROUP BY image")
    assert blobs.execute("FROM means").columns == ["image", "m"]


def test_several_classes_are_groups_of_their_own(blobs: Any) -> None:
    maps = MAPS.replace(" WITH", " FOR ALL WITH")
    sql = f"SELECT image_id, class_name, avg(importance) AS m FROM ({maps}) GROUP BY ALL ORDER BY ALL"
    told = blobs.execute(sql).fetchall()
    blobs.execute("SET obeql.reuse = true")
    true = blobs.execute(sql.replace(" APPROX 0.9", "")).fetchall()
    assert [row[:2] for row in told] == [row[:2] for row in true] and len(told) == 15
    n_held = sum(abs(a[2] - b[2]) <= a[3] for a, b in zip(told, true, strict=True))
    assert n_held >= 12  # of 15, at 95 % each; the three classes of an image share its sample
    assert "several classes" in str(blobs.execute(f"PLAN SELECT image, avg(score) FROM ({maps}) GROUP BY image"))


# ---- decisions -------------------------------------------------------------------------------------------------------

UPPER = "sum(importance) FILTER (WHERE importance > 0 AND top_px < 24)"
HAVING = [
    f"{UPPER} > 0.5 * sum(importance) FILTER (WHERE importance > 0)",
    f"NOT {UPPER} / sum(importance) FILTER (WHERE importance > 0) >= 0.3",
    "avg(importance) > 1e-6 AND count_if(importance > 0) < 500",
    "avg(importance) BETWEEN -1 AND 1 OR sum(score) > 1e9",
]


@pytest.mark.parametrize("having", HAVING)
def test_having_is_decided_from_samples(blobs: Any, having: str) -> None:
    sql = f"SELECT image FROM ({MAPS}) GROUP BY image HAVING {having} ORDER BY image"
    assert "pushed  push_having" in str(blobs.execute(f"PLAN {sql}"))
    told = set(blobs.execute(sql).fetchall())
    assert n_computed(blobs) <= 5 * 361
    blobs.execute("SET obeql.reuse = true")
    true = set(blobs.execute(sql.replace(MAPS, EXACT)).fetchall())
    assert len(told ^ true) <= 1


def test_a_clear_decision_takes_few_windows(blobs: Any) -> None:
    sql = f"SELECT image FROM ({MAPS}) GROUP BY image HAVING avg(importance) > 100"
    assert blobs.execute(sql).fetchall() == []
    assert n_computed(blobs) <= 5 * 32
    blobs.execute("SET obeql.disabled_rules = 'push_having'")
    assert "push_having" not in str(blobs.execute(f"PLAN {sql}")).split("SQL around")[1].split("Logical")[0]


# ---- any query -------------------------------------------------------------------------------------------------------

_VALUES = st.sampled_from(["importance", "score", "greatest(importance, 0)", "row + col", "(importance > 0)::INT"])
_FILTERS = st.sampled_from(["", " FILTER (WHERE importance > 0)", " FILTER (WHERE top_px < 20 OR left_px > 30)"])
_AGGREGATES = st.one_of(
    st.tuples(st.sampled_from(["sum", "avg", "count"]), _VALUES, _FILTERS).map(lambda a: f"{a[0]}({a[1]}){a[2]}"),
    _FILTERS.map(lambda each: f"count(*){each}"),
)
_EXPRESSIONS = st.one_of(
    _AGGREGATES,
    st.tuples(_AGGREGATES, st.sampled_from("+-*/"), st.sampled_from(["2", "0.5"])).map(" ".join),
    st.tuples(_AGGREGATES, st.just("/"), _AGGREGATES).map(" ".join),
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_EXPRESSIONS, min_size=1, max_size=3), _EXPRESSIONS, st.sampled_from(["", "WHERE top_px >= 16"]))
def test_weighted_rows_add_up_to_the_same(blobs: Any, items: list[str], having: str, where: str) -> None:
    """Where all windows are computed each stands for itself: aggregates with all rules are those without any."""
    blobs.execute("SET obeql.reuse = true")
    maps = "EXPLAIN OCCLUDE blobs USING net WITH patch=32 stride=8 APPROX 0.9"
    shown = ", ".join(f"{item} AS x{number}" for number, item in enumerate(items))
    sql = f"SELECT image, {shown} FROM ({maps}) {where} GROUP BY image HAVING {having} > 0.1 ORDER BY image"
    blobs.execute(OFF)
    off = blobs.execute(sql).fetchall()
    blobs.execute("RESET obeql.disabled_rules")
    on = [row[: 1 + len(items)] for row in blobs.execute(sql).fetchall()]
    assert [row[0] for row in on] == [row[0] for row in off]
    assert np.asarray([row[1:] for row in on], float) == pytest.approx(np.asarray([r[1:] for r in off], float))
