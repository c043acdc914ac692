"""What outlives a session: models by URI and by hash, runs and their pictures, image contents, read-only files."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import obeql
from obeql.errors import ImageError, ModelError, StoreError

SIZE = 32
FACTORY = """
from torch import nn
def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.{activation}(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "heat.duckdb"


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """(Re)write a module with a network's factory and return its URI."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(activation: str = "ReLU") -> str:
        (tmp_path / "session_factory.py").write_text(FACTORY.format(activation=activation))
        sys.modules.pop("session_factory", None)
        importlib.invalidate_caches()
        return "python:session_factory:build"

    return write


def explained(db: Any, source: Any, into: str | None = None, reuse: bool = True) -> Any:
    return db.explain(source, "net", patch=16, score="log_odds", into=into, reuse=reuse)


# ---- models ----------------------------------------------------------------------------------------------


def test_a_model_with_a_uri_loads_again(file: Path, factory: Any, folder: Path) -> None:
    with obeql.connect(file, allow_python=True) as db:
        db.execute(
            f"CREATE MODEL net FROM '{factory()}' WITH size={SIZE} classes=['a', 'b', 'c'] mean=0.5 std=(1, 2, 1)"
        )
        before = explained(db, folder / "scan1.png")[0]
    with obeql.connect(file, allow_python=True) as db:
        after = explained(db, folder / "scan1.png", reuse=False)[0]
        np.testing.assert_array_equal(after.scores, before.scores)
        assert after.class_name == before.class_name


def test_a_file_that_holds_another_model_by_now_is_refused(file: Path, factory: Any, folder: Path) -> None:
    uri = factory()
    with obeql.connect(file, allow_python=True) as db:
        db.execute(f"CREATE MODEL net FROM '{uri}' WITH size={SIZE}")
        first = explained(db, folder / "scan1.png", into="first")[0]
    factory("Tanh")
    with obeql.connect(file, allow_python=True) as db:
        with pytest.raises(
            ModelError, match=r"holds another model than when 'net' was created.*CREATE OR REPLACE MODEL"
        ):
            explained(db, folder / "scan2.png")  # of scan1 every cell is stored, which needs no network
        with pytest.raises(StoreError, match="another network"):
            db.execute(f"CREATE MODEL net FROM '{uri}' WITH size={SIZE}")
        db.execute(f"CREATE OR REPLACE MODEL net FROM '{uri}' WITH size={SIZE} classes=['x', 'y', 'z']")
        second = explained(db, folder / "scan1.png", into="second")[0]
        # the older run keeps its model, its class names and its numbers
        assert db.run("first")[0].class_name == first.class_name in {"0", "1", "2"}
        assert second.class_name in {"x", "y", "z"}
        np.testing.assert_array_equal(db.run("first")[0].scores, first.scores)
        assert len(db.execute("SELECT DISTINCT model_hash FROM runs").fetchall()) == 2
        db.execute("DROP MODEL net")
        assert db.run("first")[0].model == db.run("second")[0].model == "net"


def test_a_changed_onnx_file_is_refused(file: Path, tmp_path: Path, folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper

    def write(seed: int) -> None:
        weight = np.random.default_rng(seed).normal(size=(3, 3, 5, 5)).astype(np.float32)
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[5, 5]),
            helper.make_node("GlobalAveragePool", ["y"], ["p"]),
            helper.make_node("Flatten", ["p"], ["z"]),
        ]
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "net",
            [info("x", 1, ["N", 3, SIZE, SIZE])],
            [info("z", 1, ["N", 3])],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        onnx.save(model, tmp_path / "net.onnx")

    write(0)
    with obeql.connect(file, allow_python=True) as db:
        db.execute(f"CREATE MODEL net FROM '{tmp_path}/net.onnx'")
        explained(db, folder / "scan1.png")
    write(1)
    with (
        obeql.connect(file, allow_python=True) as db,
        pytest.raises(ModelError, match=r"net\.onnx' holds another model"),
    ):
        explained(db, folder / "scan2.png")
    (tmp_path / "net.onnx").unlink()
    with obeql.connect(file, allow_python=True) as db, pytest.raises(ModelError, match=r"net\.onnx"):
        explained(db, folder / "scan2.png")


def test_a_live_module_is_asked_for_and_attached_by_its_hash(file: Path, tiny_net: Any, folder: Path) -> None:
    with obeql.connect(file, allow_python=True) as db:
        db.create_model("net", tiny_net(), size=(SIZE, SIZE), classes=["a", "b", "c"])
        before = explained(db, folder / "scan1.png", into="mine")[0]
    with obeql.connect(file, allow_python=True) as db:
        np.testing.assert_array_equal(db.run("mine")[0].scores, before.scores)
        # a plan needs the network's geometry alone, which is stored
        assert "Physical plan" in str(db.execute(f"PLAN EXPLAIN OCCLUDE '{folder}/scan1.png' USING net WITH patch=8"))
        for statement in ("EXPLAIN OCCLUDE '{}' USING net", "PREDICT '{}' USING net"):
            with pytest.raises(ModelError, match=r"create_model\('net', module, \.\.\.\) again with the same weights"):
                db.execute(statement.format(folder / "scan2.png"))
        with pytest.raises(StoreError, match="another network"):
            db.create_model("net", tiny_net(1), size=(SIZE, SIZE), classes=["a", "b", "c"])
        db.create_model("net", tiny_net(), size=(SIZE, SIZE), classes=["a", "b", "c"])
        np.testing.assert_array_equal(explained(db, folder / "scan1.png")[0].scores, before.scores)
        assert db.execute("SELECT count(*) FROM obeql_store.model_rows").fetchall() == [(1,)]


def test_rates_are_measured_once(file: Path, factory: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from obeql.executor.calibration import rates

    measured = []
    measure = rates.measure_rates
    monkeypatch.setattr(rates, "measure_rates", lambda *args: measured.append(args) or measure(*args))
    with obeql.connect(file, allow_python=True) as db:
        db.execute(f"CREATE MODEL net FROM '{factory()}' WITH size={SIZE}")
        db.execute(f"PLAN EXPLAIN OCCLUDE '{folder}/scan1.png' USING net")
        explained(db, folder / "scan1.png")
    with obeql.connect(file, allow_python=True) as db:
        explained(db, folder / "scan1.png")
    assert len(measured) == 1


def test_a_network_stored_by_another_version_is_captured_again(file: Path, factory: Any, folder: Path) -> None:
    with obeql.connect(file, allow_python=True) as db:
        record = db.create_model("net", factory(), size=(SIZE, SIZE))
        renamed = tuple(replace(layer, name=f"old_{layer.name}") for layer in record.network.layers)
        db._store.put_model(replace(record, network=replace(record.network, layers=renamed)))
    with obeql.connect(file, allow_python=True) as db:
        assert "old_" in str(db.execute("DESCRIBE MODEL net").fetchall())
        explained(db, folder / "scan1.png")
        assert "old_" not in str(db.execute("DESCRIBE MODEL net").fetchall())


# ---- runs and images ---------------------------------------------------------------------------------------


def test_runs_are_found_by_id_and_name(file: Path, factory: Any, folder: Path, tmp_path: Path) -> None:
    with obeql.connect(file, allow_python=True) as db:
        db.execute(f"CREATE MODEL net FROM '{factory()}' WITH size={SIZE}")
        made = db.execute(f"EXPLAIN OCCLUDE '{folder}/*.png' USING net FOR ALL WITH patch=[16, 8] INTO mine")
    with obeql.connect(file, allow_python=True) as db:
        for name in (made.run_id, str(made.run_id), "mine", "MINE"):
            again = db.run(name)
            assert len(again) == 18 and again.run_name == "mine" and again.run_id == made.run_id
        for ours, stored in zip(made, again, strict=True):
            np.testing.assert_array_equal(ours.importance, stored.importance)
            assert (ours.image, ours.class_name, ours.patch, ours.stride) == (
                stored.image,
                stored.class_name,
                stored.patch,
                stored.stride,
            )
            assert ours.placement == stored.placement and ours.clean_score == stored.clean_score
        again[0].save(tmp_path / "heat.png")
        with Image.open(tmp_path / "heat.png") as drawn:
            assert drawn.width > 100


def test_an_image_that_changes_keeps_both_contents(
    file: Path, factory: Any, folder: Path, pixels: Callable[..., Any]
) -> None:
    path = folder / "scan1.png"
    with obeql.connect(file, allow_python=True) as db:
        db.execute(f"CREATE MODEL net FROM '{factory()}' WITH size={SIZE}")
        first = explained(db, path)
        Image.fromarray(pixels(8, 48)).save(path)
        second = explained(db, path)
        assert first[0].image_id == second[0].image_id
        assert first[0].cells.key.image_hash != second[0].cells.key.image_hash
    with obeql.connect(file, allow_python=True) as db:
        hashes = db.execute("SELECT image_hash FROM heatmaps ORDER BY run_id").fetchall()
        assert hashes == [(first[0].cells.key.image_hash,), (second[0].cells.key.image_hash,)]
        assert db.execute("SELECT image_hash, height FROM images").fetchall() == [(*hashes[1], 48)]
        old, new = db.run(first.run_id)[0], db.run(second.run_id)[0]
        assert old.placement.source_size == (32, 32) and new.placement.source_size == (48, 48)
        with pytest.raises(ImageError, match="no longer the image that was explained"):
            old.source()
        assert new.source().size == (48, 48)
        path.unlink()
        np.testing.assert_array_equal(db.run(second.run_id)[0].scores, second[0].scores)
        with pytest.raises(ImageError, match="does not exist"):
            db.run(second.run_id)[0].source()


def test_pixels_from_python_are_asked_for(file: Path, factory: Any, pixels: Callable[..., Any]) -> None:
    with obeql.connect(file, allow_python=True) as db:
        db.execute(f"CREATE MODEL net FROM '{factory()}' WITH size={SIZE}")
        db.create_images("scans", [pixels(1), pixels(2)])
        made = explained(db, "scans")
        assert db.run(made.run_id)[0].source().size == (SIZE, SIZE)
    with obeql.connect(file, allow_python=True) as db:
        with pytest.raises(ImageError, match=r"'scans_0' was handed over from Python.*hand it over again"):
            explained(db, "scans")
        assert db.execute("SELECT count(*) FROM runs").fetchall() == [(1,)]
        with pytest.raises(StoreError, match="'scans' exists with other images"):
            db.create_images("scans", [pixels(1), pixels(3)])
        db.create_images("scans", [pixels(1), pixels(2)])
        np.testing.assert_array_equal(explained(db, "scans")[1].scores, made[1].scores)
        assert db.run(made.run_id)[1].source().size == (SIZE, SIZE)


# ---- read-only, two sessions -------------------------------------------------------------------------------


def test_a_read_only_session_reads(file: Path, factory: Any, folder: Path, tiny_net: Any, dump: Any) -> None:
    with obeql.connect(file, allow_python=True) as db:
        db.execute(f"CREATE MODEL net FROM '{factory()}' WITH size={SIZE}")
        live = db.create_model("live", tiny_net(), size=(SIZE, SIZE))
        db.create_images("scans", folder)
        explained(db, "scans", into="mine")
    content = file.read_bytes()
    with obeql.connect(file, read_only=True, allow_python=True) as db:
        before = dump(db)
        assert db.execute("SELECT count(*) FROM cells").fetchall() == [(75,)]
        assert len(db.execute("SHOW RUNS").fetchall()) == 1 and len(db.execute("DESCRIBE MODEL net").fetchall()) > 3
        assert "Physical plan" in str(db.execute("PLAN EXPLAIN OCCLUDE scans USING net WITH patch=8"))
        assert len(db.execute("PREDICT scans USING net FOR TOP 1").fetchall()) == 3
        assert len(db.run("mine")) == 3 and db.run("mine")[0].source().size == (SIZE, SIZE)
        assert db.create_model("live", tiny_net(), size=(SIZE, SIZE)).model_hash == live.model_hash
        assert db.execute("PREDICT scans USING live FOR TOP 1").fetchall()
        for refused in (
            lambda: db.execute("EXPLAIN OCCLUDE scans USING net"),
            lambda: db.execute("PLAN ANALYZE EXPLAIN OCCLUDE scans USING net"),
            lambda: db.explain("scans", "net"),
            lambda: db.execute(f"CREATE MODEL other FROM '{factory()}' WITH size=32"),
            lambda: db.create_model("live", tiny_net(1), size=(SIZE, SIZE)),
            lambda: db.create_images("more", folder),
            lambda: db.execute(f"CREATE IMAGES more FROM '{folder}'"),
            lambda: db.execute("DROP RUN mine"),
        ):
            with pytest.raises(StoreError, match="open read-only"):
                refused()
        assert dump(db) == before
    assert file.read_bytes() == content


def test_two_sessions_in_one_process(file: Path, tiny_net: Any, folder: Path) -> None:
    with obeql.connect(file, allow_python=True) as one, obeql.connect(file) as two:
        one.create_model("net", tiny_net(), size=(SIZE, SIZE))
        two.create_model("net", tiny_net(), size=(SIZE, SIZE))
        first = explained(one, folder / "scan1.png", into="one")
        second = explained(two, folder / "scan2.png", into="two")
        assert second.run_id != first.run_id
        assert len(one.run("two")) == len(two.run("one")) == 1
    with obeql.connect(file, allow_python=True) as db:
        assert db.execute("SELECT run_name, status FROM runs ORDER BY 1").fetchall() == [
            ("one", "done"),
            ("two", "done"),
        ]


def test_a_second_process_is_told_who_holds_the_file(file: Path) -> None:
    code = f"""
import obeql
try:
    obeql.connect({str(file)!r})
except obeql.ObeqlError as error:
    print(type(error).__name__, error)
"""
    with obeql.connect(file, allow_python=True):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert other.stdout.startswith("StoreError") and "in use by" in other.stdout
