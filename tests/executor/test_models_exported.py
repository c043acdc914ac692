""".pt2 files: batches, training mode, layouts, and archives that could run code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from obeql.errors import ModelError
from obeql.executor.models import load
from obeql.executor.models.per_batch import FixedBatch

# torch's own exporter and loader use what they have deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 36, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.norm(self.conv(x)).relu()
        return self.head(torch.nn.functional.dropout(x, 0.5, self.training).reshape(x.shape[0], -1))


class Mixing(Small):
    def forward(self, x: torch.Tensor) -> Any:
        outputs = super().forward(x)
        return outputs - outputs.mean()


class Several(Small):
    def forward(self, x: torch.Tensor) -> Any:
        outputs = super().forward(x)
        return {"logits": outputs, "other": outputs[:, :1]}


def export(path: Path, module: nn.Module, batch: int = 1, free: bool = False, train: bool = False) -> str:
    torch.manual_seed(0)
    module = module.train() if train else module.eval()
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    program = torch.export.export(module, (torch.zeros(batch, 3, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return str(path)


@pytest.fixture(scope="module")
def fixed_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return export(tmp_path_factory.mktemp("exported") / "m.pt2", Small())


def fails(path: Path | str, *words: str, **options: Any) -> None:
    with pytest.raises(ModelError) as caught:
        load(str(path), options)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize(("batch", "free"), [(1, False), (2, False), (2, True)])
def test_any_batch(batch: int, free: bool, tmp_path: Path) -> None:
    module = Small()
    model = load(export(tmp_path / "m.pt2", module, batch, free))
    assert (model.n_classes, model.notes, model.preprocessing.size) == (5, (), (8, 8))
    assert not isinstance(model.module, FixedBatch)
    images = torch.randn(3, 3, 8, 8)
    expected = module.eval()(images)
    torch.testing.assert_close(model.module.eval()(images), expected)
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(torch.empty(97, 3, 8, 8))
    graph = make_fx(model.module, tracing_mode="real", _allow_non_fake_inputs=True)(fake)
    assert any("convolution" in str(call.target) for call in graph.graph.nodes)


def test_batch_that_cannot_be_freed_runs_in_pieces(tmp_path: Path) -> None:
    module = Mixing()
    model = load(export(tmp_path / "m.pt2", module))
    assert isinstance(model.module, FixedBatch)
    assert "batch of 1" in model.notes[0]
    images = torch.randn(3, 3, 8, 8)
    expected = torch.cat([module.eval()(image[None]) for image in images])
    torch.testing.assert_close(model.module(images), expected)


class Features(Small):
    def forward(self, x: torch.Tensor) -> Any:
        outputs = super().forward(x)
        return torch.cat((outputs, -outputs), 1), outputs


def test_several_outputs_are_chosen_by_number(tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2", Features(), free=True, batch=2)
    fails(path, "(N, 10)", "(N, 5)", "output=")
    assert [load(path, {"output": number}).n_classes for number in (0, 1)] == [10, 5]


def test_main_output_and_hash(tmp_path: Path) -> None:
    first = load(export(tmp_path / "a.pt2", Several()))
    assert first.n_classes == 5
    torch.manual_seed(1)
    assert load(str(tmp_path / "a.pt2")).content_hash() == first.content_hash()
    assert load(export(tmp_path / "b.pt2", Several())).content_hash() != first.content_hash()


def test_training_mode_is_refused(tmp_path: Path) -> None:
    fails(export(tmp_path / "m.pt2", Small(), batch=2, train=True), "training mode", "model.eval()")


def test_wrong_inputs(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.zeros(1, 3),))
    torch.export.save(program, tmp_path / "m.pt2")
    fails(tmp_path / "m.pt2", "(1, 3)")

    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a + b).mean((2, 3))

    images = torch.zeros(1, 3, 8, 8)
    torch.export.save(torch.export.export(Two(), (images, images)), tmp_path / "n.pt2")
    fails(tmp_path / "n.pt2", "'a'", "'b'", "inputs={'b': ..}")


def test_damaged_files(fixed_file: str, tmp_path: Path) -> None:
    whole = Path(fixed_file).read_bytes()
    for name, data in {"empty": b"", "garbage": b"hello" * 99, "cut": whole[: len(whole) // 2]}.items():
        path = tmp_path / f"{name}.pt2"
        path.write_bytes(data)
        fails(path, name)
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("x/readme.txt", "hello")
    fails(tmp_path / "other.pt2", "not a torch.export file")
    fails(fixed_file, "weights", weights="w.pt")
    fails(fixed_file, "2 class names", classes=["a", "b"])
    fails(fixed_file, "Check its input", size=16)


def rewritten(source: str, target: Path, edit: Callable[[str, bytes], bytes], extra: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, edit(name, old.read(name)))
        folder = old.namelist()[0].partition("/")[0]
        for name, data in extra.items():
            new.writestr(f"{folder}/{name}", data)
    return target


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_archives_that_could_run_code_are_refused(fixed_file: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save(Trap(mark), tmp_path / "trap")
    trap = (tmp_path / "trap").read_bytes()

    def with_json(change: Callable[[Any], None]) -> Callable[[str, bytes], bytes]:
        def edit(name: str, data: bytes) -> bytes:
            if not name.endswith("models/model.json"):
                return data
            content = json.loads(data)
            change(content["graph_module"]["graph"]["nodes"][0])
            return json.dumps(content).encode()

        return edit

    def pickled_sample(name: str, data: bytes) -> bytes:
        return trap if "sample_inputs" in name else data

    def pickled_weights(name: str, data: bytes) -> bytes:
        return data.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_config" in name else data

    def same(name: str, data: bytes) -> bytes:
        return data

    system = with_json(lambda node: node.update(target="torch.os.system"))
    operator = with_json(lambda node: node.update(metadata={"x": {"as_operator": "_operator.methodcaller"}}))
    expression = with_json(lambda node: node.update(x={"expr_str": "__import__('os').system('true')"}))
    quiet = with_json(lambda node: node.update(x={"expr_str": "lambdify(s0)"}))
    importing = with_json(lambda node: node.update(x='{"default_factory_module": "os"}'))
    escaped = with_json(lambda node: node.update(x="__enum__"))
    cases: dict[str, tuple[Callable[[str, bytes], bytes], dict[str, bytes], str]] = {
        "system": (system, {}, "torch.os.system"),
        "operator": (operator, {}, "_operator.methodcaller"),
        "expression": (expression, {}, "size expression"),
        "quiet": (quiet, {}, "lambdify"),
        "importing": (importing, {}, "import Python modules"),
        "escaped": (lambda n, d: escaped(n, d).replace(b"__enum__", b"\\u005f_enum__"), {}, "import Python modules"),
        "sample": (pickled_sample, {}, "pickled Python objects"),
        "weights": (pickled_weights, {}, "pickled weights"),
        "custom": (same, {"data/constants/custom_obj_0": b"x"}, "pickled Python objects"),
        "compiled": (same, {"data/aotinductor/model/x.so": b"x"}, "machine code"),
        "notjson": (same, {"serialized_state_dict.json": trap}, "not JSON"),
    }
    for name, (edit, extra, words) in cases.items():
        fails(rewritten(fixed_file, tmp_path / f"{name}.pt2", edit, extra), words, "trust=true")
    assert not mark.exists()
    assert load(str(rewritten(fixed_file, tmp_path / "same.pt2", same, {}))).n_classes == 5
    assert load(fixed_file, {"trust": True}).n_classes == 5
