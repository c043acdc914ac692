"""A score is declared once: SQL has it, new files and those of before, and it says what Python does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from obeql.planner import scores
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, MapCells
from obeql.store import ImageMaps, RunRecord, Store, fresh, opening
from obeql.store.score_sql import with_scores

Z, OTHERS = np.array([[0.5, -2.0, np.nan], [40.0, 1.0, 3.0]], np.float32), np.full((2, 3), 0.25, np.float32)
CLEAN = (4.0, 0.25)


@pytest.fixture
def new_score(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Declare scores that nobody has written SQL for, as a row of the table would: of either number, near 1 or not."""

    def declare() -> None:
        cube = scores.Formula(lambda z: z**3, "power({z}, 3)")
        bent = scores.Formula(lambda z: 1 - np.exp(-np.exp(z)), "1 - exp(-exp({z}))")
        short = scores.Formula(lambda z: np.exp(-np.exp(z)), "exp(-exp({z}))")
        monkeypatch.setitem(scores.SCORES, "cube", scores.Score("logit", "cube", "z cubed", formula=cube))  # type: ignore[misc]
        monkeypatch.setitem(
            scores.SCORES,
            "bent",  # type: ignore[misc]
            scores.Score("log_odds", "bent", "bent", sql_unit="bends", formula=bent, short_of_one=short),
        )
        for module in ("obeql.planner.scores", "obeql.store.score_sql"):
            monkeypatch.setattr(f"{module}.OF_LOGIT", scores.OF_LOGIT | {"cube"})
        forget()

    def forget() -> None:
        for cached in (fresh.script, fresh.digest, fresh.names):
            cached.cache_clear()
        monkeypatch.setattr(opening, "_new_file", b"")

    yield declare
    monkeypatch.undo()
    forget()


def a_map() -> MapCells:
    return MapCells(
        CellKey("image", "model", "preprocessing", (4, 4), "mean", "float32"),
        class_id=1,
        logit=Z,
        others=OTHERS,
        top_class=np.where(np.isnan(Z), -1, 1).astype(np.int32),
        clean_logit=CLEAN[0],
        clean_others=CLEAN[1],
        clean_top_class=1,
        starts=(np.array([0, 4], np.int32), np.array([0, 4, 8], np.int32)),
        lengths=(np.full(2, 4, np.int32), np.full(3, 4, np.int32)),
    )


def store_run(store: Store, kind: str) -> None:
    store.register_images([ImageRecord("scan.jpg")])
    run = store.begin_run(RunRecord("q", "net", "model", "preprocessing", kind, kind, {"border": "cover"}))
    store.write_batch(run, [ImageMaps(1, [a_map()], {1: "cat"})])
    store.finish_run(run, "done")


def agrees(store: Store, kind: Any) -> None:
    """Views and macros say of a run of this score what Python does."""
    wanted = scores.score_of(kind, Z, OTHERS)
    importance = scores.importance_of(kind, CLEAN, Z, OTHERS)
    ask = store.connection.execute
    shown = "SELECT flatten(scores), flatten(importance), clean_score FROM heatmaps WHERE run_name = ?"
    cut = "SELECT scores, importance, clean_score FROM box_cells(0, 0, 2, 3) WHERE run_name = ?"
    for query in (shown, cut):
        ((got, drops, clean),) = ask(query, [kind]).fetchall()
        np.testing.assert_allclose(np.array(got, float), wanted.ravel(), rtol=1e-6)
        np.testing.assert_allclose(np.array(drops, float), importance.ravel(), rtol=1e-5, atol=1e-30)
        assert clean == pytest.approx(float(scores.score_of(kind, *CLEAN)))
    cells = "SELECT c.score, importance FROM cells AS c JOIN runs USING (run_id) WHERE run_name = ? ORDER BY row, col"
    of_macro = "SELECT score, importance FROM cells_of(?, 'scan') ORDER BY row, col"
    known = ~np.isnan(wanted.ravel())
    for query, rows in ((cells, slice(None)), (of_macro, known)):
        got = np.array(ask(query, [kind]).fetchall(), float)
        np.testing.assert_allclose(got[:, 0], wanted.ravel()[rows], rtol=1e-9)
        np.testing.assert_allclose(got[:, 1], importance.ravel()[rows], rtol=1e-9, atol=1e-300)
    unit = "SELECT DISTINCT score_kind, score_unit FROM windows WHERE run = ?"
    assert ask(unit, [kind]).fetchall() == [(kind, scores.SCORES[kind].sql_unit)]


def test_a_new_score_is_in_sql(new_score: Any) -> None:
    new_score()
    with Store() as store:
        for kind in ("cube", "bent", "log_odds"):
            store_run(store, kind)
            agrees(store, kind)


def test_a_file_of_before_gets_it(new_score: Any, tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    with Store(file) as store:
        store_run(store, "probability")
        store.connection.execute("CREATE VIEW mine AS SELECT run_name, clean_score FROM heatmaps")
    new_score()
    with Store(file, read_only=True) as store:  # read with the views it has
        agrees(store, "probability")
    with Store(file) as store:
        for kind in ("cube", "bent"):
            store_run(store, kind)
            agrees(store, kind)
        agrees(store, "probability")
        assert len(store.connection.execute("FROM mine").fetchall()) == 3
        commented = "SELECT count(*) FROM duckdb_columns() WHERE table_name = 'windows' AND comment IS NULL"
        assert store.connection.execute(commented).fetchall() == [(0,)]
    written = "SELECT count(*) FROM obeql_store.view_rows"
    with Store(file) as store:  # nothing to do any more
        assert store.connection.execute(written).fetchall() == [(2,)]


def test_views_stay_where_new_ones_cannot_be_made(new_score: Any, tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    with Store(file) as store:
        store_run(store, "probability")
    pattern = tmp_path / "gone" / "*.parquet"
    with duckdb.connect(str(file)) as plain:  # as a file whose maps lie in a folder that is lost
        (tmp_path / "gone").mkdir()
        plain.execute(f"COPY (FROM obeql_store.maps) TO '{tmp_path / 'gone' / 'a.parquet'}'")
        plain.execute(f"CREATE OR REPLACE VIEW obeql_store.map_rows AS FROM read_parquet('{pattern}')")
        agrees_before = plain.execute("SELECT clean_score FROM heatmaps").fetchall()
    (tmp_path / "gone" / "a.parquet").rename(tmp_path / "a.parquet")
    new_score()
    with Store(file) as store:
        assert [run.name for run in store.runs()] == ["probability"]
    (tmp_path / "a.parquet").rename(tmp_path / "gone" / "a.parquet")
    with Store(file) as store:
        assert store.connection.execute("SELECT clean_score FROM heatmaps").fetchall() == agrees_before
        agrees(store, "probability")
        sql = "SELECT sql FROM duckdb_views() WHERE view_name = 'map_rows'"
        assert str(pattern) in store.connection.execute(sql).fetchall()[0][0]


def test_every_place_of_the_scripts_is_filled() -> None:
    for name in ("views", "macros"):
        assert "{{" not in fresh.script(name).replace("{{ }}", "")
    assert with_scores("{{ unit kind }}").startswith("CASE kind WHEN 'probability' THEN '0 to 1'")


def test_every_score_is_declared_and_does_not_fall() -> None:
    assert tuple(scores.SCORES) == scores.SCORE_KINDS
    z = np.linspace(-30, 30, 601)
    for kind in scores.SCORE_KINDS:
        assert (np.diff(scores.score_of(kind, z, 0.0)) >= 0).all()
