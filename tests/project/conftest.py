"""Folders in which the documentation's statements run: as its pages describe them, and as `make demo` leaves one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import obeql

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("OBEQL_DATA", ROOT / "data")).resolve()
#: The scans of the demo, whose names say the diagnosis.
SCANS = (
    *(f"Te-gl_{number:04}" for number in range(10, 16)),
    *(f"Te-me_{number:04}" for number in range(16, 21)),
    *(f"Te-no_{number:04}" for number in range(21, 24)),
    *(f"Te-pi_{number:04}" for number in range(14, 17)),
)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the pages describe it: a small network as ONNX, three scans, a photo."""
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / "vgg16.onnx")
    (tmp_path / "scans").mkdir()
    random = np.random.default_rng(0)
    for number in range(1, 4):
        pixels = random.integers(0, 256, (70, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "scans" / f"scan_{number}.jpg")
    Image.fromarray(random.integers(0, 256, (120, 160, 3), np.uint8)).save(tmp_path / "photo.jpg")
    return tmp_path


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves, with a small network and small pictures in place of the real ones."""
    folder = tmp_path_factory.mktemp("small-demo")
    (folder / "data" / "tumour").mkdir(parents=True)
    write_onnx(folder / "data" / "tumour" / "vgg16.onnx")
    (folder / "data" / "mri").mkdir()
    random = np.random.default_rng(0)
    for name in SCANS:
        pixels = np.zeros((64, 64), np.uint8)
        pixels[18:46, 18:46] = random.integers(80, 256, (28, 28))  # a head with nothing around it
        Image.fromarray(pixels).save(folder / "data" / "mri" / f"{name}.jpg", quality=95)
    (folder / "demo").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with obeql.connect("demo/heat.duckdb") as db:
            db.execute((ROOT / "examples" / "brain_mri.sql").read_text(encoding="utf-8"))
    return folder


@pytest.fixture
def demo_folder(small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small demo, to work in."""
    shutil.copytree(small_demo, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def real_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the real demo's database beside the real network and scans; skipped before `make demo`."""
    pytest.importorskip("onnx")
    database = ROOT / "demo" / "heat.duckdb"
    if not (database.is_file() and (DATA / "tumour" / "vgg16.onnx").is_file()):
        pytest.skip("run `make demo` first")
    (tmp_path / "data").symlink_to(DATA)
    (tmp_path / "demo").mkdir()
    shutil.copy(database, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_onnx(path: Path) -> None:
    """Conv, ReLU, pool, dense head for four classes of a 64 x 64 picture, with random weights."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    random = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name)

    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "v", "d"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", float32, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("y", float32, [1, 4])],
        [weight("w", 4, 3, 3, 3), weight("b", 4), weight("v", 256, 4), weight("d", 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
