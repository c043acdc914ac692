"""The view `windows`, and what other views say of a map in words, against the maps in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from PIL import Image

import obeql

UNITS = {"probability": "0 to 1", "log_odds": "nats", "log_probability": "nats", "logit": "of the output"}


@pytest.fixture
def picture(tmp_path: Path, pixels: Any) -> Path:
    """A picture of which the model sees the middle, at half its size."""
    Image.fromarray(pixels(5, 96)[:64]).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


@pytest.mark.parametrize("score", UNITS)
def test_windows_are_those_of_the_maps_in_words(db: Any, tiny_net: Any, picture: Path, score: str) -> None:
    db.create_model("net", tiny_net(), size=(32, 32), resize="shortest", classes=["ant", "bee", "cat"])
    source = f"(SELECT '{picture}' AS path, 'bee' AS label)"
    result = db.execute(f"EXPLAIN OCCLUDE {source} USING net FOR ALL WITH patch=8x12 stride=8 score={score} INTO mine")
    db.create_model("other", tiny_net(1), size=(32, 32))
    db.execute(f"EXPLAIN OCCLUDE '{picture}' USING other WITH patch=16 stride=16")
    rows = db.execute("FROM windows WHERE run = 'mine' ORDER BY class_id, row, col").fetchall()
    names = [name for name, *_ in db.execute("DESCRIBE windows").fetchall()]
    assert len(rows) == sum(heat.scores.size for heat in result)
    at = 0
    for heat in result:
        for place in np.ndindex(heat.shape):
            row = dict(zip(names, rows[at], strict=True))
            at += 1
            cell = heat.cell(*place)
            assert (row["run"], row["image"], row["label"], row["model"]) == ("mine", "wide", "bee", "net")
            assert (row["class_name"], row["patch"]) == (heat.class_name, "8x12")
            assert (row["score_kind"], row["score_unit"]) == (score, UNITS[score])
            assert row["top_class_name"] == ("ant", "bee", "cat")[cell.top_class] and row["exact"] is True
            assert (row["row"], row["col"]) == place
            box = (cell.top, cell.left, cell.height, cell.width)
            assert tuple(row[name] for name in ("top_px", "left_px", "height_px", "width_px")) == box
            wanted = heat.placement.source_box(*box)
            found = [row[f"source_{name}_px"] for name in ("top", "left", "height", "width")]
            assert found == pytest.approx(wanted)
            values = [row["importance"], row["score"], row["clean_score"]]
            assert values == pytest.approx([cell.importance, cell.score, heat.clean_score], rel=1e-9)
    unnamed = db.execute(
        "SELECT DISTINCT run, class_name, top_class_name FROM windows WHERE model = 'other'"
    ).fetchall()
    assert {run for run, *_ in unnamed} == {"2"}  # which macros take
    assert {name for _, *names in unnamed for name in names} <= {"0", "1", "2"}
    assert db.execute("SELECT count(*) FROM top_cells('2', 'wide', 99)").fetchall() == [(4,)]


def test_a_network_with_one_output_has_the_classes_no_and_yes(db: Any, picture: Path) -> None:
    import torch

    torch.manual_seed(0)
    yes = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 1))
    db.create_model("tumour", yes, size=(32, 32), classes=["tumour"])
    db.create_model("bare", yes, size=(32, 32))
    for model, names in (("tumour", {"not tumour", "tumour"}), ("bare", {"no", "yes"})):
        db.execute(f"EXPLAIN OCCLUDE '{picture}' USING {model} FOR ALL WITH patch=4 stride=4 INTO {model}")
        found = db.execute(f"SELECT DISTINCT class_name, top_class_name FROM windows WHERE run = '{model}'").fetchall()
        assert {name for name, _ in found} == names and {name for _, name in found} <= names


def test_windows_without_a_value_are_left_out(net_db: Any, picture: Path) -> None:
    found = net_db.execute(f"EXPLAIN OCCLUDE '{picture}' USING net FOR CLASS 1 WITH patch=8 stride=1 TOP 2 CELLS")
    n_computed = int(np.isfinite(found[0].scores).sum())
    assert net_db.execute("SELECT count(*), bool_and(exact) FROM windows").fetchall() == [(n_computed, True)]


def test_estimated_windows_are_marked(net_db: Any, picture: Path) -> None:
    """Half of a map's windows are told to be estimated, as APPROX leaves them."""
    net_db.execute(f"EXPLAIN OCCLUDE '{picture}' USING net FOR CLASS 1 WITH patch=8 stride=8")
    net_db.execute("UPDATE obeql_store.maps SET exact = [[c % 2 = 0 FOR c IN range(len(row))] FOR row IN logit]")
    rows = net_db.execute("SELECT col, exact FROM windows").fetchall()
    assert rows and all(exact is (col % 2 == 0) for col, exact in rows)


def test_the_file_answers_under_another_name(tmp_path: Path, tiny_net: Any, picture: Path) -> None:
    file = tmp_path / "heat.duckdb"
    with obeql.connect(file) as db:
        db.create_model("net", tiny_net(), size=(32, 32), classes=["ant", "bee", "cat"])
        db.execute(f"EXPLAIN OCCLUDE '{picture}' USING net WITH patch=8 stride=8 score=log_probability INTO mine")
        wanted = db.execute("FROM windows ORDER BY ALL").fetchall()
    with duckdb.connect() as plain:
        plain.execute("CREATE TABLE heatmaps AS SELECT 1 AS mine")
        plain.execute(f"ATTACH '{file}' AS other (READ_ONLY)")
        assert plain.execute("FROM other.windows ORDER BY ALL").fetchall() == wanted != []
        assert len(plain.execute("FROM other.cells").fetchall()) == len(wanted)
        comment = (
            "SELECT comment FROM duckdb_columns() WHERE database_name = 'other' AND column_name = 'top_class_name'"
        )
        assert "Name of the class" in plain.execute(comment).fetchall()[0][0]


def test_a_score_kind_is_a_word_and_maps_know_their_image(net_db: Any, picture: Path) -> None:
    net_db.execute(f"EXPLAIN OCCLUDE '{picture}' USING net WITH patch=16 stride=16 score=logit INTO mine")
    for view in ("heatmaps", "runs", "box_cells(0, 0, 1, 1)"):
        assert net_db.execute(f"SELECT score_kind, score FROM {view}").fetchall() == [("logit", "logit")]
    assert net_db.execute("SELECT name FROM heatmaps").fetchall() == [("wide",)]


def test_centre_of_mass_in_pixels(net_db: Any, picture: Path) -> None:
    (heat,) = net_db.execute(f"EXPLAIN OCCLUDE '{picture}' USING net FOR CLASS 0 WITH patch=8x6 stride=5 border=clip")
    weight = np.maximum(np.nan_to_num(heat.importance.astype(float)), 0)
    middles = np.meshgrid(heat.tops + heat.heights / 2, heat.lefts + heat.widths / 2, indexing="ij")
    wanted = [float((weight * middle).sum() / weight.sum()) for middle in middles]
    sql = "SELECT centre_of_mass(importance, tops, lefts, heights, widths) FROM heatmaps"
    ((found,),) = net_db.execute(sql).fetchall()
    assert [found["y"], found["x"]] == pytest.approx(wanted, rel=1e-5)
