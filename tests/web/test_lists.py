"""What the page lists, edits, compares and hands on, as JSON and as files."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import obeql
from obeql.executor.adaptive.map_quality import ssim
from obeql.web.views import VIEWS
from tests.web.conftest import CLASSES, Site, decoded


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Any:
    """A page whose database has runs, for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("full")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    with obeql.connect(folder / "heat.duckdb") as session:
        session.execute("EXPLAIN OCCLUDE scans USING net FOR ALL WITH patch=8 stride=8 score=log_odds INTO every")
        fine = "EXPLAIN OCCLUDE scan1 USING net FOR CLASS 'ant' WITH patch=8 stride=4 score=log_odds INTO fine"
        session.execute(fine)
        site = Site(session)
        with site.client:
            yield site
        site.page.close()


def test_the_state_names_what_there_is(full: Any) -> None:
    state = full.get("/api/state")
    assert [each["name"] for each in state["models"]] == ["net"] and state["models"][0]["classes"] == CLASSES
    assert [(each["name"], each["n_images"]) for each in state["image_sets"]] == [("scans", 3)]
    assert "blur" in state["fills"] and "log_odds" in state["scores"]


def test_runs_come_newest_first_a_page_at_a_time(full: Any) -> None:
    found = full.get("/api/runs")
    assert [run["run_name"] for run in found["runs"]] == ["fine", "every"] and found["total"] == 2
    assert [run["n_maps"] for run in found["runs"]] == [1, 9]
    assert found["runs"][1]["n_images"] == 3 and found["runs"][0]["image"] == "scan1"
    assert [run["run_name"] for run in full.get("/api/runs", start=1, most=1)["runs"]] == ["every"]
    assert [run["run_name"] for run in full.get("/api/runs", words="for class 'ant'")["runs"]] == ["fine"]
    first = found["runs"][0]
    assert full.get(f"/api/runs/{first['run_id']}/maps/{first['map_id']}-{first['image_id']}")["class_name"] == "ant"


def test_a_sheet_is_sorted_and_filtered_by_sql_that_it_shows(full: Any) -> None:
    found = full.get("/api/runs/1/sheet", order="list_max(flatten(importance))", where="class_name <> 'bee'", most=4)
    assert found["total"] == 6 and len(found["maps"]) == 4
    values = [each["value"] for each in found["maps"]]
    assert values == sorted(values, reverse=True)
    heats = {(heat.image_id, heat.class_name): heat for heat in full.session.run("every")}
    for each in found["maps"]:
        assert each["value"] == pytest.approx(float(heats[each["image_id"], each["class_name"]].importance.max()))
    assert full.post("/api/sql", sql=found["sql"])["rows"][0][-1] == values[0]
    rest = full.get("/api/runs/1/sheet", order="list_max(flatten(importance))", where="class_name <> 'bee'", start=4)
    assert len(rest["maps"]) == 2
    assert len(full.get("/api/runs/1/sheet")["maps"]) == 9
    up = full.get("/api/runs/1/sheet", order="clean_score", ascending="true")["maps"]
    assert [each["value"] for each in up] == sorted(each["value"] for each in up)


def test_every_preset_of_a_sheet_is_sql_that_runs(full: Any) -> None:
    for preset in full.get("/api/state")["sheet_presets"]:
        found = full.get("/api/runs/1/sheet", order=preset["sql"])
        assert len(found["maps"]) == 9, preset["words"]
    outside = full.get("/api/runs/1/sheet", order=full.get("/api/state")["sheet_presets"][2]["sql"])["maps"]
    heat = {(h.image_id, h.class_name): h for h in full.session.run("every")}
    for each in outside:
        positive = np.maximum(heat[each["image_id"], each["class_name"]].importance, 0)
        assert each["value"] == pytest.approx(1 - positive[2:6, 2:6].sum() / positive.sum(), abs=1e-5)


@pytest.mark.parametrize("part", ["order", "where"])
@pytest.mark.parametrize(
    ("sql", "status"),
    [
        ("nothing_of_it", 400),
        ("(", 400),
        ("(SELECT count(*) FROM read_text('/etc/passwd')) > 0", 403),
        ("nextval('obeql_store.run_ids') > 0", 403),
        ("1 = 1); DROP TABLE x; --", 403),
    ],
)
def test_what_a_sheet_cannot_ask_is_said(full: Any, part: str, sql: str, status: int) -> None:
    answer = full.client.get("/api/runs/1/sheet", params={part: sql})
    assert answer.status_code in (status, 400) and answer.json()["error"]


def test_maps_are_compared_in_numbers(full: Any) -> None:
    runs = full.get("/api/runs")["runs"]
    keys = {run["run_name"]: f"{run['run_id']}/{run['map_id']}-{run['image_id']}" for run in runs}
    every = full.get("/api/runs/1")["maps"]
    other = f"1/{every[1]['key']}"
    first = full.session.run("every")[0].importance.astype(np.float64)
    second = full.session.run("every")[1].importance.astype(np.float64)
    (pair,) = full.get("/api/compare", map=[keys["every"], other])["pairs"]
    assert pair["ssim"] == pytest.approx(float(ssim(first[None], second)[0]))
    assert pair["largest_difference"] == pytest.approx(float(np.abs(first - second).max()))
    ranks = [np.argsort(np.argsort(plane.ravel())) for plane in (first, second)]
    assert pair["rank_correlation"] == pytest.approx(float(np.corrcoef(*ranks)[0, 1]), abs=1e-3)
    (same,) = full.get("/api/compare", map=[keys["fine"], keys["fine"]])["pairs"]
    assert same["ssim"] == pytest.approx(1) and same["rank_correlation"] == pytest.approx(1)
    across = full.get("/api/compare", map=[keys["every"], keys["fine"], other])["pairs"]  # another stride
    assert len(across) == 2 and across[0]["cells"] == 64
    for wrong in ([keys["fine"]], [keys["fine"]] * 5):
        assert full.client.get("/api/compare", params={"map": wrong}).status_code == 400
    assert full.client.get("/api/compare", params={"map": ["x", "y"]}).status_code == 404


def test_differences_come_as_planes(full: Any) -> None:
    every = full.get("/api/runs/1")["maps"]
    addresses = [f"1/{each['key']}" for each in every[:3]]
    frame = decoded(full.client.get("/api/compare.bin", params={"map": addresses}).content)
    heats = full.session.run("every")
    assert np.allclose(frame["difference_2"], heats[2].importance - heats[0].importance, atol=1e-6)


def test_a_map_is_downloaded(full: Any) -> None:
    key = full.get("/api/runs/1")["maps"][0]["key"]
    picture = full.client.get(f"/api/runs/1/maps/{key}/file.png", params={"limit": 2, "alpha": 0.5, "sign": "positive"})
    assert picture.content.startswith(b"\x89PNG") and "attachment" in picture.headers["content-disposition"]
    numbers = np.load(io.BytesIO(full.client.get(f"/api/runs/1/maps/{key}/file.npz").content))
    assert np.array_equal(numbers["importance"], full.session.run("every")[0].importance)
    report = full.client.get("/api/runs/1/report.html")
    assert "<canvas" in report.text or "Where it looks" in report.text
    assert full.client.get(f"/api/runs/1/maps/{key}/file.exe").status_code == 400
    assert full.client.get(f"/api/runs/1/maps/{key}/file.png", params={"limit": "x"}).status_code == 400


def test_a_table_is_downloaded_whole(full: Any) -> None:
    answer = full.client.post("/api/sql.csv", json={"sql": "SELECT i, 'a,b' AS t FROM range(3000) AS r(i)"})
    lines = answer.text.splitlines()
    assert lines[0] == "i,t" and lines[1] == '0,"a,b"' and len(lines) == 3001
    shown = full.post("/api/sql", sql="FROM range(3000)")
    assert len(shown["rows"]) == 1000 and shown["more"] is True


# ---- the editor -----------------------------------------------------------------------------------------------


def test_the_editor_colors_completes_and_points(full: Any) -> None:
    text = "EXPLAIN OCCLUDE scans USING n"
    facts = full.post("/api/editor", text=text, cursor=len(text))
    assert ["net", "model", 1] in [[each["text"], each["kind"], each["replaces"]] for each in facts["suggestions"]]
    assert [0, 7, "keyword"] in facts["tokens"] and [16, 5, "name"] in facts["tokens"]
    wrong = full.post("/api/editor", text="EXPLAIN OCCLUDE scans USNG net", cursor=None)
    assert wrong["mistake"]["offset"] == 22 and wrong["kind"] == "wrong" and wrong["suggestions"] == []
    assert full.post("/api/editor", text="SELECT 1", cursor=None)["kind"] == "sql"
    assert full.post("/api/editor", text="", cursor=0)["kind"] == "empty"
    paths = full.post("/api/editor", text="EXPLAIN OCCLUDE '/", cursor=18)
    assert paths["suggestions"] == []  # nobody browses this machine's folders


def test_a_statement_and_its_controls_are_one(full: Any) -> None:
    text = "EXPLAIN OCCLUDE scan1 USING net FOR TOP 2 WITH patch=16 stride=4 workers=2 ON cpu INTO mine"
    changed = full.post("/api/statement", text=text, changes={"patch": 8, "region": [1, 2, 30, 40], "approx": 0.9})
    assert changed["text"] == (
        "EXPLAIN OCCLUDE scan1 USING net FOR TOP 2 REGION (1, 2, 30, 40) WITH patch=8 stride=4 workers=2 APPROX 0.9 "
        "ON cpu INTO mine"
    )
    assert changed["parts"]["region"] == [1, 2, 30, 40] and changed["parts"]["approx"] == 0.9
    back = full.post("/api/statement", text=changed["text"], changes={"patch": 16, "region": None, "approx": None})
    assert back["text"] == text
    new = full.post(
        "/api/statement",
        text="",
        changes={
            "source": {"kind": "path", "value": "it's.png"},
            "model": "my net",
            "classes": {"class_id": 1, "class_name": "bee"},
            "score": "log_odds",
            "fill": "(0, 0.5, 1)",
            "within": 3,
        },
    )
    assert new["text"] == (
        "EXPLAIN OCCLUDE 'it''s.png' USING \"my net\" FOR CLASS 'bee' WITH score=log_odds fill=(0, 0.5, 1) "
        "WITHIN 3.0 SECONDS"
    )
    for changes in ({"nothing": 1}, {"region": [1]}, {"patch": "8 stride=2"}, {"source": {}}):
        assert full.post("/api/statement", 400, text=text, changes=changes)["error"]


def test_names_are_asked_anew_once_a_statement_has_ended(make_site: Callable[..., Any], session: Any) -> None:
    site = make_site(session)
    text = "EVALUATE "
    assert not site.post("/api/editor", text=text, cursor=9)["suggestions"]
    site.run("EXPLAIN OCCLUDE scan1 USING net WITH patch=32 stride=32 INTO mine")
    assert "mine" in [each["text"] for each in site.post("/api/editor", text=text, cursor=9)["suggestions"]]


def test_ten_thousand_runs_are_listed_at_once(make_site: Callable[..., Any], session: Any) -> None:
    session.execute("EXPLAIN OCCLUDE scan1 USING net WITH patch=32 stride=32 INTO mine")
    session.execute(
        "INSERT INTO obeql_store.run_rows SELECT run.* REPLACE (run_id + i AS run_id, NULL AS name) "
        "FROM obeql_store.run_rows AS run, range(1, 10001) AS more(i)"
    )
    session.execute(
        "INSERT INTO obeql_store.run_events "
        "SELECT event.* REPLACE (run_id + i AS run_id, entry_id + 1000 + i AS entry_id) "
        "FROM obeql_store.run_events AS event, range(1, 10001) AS more(i)"
    )
    session.execute(
        "INSERT INTO obeql_store.run_maps SELECT map.* REPLACE (run_id + i AS run_id, entry_id + 9000 + i AS entry_id) "
        "FROM obeql_store.run_maps AS map, range(1, 10001) AS more(i)"
    )
    site = make_site(session)
    found = site.get("/api/runs", start=5000, most=50)
    assert found["total"] == 10_001 and len(found["runs"]) == 50 and found["runs"][0]["n_maps"] == 1


def test_the_page_is_told_its_views_and_gets_their_modules(site: Any) -> None:
    views = site.get("/api/state")["views"]
    assert [each["name"] for each in views] == [view.name for view in VIEWS]
    for each in views:
        assert "export default class" in site.client.get(f"/static/{each['module']}").text
