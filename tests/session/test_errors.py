"""Bad input: one clear sentence with place and remedy, the right class, and a database that is as it was."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import obeql
from obeql.errors import (
    DeviceError,
    ExecutionError,
    ImageError,
    ModelError,
    ObeqlError,
    QueryError,
    QuerySyntaxError,
    QueryTypeError,
    StoreError,
    UnknownNameError,
    UnsupportedError,
)

SIZE = 32


@pytest.fixture
def net_db(shared_db: Any) -> Any:
    """One session for the file: what these tests run leaves it as it was."""
    return shared_db


@pytest.fixture
def refused(net_db: Any, dump: Any) -> Callable[..., ObeqlError]:
    """Run a statement that has to fail: check its class and words, and that nothing was kept. Return the error."""

    def run(statement: str, kind: type[ObeqlError], said: str, parameters: Any = None) -> ObeqlError:
        before = dump(net_db)
        with pytest.raises(kind, match=said) as caught:
            net_db.execute(statement, parameters)
        assert type(caught.value) is kind, type(caught.value)
        assert dump(net_db) == before
        assert "Traceback" not in str(caught.value)
        return caught.value

    return run


# ---- clauses that are parsed and not implemented -----------------------------------------------------------


@pytest.mark.parametrize(
    ("clause", "named"),
    [
        ("WITH workers=2 WITHIN 5 SECONDS", "workers=2"),
    ],
)
def test_unsupported_clauses(refused: Any, folder: Path, clause: str, named: str) -> None:
    for prefix in ("", "PLAN ", "PLAN ANALYZE "):
        refused(f"{prefix}EXPLAIN OCCLUDE '{folder}/scan1.png' USING net {clause}", UnsupportedError, named)


def test_unsupported_comes_before_the_catalog(refused: Any) -> None:
    refused("EXPLAIN OCCLUDE nothing USING nobody ON ray WITHIN 5 SECONDS", UnsupportedError, "ON ray")


def test_without_ray(refused: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(f"EXPLAIN OCCLUDE '{folder}/*.png' USING net ON ray", UnsupportedError, "needs the package ray")


# ---- the query ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "kind", "said"),
    [
        ("WITH patch=0", QueryTypeError, "patch is at least 1 pixel"),
        ("WITH stride=0", QueryTypeError, "stride is at least 1 pixel"),
        ("WITH patch=64", QueryTypeError, "patch 64x64 is larger than the 32x32 input of model 'net'"),
        ("WITH patch=[8, 8x33]", QueryTypeError, "patch 8x33 is larger"),
        ("WITH patch=8 stride=40", QueryTypeError, "stride 40x40 is larger"),
        ("WITH patch=4 stride=8 border=clip", QueryTypeError, "border=clip needs a stride within the patch"),
        ("WITH patch='big'", QueryTypeError, "patch takes pixels such as 16"),
        ("WITH pach=8", UnknownNameError, "Did you mean 'patch'"),
        ("WITH fill=blak", QueryTypeError, "fill takes .* Did you mean 'black'"),
        ("WITH fill=(0, 0, 2)", QueryTypeError, r"colors in 0\.\.1"),
        ("WITH score=probabilty", QueryTypeError, "Did you mean 'probability'"),
        ("WITH patch=8 patch=9", QueryTypeError, "patch"),
        ("REGION (0, 0, 40, 8) WITH patch=8", QueryTypeError, "reaches outside the 32x32 input"),
        ("REGION (0, 0, 4, 4) WITH patch=8", QueryTypeError, "holds no window"),
        ("FOR CLASS 'bea'", UnknownNameError, "Did you mean 'bee'"),
        ("FOR CLASS 3", QueryTypeError, "has the classes 0 to 2"),
        ("FOR TOP 4", QueryTypeError, "asks for 4 classes; model 'net' has 3"),
        ("FOR LABEL", QueryTypeError, "the image has none"),
        ("APPROX 1.5", QueryTypeError, "APPROX takes a quality"),
        ("APPROX 0.9 METRIC sim", QueryTypeError, "Did you mean 'ssim'"),
        ("ON cda", QueryTypeError, "Did you mean 'cuda'"),
        ("FRO CLASS 1", QuerySyntaxError, "FOR"),
        ("EXAKT", QuerySyntaxError, "EXACT"),
    ],
)
def test_clauses_and_options(refused: Any, folder: Path, tail: str, kind: type[ObeqlError], said: str) -> None:
    statement = f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net {tail}"
    error = refused(statement, kind, said)
    assert isinstance(error, QueryError)
    assert error.line == 1 and error.column is not None and error.column > len("EXPLAIN OCCLUDE ") and "^" in str(error)


@pytest.mark.parametrize(
    ("statement", "said", "column"),
    [
        ("EXPLAIN OCCLUDE 'x.png' USING nett", "There is no model 'nett'. Did you mean 'net'", 31),
        ("EXPLAIN OCCLUDE scams USING net", "no image or image set 'scams'. Did you mean 'scans'", 17),
        ("PREDICT scans USING tumour", "There is no model 'tumour'", 21),
        ("DROP MODEL nett", "Did you mean 'net'", 12),
        ("DROP IMAGES scan", "Did you mean 'scans'", 13),
        ("DROP RUN 99", "no run 99", 10),
        ("DESCRIBE MODEL nett", "Did you mean 'net'", 16),
        ("DESCRIBE IMAGES sans", "Did you mean 'scans'", 17),
        ("DESCRIBE RUN nothing", "no run 'nothing'", 14),
        ("RENDER nothing TO 'x.png'", "no run 'nothing'", 8),
        ("SET obeql.treads = 2", "Did you mean 'threads'", 11),
        ("CREATE MODEL m FROM 'net.onnx' WITH sise=32", "Did you mean 'size'", 37),
    ],
)
def test_unknown_names(net_db: Any, refused: Any, folder: Path, statement: str, said: str, column: int) -> None:
    net_db.create_images("scans", folder, replace=True)
    error = refused(statement, UnknownNameError, said.replace(".", r"\."))
    assert isinstance(error, QueryError) and (error.line, error.column) == (1, column)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("EXPLAIN OCLUDE x USING net", "OCCLUDE"),
        ("EXPLAIN OCCLUDE x USING", "expected a name"),
        ("PREDICT 'x' WITH net", "USING"),
    ],
)
def test_text_that_does_not_parse(refused: Any, statement: str, said: str) -> None:
    assert refused(statement, QuerySyntaxError, said).line == 1  # type: ignore[attr-defined]


def test_a_name_of_a_run_is_taken_once(net_db: Any, refused: Any, folder: Path) -> None:
    net_db.execute(f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net WITH patch=16 INTO OR REPLACE mine")
    refused(f"EXPLAIN OCCLUDE '{folder}/scan2.png' USING net INTO Mine", QueryTypeError, "INTO OR REPLACE Mine")


def test_a_replacing_run_that_fails_leaves_the_older_one(net_db: Any, refused: Any, folder: Path) -> None:
    net_db.execute(f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net WITH patch=16 INTO OR REPLACE mine")
    (folder / "scan2.png").write_bytes(b"")
    refused(f"EXPLAIN OCCLUDE '{folder}/scan2.png' USING net INTO OR REPLACE mine", ImageError, "empty")
    assert net_db.run("mine")[0].path == str(folder / "scan1.png")


def test_a_missing_device(refused: Any, folder: Path) -> None:
    refused(f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net ON cuda:99", DeviceError, "no device 'cuda:99'.*cpu")
    refused(
        f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net ON cpu WITH precision=tf32", DeviceError, "on cpu use float32"
    )


# ---- images ------------------------------------------------------------------------------------------------


def truncated(picture: Any) -> bytes:
    whole = io.BytesIO()
    Image.fromarray(picture).save(whole, "PNG")
    return whole.getvalue()[: len(whole.getvalue()) // 2]


def test_single_images_that_cannot_be_used(refused: Any, net_db: Any, folder: Path, pixels: Callable[..., Any]) -> None:
    (folder / "words.txt").write_text("no picture")
    (folder / "cut.png").write_bytes(truncated(pixels()))
    (folder / "empty.png").write_bytes(b"")
    (folder / "hollow").mkdir()
    cases = {
        "scan9.png": r"scan9\.png' does not exist\. Did you mean .*'scan1\.png'",
        "words.txt": r"words\.txt' is not an image",
        "cut.png": r"cut\.png' is truncated",
        "empty.png": r"empty\.png' is empty",
        "hollow": "holds no image",
        "*.tif": "matches no file",
        "nowhere/x.png": "there is no folder",
    }
    for name, said in cases.items():
        for verb in ("EXPLAIN OCCLUDE", "PREDICT", "PLAN EXPLAIN OCCLUDE"):
            refused(f"{verb} '{folder}/{name}' USING net", ImageError, said)
    net_db.execute(f"CREATE IMAGES \"a-b\" FROM '{folder}/scan1.png'")
    refused(
        "EXPLAIN OCCLUDE 'a-b' USING net", ImageError, "'a-b' does not exist.*known images of that name are \"a-b\""
    )
    for name in ("scan9.png", "*.tif", "hollow"):
        refused(f"CREATE IMAGES s FROM '{folder}/{name}'", ImageError, cases[name])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros((1, 4, 4, 4, 3), np.uint8), "parameter 1' has shape 1x4x4x4x3"),
        (np.zeros((4, 4, 3), np.int64), "parameter 1' has pixels of type int64"),
        (np.full((4, 4, 3), 2.0), "divide them by 255"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (torch.zeros(5, 8, 8), "channels"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 5, 9), np.uint8)], "parameter 1, item 1' has shape"),
    ],
)
def test_pixels_that_are_no_image(refused: Any, value: Any, said: str) -> None:
    refused("EXPLAIN OCCLUDE ? USING net", ImageError, said, [value])
    if "channels" not in said and "item 1" not in said:  # those may be volumes, for another model
        refused("CREATE IMAGES s FROM ?", ImageError, said, [value])


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("SELECT 1 AS a, 2 AS b", "yields the columns a, b; it needs a column path"),
        ("SELECT 42", r"42, which is no path; it needs a column path \(or file, filename\) of texts, or image_id"),
        ("SELECT 42 AS file, 1 AS image_id", "Column file of the SELECT holds 42, which is no path"),
        ("SELECT NULL::VARCHAR AS path", "Row 1 of the SELECT names no image: its path is NULL"),
        ("SELECT 77 AS image_id", "image_id 77, which no image has"),
        ("SELECT 'x' AS path WHERE false", "yields no images"),
        ("SELECT path FROM nowhere", "The SELECT that names the images fails: .*nowhere"),
    ],
)
def test_selects_that_name_no_images(refused: Any, select: str, said: str) -> None:
    for statement in (f"EXPLAIN OCCLUDE ({select}) USING net", f"CREATE IMAGES s FROM ({select})"):
        error = refused(statement, QueryTypeError, said)
        assert isinstance(error, QueryError) and error.line == 1


def test_empty_lists(net_db: Any, refused: Any) -> None:
    with pytest.raises(QueryTypeError, match="empty"):
        net_db.create_images("s", [])
    refused("CREATE IMAGES s FROM ?", QueryTypeError, "empty", [[]])


def test_one_bad_image_does_not_end_a_run(net_db: Any, folder: Path, pixels: Callable[..., Any]) -> None:
    (folder / "scan1.png").write_bytes(truncated(pixels()))
    net_db.execute(f"CREATE OR REPLACE IMAGES scans FROM '{folder}/*.png'")
    (folder / "scan3.png").unlink()
    seen = []
    result = net_db.execute("EXPLAIN OCCLUDE scans USING net WITH patch=16", on_progress=seen.append)
    assert [Path(heat.image).stem for heat in result] == ["scan2"]
    assert [Path(failure.shown).stem for failure in result.failures] == ["scan1", "scan3"]
    assert "truncated" in result.failures[0].error and "does not exist" in result.failures[1].error
    assert seen[-1].done == seen[-1].total == 75 and [p.done for p in seen] == sorted(p.done for p in seen)
    run = f"WHERE run_id = {result.run_id}"
    assert net_db.execute(f"SELECT status, n_images, n_maps, n_failed FROM runs {run}").fetchall() == [
        ("done", 1, 1, 2)
    ]
    stored = net_db.execute(f"SELECT shown, error FROM failures JOIN images USING (image_id) {run}").fetchall()
    assert sorted(stored) == sorted((failure.shown, failure.error) for failure in result.failures)
    again = net_db.run(result.run_id)
    assert sorted(f.shown for f in again.failures) == sorted(f.shown for f in result.failures)
    assert "2 images failed" in repr(result)


def test_all_bad_images(net_db: Any, refused: Any, folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    error = refused(
        f"EXPLAIN OCCLUDE '{folder}/*.png' USING net", ImageError, r"is not an image .*2 more images failed"
    )
    assert "scan1.png" in str(error)
    refused(f"PREDICT '{folder}/*.png' USING net", ImageError, "2 more images failed")


# ---- models ------------------------------------------------------------------------------------------------


class Maps(nn.Module):
    """Gives (N, 4, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y


def test_live_modules_that_are_no_classifiers(net_db: Any, tiny_net: Any, dump: Any) -> None:
    before = dump(net_db)
    cases: list[tuple[Any, dict[str, Any], type[ObeqlError], str]] = [
        (Maps(), {"size": (32, 32)}, ModelError, r"shape|classes"),
        (tiny_net(), {}, ObeqlError, "size"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), {"size": 40}, ModelError, "40"),
        (tiny_net(), {"size": 32, "classes": ["a", "b"]}, ObeqlError, "2 .*3|3 .*2"),
        (tiny_net(), {"size": 32, "sise": 3}, UnknownNameError, "size"),
        ("net", {}, ModelError, "torchvision:net"),
    ]
    for module, options, kind, said in cases:
        with pytest.raises(kind, match=said):
            net_db.create_model("bad", module, **options)
        assert dump(net_db) == before


def test_files_that_are_no_models(net_db: Any, refused: Any, tiny_net: Any, tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    torch.save(tiny_net(), tmp_path / "pickled.pt")
    create = "CREATE MODEL bad FROM "
    refused(f"{create}'{tmp_path}/gone.onnx' ", ModelError, "gone.onnx")
    refused(f"{create}'{tmp_path}/junk.onnx'", ModelError, "ONNX")
    refused(f"{create}'{tmp_path}/pickled.pt' WITH size=32", ModelError, "trust=true")
    refused(f"{create}'torchvison:resnet18'", ModelError, "Did you mean 'torchvision'")
    refused(f"{create}'python:nowhere.at:all'", ModelError, "cannot be imported")
    net_db.execute(f"{create}'{tmp_path}/pickled.pt' WITH size=32 trust=true")


def test_python_factories_need_permission(dump: Any) -> None:
    with obeql.connect() as db:
        before = dump(db)
        with pytest.raises(ModelError, match=r"does not allow: connect\(.*allow_python=True"):
            db.execute("CREATE MODEL m FROM ' Python:os:getcwd'")
        assert dump(db) == before


def test_outputs_that_are_not_numbers(net_db: Any, refused: Any, folder: Path) -> None:
    broken = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.constant_(broken[0].bias, float("nan"))  # type: ignore[arg-type]
    net_db.create_model("broken", broken, size=(32, 32))
    refused(
        f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING broken", ImageError, r"output for the image itself is not finite"
    )
    refused(f"EXPLAIN OCCLUDE '{folder}/*.png' USING broken", ImageError, "2 more images failed")
    refused(f"PREDICT '{folder}/scan1.png' USING broken", ImageError, "not finite")


class Ratio(nn.Module):
    """Divides by a corner of the image: infinite where that is black."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corner = x[:, :, :8, :8].sum(dim=(1, 2, 3))
        return torch.stack([x.mean(dim=(1, 2, 3)) / corner, corner], dim=1)


def test_windows_whose_outputs_are_not_numbers(net_db: Any, refused: Any, folder: Path) -> None:
    net_db.create_model("ratio", Ratio(), size=(32, 32))
    refused(
        f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING ratio FOR CLASS 0 WITH patch=8 stride=8 fill=black",
        ImageError,
        "not finite for 1 of 16 windows, first at row 0, column 0",
    )


class Moody(nn.Module):
    """Works on one image or two, as it is tried out, and fails on more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 4:
            raise ValueError("too many at once")
        if float(x.sum()) > 1e9:
            return x[:, :, 0, 0]
        return x.mean(dim=(2, 3))


def test_errors_of_the_users_own_code(net_db: Any, refused: Any, folder: Path) -> None:
    net_db.create_model("moody", Moody(), size=(32, 32))
    refused(
        f"EXPLAIN OCCLUDE '{folder}/*.png' USING moody WITH batch=8 patch=8",
        ExecutionError,
        "the model's own code failed: ValueError: too many at once",
    )


# ---- where results go --------------------------------------------------------------------------------------


def test_pictures_that_cannot_be_written(net_db: Any, refused: Any, folder: Path, tmp_path: Path) -> None:
    net_db.execute(f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net WITH patch=16 INTO OR REPLACE mine")
    refused(f"RENDER mine TO '{tmp_path}/nowhere/x.png'", ImageError, "there is no folder")
    refused(f"RENDER mine TO '{tmp_path}/x.pgn'", QueryTypeError, "suffix")


def test_databases_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "text.duckdb").write_text("no database")
    for path, said in (("text.duckdb", "not a DuckDB database"), ("nowhere/x.duckdb", "does not exist")):
        with pytest.raises(StoreError, match=said):
            obeql.connect(tmp_path / path)
    with pytest.raises(StoreError, match="there is no database"):
        obeql.connect(tmp_path / "new.duckdb", read_only=True)
    assert not (tmp_path / "new.duckdb").exists()


def test_a_stored_word_of_trust_is_not_enough(tiny_net: Any, tmp_path: Path, folder: Path) -> None:
    """A database may be another's: what it says of a model's trust is not what this session's user says."""
    torch.save(tiny_net(), tmp_path / "net.pt")
    file, create = tmp_path / "heat.duckdb", f"CREATE MODEL net FROM '{tmp_path}/net.pt' WITH size=32 trust=true"
    statement = f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net WITH patch=16 NO REUSE"
    with obeql.connect(file) as db:
        db.execute(create)
        assert len(db.execute(statement)) == 1
    with obeql.connect(file) as db:
        with pytest.raises(ModelError, match=r"created with trust=true.*create it again with trust=true"):
            db.execute(statement)
        db.execute(create)
        assert len(db.execute(statement)) == 1
    with obeql.connect(file, allow_python=True) as db:
        assert len(db.execute(statement)) == 1
