"""A model is what its network computes: code counts, names do not, and nothing that changes later changes a model."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import obeql
from obeql.errors import ModelError, StoreError
from obeql.planner import WindowGrid

SIZE = 24
EXPLAIN = "EXPLAIN OCCLUDE ? USING {} FOR CLASS 1 WITH patch=8 stride=8 score=logit fill=black"
BRANCH = "if float(x.sum()) > 1e9: return x.flatten(1)[:, :3]"  # depends on the pixels: nothing can trace it


@pytest.fixture
def image() -> Any:
    return np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def network(body: str, name: str = "Net", state: str = "", **names: Any) -> Any:
    """A seeded network of class `name` whose forward is `body`, with x the image and y the first layer's output."""
    text = f"""
class {name}(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)
        {state or "pass"}
    def forward(self, x):
        {body}
"""
    space = {"nn": nn, "torch": torch, "__name__": "notebook", **names}
    exec(text, space)
    return space[name]()


def plain(activation: str, name: str = "Net", whole: bool = False) -> Any:
    return network(
        f"{BRANCH if whole else 'pass'}\n        return self.head({activation}(self.conv(x)).mean((2, 3)))", name
    )


def brute(module: Any, image: Any, class_id: int = 1) -> Any:
    """The logit of a class with each window black, by running the module on every picture."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    grid = WindowGrid.over((SIZE, SIZE), (8, 8), (8, 8))
    found = np.zeros(grid.shape, np.float32)
    with torch.inference_mode():
        for row, top in enumerate(grid.rows.starts):
            for col, left in enumerate(grid.cols.starts):
                hidden = pixels.clone()
                hidden[:, :, top : top + 8, left : left + 8] = 0
                found[row, col] = module.eval()(hidden)[0, class_id]
    return found


def check(db: Any, name: str, module: Any, image: Any) -> None:
    np.testing.assert_allclose(db.execute(EXPLAIN.format(name), [image])[0].scores, brute(module, image), atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_an_edited_forward_is_another_model(db: Any, image: Any, whole: bool) -> None:
    relu, tanh = plain("torch.relu", whole=whole), plain("torch.tanh", whole=whole)
    first = db.create_model("a", relu, size=SIZE)
    check(db, "a", relu, image)
    with pytest.raises(StoreError, match="exists with another network"):
        db.create_model("a", tanh, size=SIZE)
    second = db.create_model("b", tanh, size=SIZE)
    assert first.model_hash != second.model_hash and bool(first.network.whole) == whole
    check(db, "b", tanh, image)
    db.execute("SET obeql.disabled_rules = 'reuse_stored_cells'")
    check(db, "a", relu, image)
    check(db, "b", tanh, image)
    db.execute("RESET obeql.disabled_rules")
    db.create_model("a", tanh, size=SIZE, replace=True)
    check(db, "a", tanh, image)


def test_equal_computations_are_one_model(db: Any, image: Any) -> None:
    one = db.create_model("one", plain("torch.relu"), size=SIZE)
    other = db.create_model("other", plain("nn.functional.relu", name="Other"), size=SIZE)
    module = plain("torch.relu")
    built = nn.Sequential(module.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), module.head)
    third = db.create_model("third", built, size=SIZE)
    assert one.model_hash == other.model_hash == third.model_hash
    db.execute(EXPLAIN.format("one"), [image])
    report = str(db.execute("PLAN " + EXPLAIN.format("third"), [image]))
    assert "9 of 9 cells" in report


@pytest.mark.parametrize(
    ("body", "state", "first", "second"),
    [
        ("return self.head(self.conv(x).relu().mean((2, 3))) * self.w[0]", "self.w = [torch.tensor({})]", "1.0", "2.0"),
        ("return self.head(self.conv(x).relu().mean((2, 3))) + self.w['k'][1]", "self.w = {{'k': (1, {})}}", "1", "3"),
        ("return self.head(torch.clamp(self.conv(x), 0, self.top).mean((2, 3)))", "self.top = {}", "0.3", "0.4"),
        ("return self.head(nn.functional.avg_pool2d(self.conv(x), self.k)[:, :, 0, 0])", "self.k = {}", "3", "5"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("whole", [False, True])
def test_values_wherever_they_are_kept_count(
    db: Any, image: Any, body: str, state: str, first: str, second: str, whole: bool
) -> None:
    body = f"{BRANCH}\n        {body}" if whole else body
    for name, value in (("a", first), ("b", second)):
        module = network(body, state=state.format(value))
        db.create_model(name, module, size=SIZE)
        check(db, name, module, image)
    names = {model for (model,) in db.execute("SELECT DISTINCT model_hash FROM models").fetchall()}
    assert len(names) == 2


@pytest.mark.parametrize("whole", [False, True])
def test_closures_and_globals_count(db: Any, image: Any, whole: bool) -> None:
    body = f"{BRANCH if whole else 'pass'}\n        return act(self.head(self.conv(x).relu().mean((2, 3))))"

    def scaled(by: float) -> Any:
        return lambda y: y * by

    for name, factor in (("a", 2.0), ("b", 3.0)):
        module = network(body, act=scaled(factor))
        db.create_model(name, module, size=SIZE)
        check(db, name, module, image)


def test_what_the_probe_does_not_reach_counts(db: Any, image: Any) -> None:
    """Code that only some pictures run."""
    body = "y = self.head(self.conv(x).relu().mean((2, 3)))\n        return y if float(x.mean()) < LIMIT else y * {}"
    records = [
        db.create_model(name, network(body.format(factor), LIMIT=limit), size=SIZE)
        for name, factor, limit in (("a", 2, 10.0), ("b", 3, 10.0), ("c", 2, 11.0))
    ]
    assert len({record.model_hash for record in records}) == 3


@pytest.mark.parametrize("whole", [False, True])
def test_training_on_leaves_a_model_as_it_was(db: Any, image: Any, whole: bool) -> None:
    module = plain("torch.relu", whole=whole).train()
    before = brute(module, image)
    module.train()
    db.create_model("net", module, size=SIZE)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert module.training and all(parameter.requires_grad for parameter in module.parameters())
    np.testing.assert_allclose(db.execute(EXPLAIN.format("net"), [image])[0].scores, before, atol=1e-5)
    with pytest.raises(StoreError, match="another network"):
        db.create_model("net", module, size=SIZE)
    db.create_model("net", module, size=SIZE, replace=True)
    check(db, "net", module, image)


def test_a_tensor_outside_the_module_that_changes(db: Any, image: Any) -> None:
    scale = torch.ones(3)
    body = "return self.head(self.conv(x).relu().mean((2, 3))) * scale"
    captured, whole = network(body, scale=scale), network(f"{BRANCH}\n        {body}", scale=scale)
    db.create_model("captured", captured, size=SIZE)
    db.create_model("whole", whole, size=SIZE)
    before = brute(captured, image)
    db.execute(EXPLAIN.format("whole"), [image])
    scale.mul_(2)
    # A captured network has the value of its creation; one that runs whole cannot, and says so.
    np.testing.assert_allclose(db.execute(EXPLAIN.format("captured"), [image])[0].scores, before, atol=1e-5)
    with pytest.raises(ModelError, match=r"'whole' computes something else than when it was created.*Create it again"):
        db.execute(EXPLAIN.format("whole") + " NO REUSE", [image])
    db.create_model("whole", whole, size=SIZE, replace=True)
    check(db, "whole", whole, image)


def test_a_function_that_is_defined_anew(db: Any, image: Any) -> None:
    module = network(f"{BRANCH}\n        return act(self.head(self.conv(x).relu().mean((2, 3))))", act=torch.tanh)
    db.create_model("net", module, size=SIZE)
    check(db, "net", module, image)
    type(module).forward.__globals__["act"] = torch.sigmoid
    with pytest.raises(ModelError, match="computes something else"):
        db.execute(EXPLAIN.format("net") + " NO REUSE", [image])


def test_a_network_that_takes_notes_is_a_model_of_its_own(db: Any, image: Any) -> None:
    body = f"{BRANCH}\n        self.calls += 1\n        return self.head(self.conv(x).relu().mean((2, 3)))"
    module = network(body, state="self.calls = 0")
    first = db.create_model("a", module, size=SIZE)
    check(db, "a", module, image)
    check(db, "a", module, image)
    assert db.create_model("b", module, size=SIZE).model_hash != first.model_hash


def test_a_network_that_runs_whole_attaches_again(tmp_path: Path, image: Any) -> None:
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        before = db.create_model("net", plain("torch.relu", whole=True), size=SIZE)
        stored = db.execute(EXPLAIN.format("net"), [image])[0].scores
    torch.set_num_threads(1 + torch.get_num_threads() % 2)
    try:
        with obeql.connect(tmp_path / "heat.duckdb") as db:
            after = db.create_model("net", plain("torch.relu", whole=True), size=SIZE)
            assert before.model_hash == after.model_hash
            np.testing.assert_array_equal(db.execute(EXPLAIN.format("net"), [image])[0].scores, stored)
    finally:
        torch.set_num_threads(2)


# ---- factories ---------------------------------------------------------------------------------------------


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a factory whose layers are those of another module; returns its URI."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(activation: str, scale: float = 1.0) -> str:
        (tmp_path / "identity_parts.py").write_text(
            f"import torch\ndef act(x):\n    return torch.{activation}(x)\n", encoding="utf-8"
        )
        (tmp_path / "identity_net.py").write_text(
            "import torch\nfrom torch import nn\nfrom identity_parts import act\n"
            "class Net(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n"
            "        self.conv = nn.Conv2d(3, 4, 3)\n        self.head = nn.Linear(4, 3)\n"
            f"    def forward(self, x):\n        return self.head(act(self.conv(x)).mean((2, 3))) * {scale}\n"
            "def build():\n    return Net()\n",
            encoding="utf-8",
        )
        return "python:identity_net:build"

    yield write
    for name in ("identity_net", "identity_parts"):
        sys.modules.pop(name, None)


def test_an_edited_factory_is_read_again(db: Any, factory: Any, image: Any) -> None:
    """In the same process, as at a prompt: the files count, not what Python imported before."""
    uri = factory("relu")
    db.execute(f"CREATE MODEL net FROM '{uri}' WITH size={SIZE}")
    first = db.execute(EXPLAIN.format("net"), [image])[0].scores
    factory("tanh")  # in the module that the factory's module imports
    with pytest.raises(StoreError, match="another network"):
        db.execute(f"CREATE MODEL net FROM '{uri}' WITH size={SIZE}")
    db.execute(f"CREATE OR REPLACE MODEL net FROM '{uri}' WITH size={SIZE}")
    second = db.execute(EXPLAIN.format("net"), [image])[0].scores
    assert np.abs(second - first).max() > 1e-3
    check(db, "net", seeded_network(), image)
    factory("tanh", scale=2.5)
    db.execute(f"CREATE OR REPLACE MODEL net FROM '{uri}' WITH size={SIZE}")
    np.testing.assert_allclose(db.execute(EXPLAIN.format("net"), [image])[0].scores, second * 2.5, rtol=1e-4)


def seeded_network() -> Any:
    from obeql.executor.models.seeded import seeded

    return seeded(importlib.import_module("identity_net").build)


def test_a_factory_that_does_not_compile_leaves_things_as_they_were(db: Any, factory: Any, tmp_path: Path) -> None:
    uri = factory("relu")
    db.execute(f"CREATE MODEL net FROM '{uri}' WITH size={SIZE}")
    module = sys.modules["identity_net"]
    (tmp_path / "identity_net.py").write_text("def build(:\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"'identity_net' cannot be imported: SyntaxError"):
        db.execute(f"CREATE OR REPLACE MODEL net FROM '{uri}' WITH size={SIZE}")
    assert sys.modules["identity_net"] is module


# ---- files of earlier versions -----------------------------------------------------------------------------


def as_by_an_earlier_version(db: Any, record: Any) -> None:
    """Store a model, and the cells there are of it, as versions did that knew no code: by the content's hash."""
    connection = db.connection
    for table in ("model_rows", "maps", "run_rows"):
        connection.execute(
            f"UPDATE obeql_store.{table} SET model_hash = ? WHERE model_hash = ?",
            [record.content_hash, record.model_hash],
        )
    connection.execute("UPDATE obeql_store.model_rows SET content_hash = NULL")


@pytest.mark.parametrize("kind", ["live", "python", "torchvision"])
def test_a_model_of_an_earlier_version(tmp_path: Path, factory: Any, image: Any, kind: str) -> None:
    uri = {"live": None, "python": factory("relu"), "torchvision": "torchvision:squeezenet1_1"}[kind]
    size = 64 if kind == "torchvision" else SIZE
    query = f"EXPLAIN OCCLUDE '{tmp_path}/scan.png' USING net FOR CLASS 1 WITH patch=32 stride=16"
    if kind != "torchvision":
        query = f"EXPLAIN OCCLUDE '{tmp_path}/scan.png' USING net FOR CLASS 1 WITH patch=8 stride=8"
    from PIL import Image

    Image.fromarray(image).resize((size, size)).save(tmp_path / "scan.png")

    def create(db: Any) -> Any:
        if uri is None:
            return db.create_model("net", plain("torch.relu"), size=size)
        return db.create_model("net", uri, size=size)

    file = tmp_path / "heat.duckdb"
    with obeql.connect(file, allow_python=True) as db:
        record = create(db)
        stored = db.execute(query)[0].scores
        run_id = db.execute("SELECT max(run_id) FROM runs").fetchall()[0][0]
        as_by_an_earlier_version(db, record)
    with obeql.connect(file, allow_python=True) as db:
        np.testing.assert_array_equal(db.run(run_id)[0].scores, stored)  # stored cells need no network
        if kind == "live":
            with pytest.raises(ModelError, match="live Python module"):
                db.execute(query + " NO REUSE")
        again = create(db)  # without being asked to replace
        # A file's content says what it computes. Of code nothing was known: its cells do not answer any more.
        assert (again.model_hash == record.content_hash) == (kind == "torchvision")
        plan = str(db.execute("PLAN " + query))
        assert ("9 of 9 cells" in plan) == (kind == "torchvision")
        np.testing.assert_allclose(db.execute(query + " NO REUSE")[0].scores, stored, atol=1e-6)
        assert {hash_ for (hash_,) in db.execute("SELECT model_hash FROM runs").fetchall()} == {
            record.content_hash,
            again.model_hash,
        }
    with obeql.connect(file, allow_python=True) as db:  # and without CREATE MODEL
        if kind != "live":
            np.testing.assert_allclose(db.execute(query + " NO REUSE")[0].scores, stored, atol=1e-6)


def test_a_factory_of_an_earlier_version_goes_on_by_itself(tmp_path: Path, factory: Any, image: Any) -> None:
    uri, file = factory("relu"), tmp_path / "heat.duckdb"
    with obeql.connect(file, allow_python=True) as db:
        record = db.create_model("net", uri, size=SIZE)
        stored = db.execute(EXPLAIN.format("net"), [image])[0].scores
        as_by_an_earlier_version(db, record)
    with obeql.connect(file, allow_python=True) as db:
        found = db.execute(EXPLAIN.format("net") + " NO REUSE", [image])[0].scores
        np.testing.assert_allclose(found, stored, atol=1e-6)
        assert db.execute("SELECT model_hash FROM models").fetchall()[0][0] == record.model_hash
        assert db.execute("PREDICT ? USING net", [image]).fetchall()


# ---- capture -----------------------------------------------------------------------------------------------


def test_a_script_never_stops_for_another_capture(tmp_path: Path, image: Any) -> None:
    """Stored layers have other names, as of another version; stored cells answer part of the statement."""
    from PIL import Image

    Image.fromarray(image).resize((64, 64)).save(tmp_path / "scan.png")
    file, uri = tmp_path / "heat.duckdb", "torchvision:squeezenet1_1"
    query = f"EXPLAIN OCCLUDE '{tmp_path}/scan.png' USING net WITH patch=32 stride=16"
    with obeql.connect(file) as db:
        db.create_model("net", uri, size=64)
        before = db.execute(query)[0].scores
    for edit in ("replace(network, '\"convolution', '\"conv2d')", "replace(network, '\"macs\":', '\"macs\":1')"):
        with obeql.connect(file) as db:
            db.connection.execute(f"UPDATE obeql_store.model_rows SET network = {edit}")
        with obeql.connect(file) as db:
            Image.fromarray(image).resize((64, 64)).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "scan.png")
            db.execute(query)
            Image.fromarray(image).resize((64, 64)).save(tmp_path / "scan.png")
            np.testing.assert_allclose(db.execute(query)[0].scores, before, atol=1e-6)
            db.execute(query + " NO REUSE")


def test_capture_does_not_depend_on_the_modes_of_the_caller() -> None:
    from obeql.executor.network.capture.capture import capture
    from obeql.executor.network.tensor_digests import TensorDigests

    def captured(module: nn.Module) -> tuple[str, str]:
        graph = capture(module.eval(), (3, SIZE, SIZE), digests=TensorDigests())
        return graph.network().to_json(), graph.digest

    expected = captured(plain("torch.relu"))
    with torch.inference_mode():
        made = plain("torch.relu")
        assert captured(made) == expected
    assert captured(made) == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert captured(plain("torch.relu")) == expected
    with torch.no_grad():
        assert captured(plain("torch.relu")) == expected
    module = plain("torch.relu")
    with torch.device("meta"):
        assert captured(module) == expected


@pytest.fixture
def torch_as_it_was() -> Any:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.backends.mkldnn.fp32_precision = torch.backends.fp32_precision = "none"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_default_dtypes(db: Any, image: Any, torch_as_it_was: None, dtype: torch.dtype) -> None:
    module = plain("torch.relu")
    expected = brute(module, image)
    torch.set_default_dtype(dtype)
    db.create_model("net", module, size=SIZE)
    found = db.execute(EXPLAIN.format("net"), [image])[0].scores
    assert db.execute("PREDICT ? USING net", [image]).fetchall()
    assert torch.get_default_dtype() == dtype
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_network_of_float64(db: Any, image: Any, torch_as_it_was: None) -> None:
    torch.set_default_dtype(torch.float64)
    module = plain("torch.relu")
    db.create_model("net", module, size=SIZE)
    assert db.execute(EXPLAIN.format("net"), [image])[0].scores.shape == (3, 3)
    db.execute(EXPLAIN.format("net") + " APPROX 0.9", [image])


def test_autocast_around_a_statement_does_not_change_its_numbers(db: Any, image: Any) -> None:
    module = plain("torch.relu")
    db.create_model("net", module, size=SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        found = db.execute(EXPLAIN.format("net"), [image])[0].scores
    np.testing.assert_allclose(found, brute(module, image), atol=1e-5)


def test_programs_that_set_the_precision_of_products(db: Any, image: Any, torch_as_it_was: None) -> None:
    module = plain("torch.relu")
    expected = brute(module, image)
    db.create_model("net", module, size=SIZE)
    for place, value in (
        (torch.backends, "tf32"),
        (torch.backends.cuda.matmul, "ieee"),
        (torch.backends.cudnn, "tf32"),
        (torch.backends.mkldnn, "bf16"),
    ):
        place.fp32_precision = value
        found = db.execute(EXPLAIN.format("net") + " NO REUSE", [image])[0].scores
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert place.fp32_precision == value
        place.fp32_precision = "none"
