"""Export of a run to Parquet, NPZ and PNG, from Python, as a statement and in the prompt."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from PIL import Image

from obeql.errors import ImageError, ObeqlError, QuerySyntaxError, QueryTypeError, UnknownNameError
from obeql.export.folders import FOLDER_FORMATS

EXPLAIN = """EXPLAIN OCCLUDE (SELECT file AS path, 'x' AS label, 7 AS age FROM glob('{}/*.png') ORDER BY file)
             USING net FOR CLASSES (0, 2) WITH patch=[8, 12] stride=4 score=log_odds INTO first"""


@pytest.fixture
def result(net_db: Any, folder: Path) -> Any:
    return net_db.execute(EXPLAIN.format(folder))


def test_parquet_holds_every_number(result: Any, net_db: Any, tmp_path: Path) -> None:
    (file,) = result.export(tmp_path / "new" / "folder")
    assert file.name == "heatmaps.parquet"
    rows = duckdb.sql(f"FROM '{file}'").to_arrow_table().to_pylist()
    assert len(rows) == len(result) == 12
    for row, heat in zip(rows, result, strict=True):
        np.testing.assert_array_equal(np.array(row["scores"], np.float32), heat.scores)
        np.testing.assert_array_equal(np.array(row["importance"], np.float32), heat.importance)
        np.testing.assert_array_equal(row["top_class"], heat.top_class)
        np.testing.assert_array_equal(row["tops"], heat.tops)
        assert (row["image"], row["label"], row["class_name"], row["run_name"]) == (
            heat.image,
            "x",
            heat.class_name,
            "first",
        )
        assert row["clean_score"] == heat.clean_score
        assert (row["patch_height"], row["stride_height"], row["input_width"]) == (heat.patch[0], 4, 32)
        assert row["columns"] == '{"age":7}'
    in_sql = net_db.execute("SELECT importance FROM heatmaps WHERE run_name = 'first' ORDER BY map_id").fetchall()
    for row, (importance,) in zip(rows, in_sql, strict=True):
        np.testing.assert_allclose(row["importance"], importance, rtol=1e-4, atol=1e-5)


def test_cells_that_were_not_computed_are_null(net_db: Any, folder: Path, tmp_path: Path) -> None:
    result = net_db.execute(f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net WITH patch=4 stride=2 TOP 3 CELLS")
    (file,) = result.export(tmp_path)
    scores = duckdb.sql(f"SELECT scores FROM '{file}'").fetchall()[0][0]
    missing = np.array([[value is None for value in row] for row in scores])
    np.testing.assert_array_equal(missing, np.isnan(result[0].scores))


def test_a_file_a_map_and_a_list_of_them(result: Any, tmp_path: Path) -> None:
    files = result.export(tmp_path, "npz")
    assert [file.name for file in files[:2]] == ["00_scan1_ant_8x8.npz", "01_scan1_cat_8x8.npz"]
    assert files[-1].name == "maps.csv"
    with files[-1].open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["file"] for row in listed] == [path.name for path in files[:-1]]
    assert listed[0]["label"] == "x"
    for row, heat in zip(listed, result, strict=True):
        with np.load(tmp_path / row["file"], allow_pickle=False) as numbers:
            np.testing.assert_array_equal(numbers["importance"], heat.importance)
            told = json.loads(str(numbers["provenance"]))
        assert float(row["clean_score"]) == heat.clean_score
        assert told["statement"] == result.query
        assert (told["class"], told["model_hash"]) == (heat.class_name, heat.cells.key.model_hash)
    pictures = result[:2].export(tmp_path / "png", "PNG")
    assert len(pictures) == 3
    for picture, heat in zip(pictures, result[:2], strict=False):
        with Image.open(picture) as image:
            assert image.format == "PNG"
            told = json.loads(image.info["obeql"])
        assert (told["statement"], told["image_hash"]) == (result.query, heat.cells.key.image_hash)
        assert told["versions"].keys() >= {"obeql", "torch", "duckdb"}


@pytest.mark.parametrize(
    ("suffix", "where"), [("png", b"obeql"), ("svg", b"description"), ("pdf", b"/Subject"), ("jpg", b"model_hash")]
)
def test_a_picture_says_where_it_comes_from(result: Any, tmp_path: Path, suffix: str, where: bytes) -> None:
    result[:1].save(tmp_path / f"one.{suffix}")
    assert where in (tmp_path / f"one.{suffix}").read_bytes()
    result[0].save(tmp_path / "alone.png")  # a map alone does not know its statement
    with Image.open(tmp_path / "alone.png") as image:
        told = json.loads(image.info["obeql"])
    assert "statement" not in told and told["model"] == "net"
    result[:2].save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert json.loads(image.info["obeql"])["statement"] == result.query


def test_the_statement(result: Any, net_db: Any, tmp_path: Path) -> None:
    message = net_db.execute(f"EXPORT RUN first TO '{tmp_path}/out'")
    assert str(message) == f"12 heat maps exported to {tmp_path}/out as parquet, 1 file"
    net_db.execute("EXPORT RUN 1 TO ? FORMAT NPZ", [tmp_path / "arrays"])
    assert len(list((tmp_path / "arrays").iterdir())) == 13
    with pytest.raises(UnknownNameError, match="no run 'fist'"):
        net_db.execute("EXPORT RUN fist TO 'x'")


def test_an_unknown_format_is_shown_where_it_stands(result: Any, net_db: Any, tmp_path: Path) -> None:
    known = ", ".join(each.name for each in FOLDER_FORMATS)
    with pytest.raises(QueryTypeError, match=known) as wrong:
        net_db.execute(f"EXPORT RUN first TO '{tmp_path}/x' FORMAT pngs")
    assert "Did you mean 'png'" in str(wrong.value) and "line 1, column" in str(wrong.value)
    with pytest.raises(QueryTypeError, match=known):
        result.export(tmp_path / "x", "pngs")
    with pytest.raises(QuerySyntaxError, match="expected a name"):
        net_db.execute("EXPORT RUN first TO 'x' FORMAT 'png'")
    assert not (tmp_path / "x").exists()


def test_one_file(result: Any, net_db: Any, tmp_path: Path) -> None:
    said = str(net_db.execute(f"EXPORT RUN first TO '{tmp_path}/run.html'"))
    assert said == f"12 heat maps drawn to {tmp_path}/run.html" and (tmp_path / "run.html").is_file()
    said = str(net_db.execute(f"EXPORT RUN first TO '{tmp_path}/run.parquet'"))
    n_cells = sum(heat.scores.size for heat in result)
    assert said.endswith(f"{n_cells:,} rows, one a window")
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/run.parquet'").fetchall() == [(n_cells,)]
    said = str(net_db.execute(f"EXPORT RUN first TO '{tmp_path}/run.npz'"))
    assert said == f"12 heat maps written to {tmp_path}/run.npz"
    with np.load(tmp_path / "run.npz", allow_pickle=False) as numbers:
        for place, heat in enumerate(result):
            np.testing.assert_array_equal(numbers[f"{place}/importance"], heat.importance)
            assert str(numbers[f"{place}/class_name"]) == heat.class_name
    assert result.export(tmp_path / "sheet.png") == [tmp_path / "sheet.png"]
    with pytest.raises(QueryTypeError, match="EXPORT RUN"):
        result.export(tmp_path / "cells.csv")
    assert result.export(tmp_path / "maps.v2")[0].parent == tmp_path / "maps.v2"


def test_render_into_every_kind_of_file(result: Any, net_db: Any, tmp_path: Path) -> None:
    def render(name: str, options: str = "") -> str:
        return str(net_db.execute(f"RENDER first TO '{tmp_path}/{name}' {options}")).replace(f"{tmp_path}/", "")

    classes = sorted({heat.class_name for heat in result})
    of_one = sum(heat.class_name == classes[0] for heat in result)
    assert render("run.html", "WITH opacity=0.5 limit=2 shared=off cmap=RdBu_r sign=positive") == (
        "12 heat maps drawn to run.html"
    )
    assert '"alpha": 0.5' in (tmp_path / "run.html").read_text()
    assert render("one.gif", "WITH map=3 opacity=0.9") == "1 heat map drawn to one.gif"
    assert render("one.npz", "WITH map=3") == "1 heat map written to one.npz"
    assert render("all.npy") == "12 heat maps written to all_00.npy .. all_11.npy"
    np.testing.assert_array_equal(np.load(tmp_path / "all_11.npy"), result[11].importance)
    films = result[:2].save(tmp_path / "film.gif", n_frames=4)
    assert films == [tmp_path / "film_0.gif", tmp_path / "film_1.gif"]
    for film in films:
        with Image.open(film) as opened:
            assert getattr(opened, "n_frames", 1) > 1
    with np.load(tmp_path / "one.npz", allow_pickle=False) as numbers:
        np.testing.assert_array_equal(numbers["importance"], result[3].importance)
    assert render("some.png", f"WITH class='{classes[0]}' columns=2 dpi=30") == f"{of_one} heat maps drawn to some.png"
    assert render("some.png", f"WITH class=['{classes[0].upper()}', 2] dpi=30") == "12 heat maps drawn to some.png"
    with Image.open(tmp_path / "some.png") as small:
        width = small.width
    render("large.png", f"WITH class=['{classes[0]}', 2] dpi=60")
    with Image.open(tmp_path / "large.png") as large:
        assert large.width == pytest.approx(2 * width, abs=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.gif", "WITH columns=2", "does not take columns; it takes map, class, opacity, limit, cmap, sign"),
        ("a.npz", "WITH sign=all", "is a numpy file, which does not take sign; it takes map, class"),
        ("a.gif", "WITH map=0 dpi=100", "does not take dpi; it takes map, class, opacity, limit, cmap, sign"),
        ("a.html", "WITH columns=2", "is a report, which does not take columns"),
        ("a.png", "WITH map=12", "12 heat maps, counted from 0; there is none of number 12"),
        ("a.png", "WITH map=1 class=1", "give one of them"),
        ("a.png", "WITH class='zebra'", "no map of class 'zebra'; it has"),
        ("a.png", "WITH opacity=2", "above 0 and up to 1, not 2"),
        ("a.png", "WITH limit=0", "limit takes a number above 0"),
        ("a.png", "WITH cmap='nope'", "no colormap of matplotlib"),
        ("a.png", "WITH sign=plus", "sign takes all, positive, negative or absolute"),
        ("a.png", "WITH opacty=1", "RENDER has no option 'opacty'; it has map, class, opacity"),
        ("a.tex", "", "needs a suffix of .png"),
    ],
)
def test_render_says_what_is_possible(result: Any, net_db: Any, name: str, options: str, message: str) -> None:
    with pytest.raises(ObeqlError, match=re.escape(message)):
        net_db.execute(f"RENDER first TO '{name}' {options}")


def test_mistakes(result: Any, tmp_path: Path) -> None:
    with pytest.raises(QueryTypeError, match="allowed are parquet, npz, png"):
        result.export(tmp_path, "csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="is a file: name a folder for FORMAT PARQUET"):
        result.export(tmp_path / "file")


def test_a_folder_named_like_a_file(result: Any, tmp_path: Path) -> None:
    with pytest.raises(QueryTypeError, match=r"'.*maps\.npz' is named like a file, .* or leave out the format"):
        result.export(tmp_path / "maps.npz", "npz")
    assert result.export(tmp_path / "maps.npz") == [tmp_path / "maps.npz"]
    with pytest.raises(QueryTypeError, match=r"needs a suffix of .*or name a folder\. Did you mean"):
        result.export(tmp_path / "maps.htlm")
    (tmp_path / "maps.npz").unlink()
    (tmp_path / "maps.npz").mkdir()
    assert result.export(tmp_path / "maps.npz", "npz")


def test_an_empty_result(result: Any, tmp_path: Path) -> None:
    (file,) = result[:0].export(tmp_path)
    assert duckdb.sql(f"FROM '{file}'").fetchall() == []


def test_networks_of_one_yes_or_no_are_written(db: Any, pixels: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3600, 1)
    db.create_model("one", torch.nn.Sequential(*parts).eval(), size=(32, 32))
    db.explain([pixels(1), pixels(2)], "one", classes=[0, 1], patch=8, stride=8, into="both")
    for name in ("a.png", "a.html", "a.npz", "a.csv"):
        said = str(db.execute(f"EXPORT RUN both TO '{tmp_path}/{name}'"))
        assert said.startswith("4 heat maps") and (tmp_path / name).stat().st_size > 0
    assert str(db.execute(f"RENDER both TO '{tmp_path}/no.png' WITH class='no'")).startswith("2 heat maps drawn")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as numbers:
        assert [str(numbers[f"{place}/class_name"]) for place in range(4)] == ["no", "yes"] * 2
        np.testing.assert_allclose(numbers["0/importance"], -numbers["1/importance"], atol=1e-6)
    db.execute(f"EXPORT RUN both TO '{tmp_path}/folder'")
    rows = duckdb.sql(f"SELECT DISTINCT class_id, class_name FROM '{tmp_path}/folder/heatmaps.parquet' ORDER BY 1")
    assert rows.fetchall() == [(0, "no"), (1, "yes")]
