"""`inputs={..}`: a network's other inputs bound to constants, of live modules, ONNX files and exported programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import obeql
from obeql.errors import ModelError, QuerySyntaxError, QueryTypeError
from obeql.executor.models import adopt, load
from obeql.executor.network.capture.capture import capture

AGE = [0.3, -1.2]


class Conditioned(nn.Module):
    """Features of an image and a small network of numbers, joined in three ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.numbers = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 4))
        self.head = nn.Linear(8, 3)

    def forward(self, image: Tensor, age: Tensor, scale: float = 1.0) -> Tensor:
        told = self.numbers(age)
        maps = self.first(image) * scale
        if self.how == "scale":
            maps = maps * told[:, :, None, None]
        features = self.second(maps.relu()).mean((2, 3))
        if self.how == "add":
            features = features + told
        return self.head(torch.cat([features, told], 1))


class AgeFirst(nn.Module):
    """The image is the second argument and answers are a tuple, the classes first."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Conditioned("add")

    def forward(self, age: Tensor, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.network(image, age), [image.mean(1), age]


def images(n: int = 3) -> Tensor:
    return torch.rand((n, 3, 12, 12), generator=torch.Generator().manual_seed(1))


def rows(age: list[float], n: int = 3) -> Tensor:
    return torch.tensor([age]).expand(n, 2)


@pytest.mark.parametrize("how", ["concat", "add", "scale"])
def test_a_live_module_is_captured_with_its_value(how: str) -> None:
    module = Conditioned(how).eval()
    model = adopt(module, size=12, inputs={"age": [AGE], "scale": 2})
    with torch.inference_mode():
        expected = module(images(), rows(AGE), 2)
        torch.testing.assert_close(model.module(images()), expected)
    graph = capture(model.module, (3, 12, 12))
    torch.testing.assert_close(graph.to(torch.device("cpu"), torch.float32).forward(images()), expected)
    maps = [layer.kind for layer in graph.layers if len(layer.shape) == 3]
    assert not graph.reason
    assert "opaque" not in maps  # what is the same for every image stays a constant


def test_the_first_argument_that_is_not_bound_takes_the_image() -> None:
    module = AgeFirst().eval()
    model = adopt(module, size=12, inputs={"age": np.array([AGE], dtype=np.float32)}, output=0)
    with torch.inference_mode():
        torch.testing.assert_close(model.module(images()), module.network(images(), rows(AGE)))


class AnyName(nn.Module):
    def forward(self, *images: Tensor, **more: Tensor) -> Tensor:
        return images[0].mean((2, 3)) * more["gain"]


def test_a_module_that_takes_any_name() -> None:
    model = adopt(AnyName(), size=4, inputs={"gain": torch.tensor([1.0, 2.0, 3.0])})
    torch.testing.assert_close(model.module(images()), images().mean((2, 3)) * torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has deprecated scripts
def test_a_script_says_its_arguments() -> None:
    script = torch.jit.trace(Conditioned("add").eval(), (images(), rows(AGE)), check_trace=False)
    model = adopt(script, size=12, inputs={"age": [AGE]})
    with torch.inference_mode():
        torch.testing.assert_close(model.module(images()), Conditioned("add").eval()(images(), rows(AGE)))
    with pytest.raises(ModelError, match=r"'age': \.\."):
        adopt(script, size=12)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (None, ("takes the inputs 'image', 'age', 'scale'", "inputs={'age': ..}")),
        ({"scale": 2}, ("inputs={'age': ..}",)),
        ({"aeg": [AGE]}, ("no input 'aeg'", "'image', 'age', 'scale'", "Did you mean 'age'?")),
        ({"image": 1, "age": 1, "scale": 1}, ("leaves none",)),
        ({"age": [[1, 2, 3]]}, ("fails on a batch", "inputs")),
    ],
)
def test_what_a_module_does_not_take(inputs: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        adopt(Conditioned("add"), size=12, inputs=inputs)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (0.5, "names of inputs"), ({}, "names of inputs"), ({1: 2}, "as texts"), ({"age": "old"}, "a number"),
        ({"age": [[1], [1, 2]]}, "one length"), ({"age": []}, "empty"), ({"age": float("nan")}, "finite"),
        ({"age": 2**70}, "64 bits"), ({"age": np.zeros(10**6 + 1)}, "at most 1,000,000"),
        ({"age": np.array([1j])}, "complex128"), ({"age": None}, "a number"),
    ],
)  # fmt: skip
def test_values_that_are_none(inputs: Any, words: str) -> None:
    with pytest.raises(QueryTypeError, match=words):
        adopt(Conditioned("add"), size=12, inputs=inputs)


# ---- files


def exported(path: Path, batch: int | None = None) -> str:
    free = {0: torch.export.Dim("batch")} if batch is None else None
    n = batch or 2
    program = torch.export.export(
        AgeFirst().eval(), (rows(AGE, n), images(n)), dynamic_shapes=None if free is None else (free, free)
    )
    torch.export.save(program, path)
    return str(path)


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_exported_programs(tmp_path: Path, batch: int | None) -> None:
    path = exported(tmp_path / "m.pt2", batch)
    model = load(path, {"inputs": {"age": AGE}, "output": 0})
    with torch.inference_mode():
        torch.testing.assert_close(model.module(images()), AgeFirst().eval().network(images(), rows(AGE)))
    other = load(path, {"inputs": {"age": [0.0, 0.0]}, "output": 0})
    assert other.content_hash() != model.content_hash()
    with pytest.raises(ModelError, match=r"'age' \(., 2\) float32.*has shape \(3,\)"):
        load(path, {"inputs": {"age": [1, 2, 3]}})
    with pytest.raises(ModelError, match=r"'image' \(., 3, 12, 12\) float32.*inputs=\{'age': \.\.\}"):
        load(path)


def onnx_file(path: Path, n: Any = "n", age: tuple[Any, ...] = ("n", 2), kind: str = "FLOAT") -> str:
    """A graph of an image, a row of numbers added to its means, and a number that multiplies."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    values = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Cast", ["age"], ["a"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["a", "w"], ["m"]),
        helper.make_node("Concat", ["f", "m"], ["c"], axis=1),
        helper.make_node("Mul", ["c", "gain"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("age", getattr(TensorProto, kind), age),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (n, 3, 12, 12)),
            helper.make_tensor_value_info("gain", TensorProto.FLOAT, ()),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return str(path)


@pytest.mark.parametrize("n", ["n", 1])
@pytest.mark.parametrize("kind", ["FLOAT", "INT64"])
def test_onnx_agrees_with_onnxruntime(tmp_path: Path, n: Any, kind: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path = onnx_file(tmp_path / "m.onnx", n, (n, 2), kind)
    model = load(path, {"inputs": {"age": [3, -2], "gain": 0.25}})
    age = np.array([[3, -2]], np.float32 if kind == "FLOAT" else np.int64)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for image in images():
        given = {"x": image[None].numpy(), "age": age, "gain": np.array(0.25, np.float32)}
        with torch.inference_mode():
            got = model.module(image[None]).numpy()
        np.testing.assert_allclose(got, session.run(None, given)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (None, ("'age' (?, 2) int64", "'x' (?, 3, 12, 12) float32", "'age': .., 'gain': ..")),
        ({"age": [1, 2]}, ("{'gain': ..}",)),
        ({"age": [1, 2], "gain": 1, "gian": 2}, ("no input 'gian'", "Did you mean 'gain'?")),
        ({"age": [0.5, 1], "gain": 1}, ("whole numbers (int64)", "0.5")),
        ({"age": [[1, 2], [3, 4]], "gain": 1}, ("'age' (?, 2)", "(2, 2)", "the batch")),
        ({"age": [1, 2], "gain": [1, 2]}, ("'gain' ()", "(2,)")),
    ],
)
def test_what_an_onnx_file_does_not_take(tmp_path: Path, inputs: Any, words: tuple[str, ...]) -> None:
    path = onnx_file(tmp_path / "m.onnx", kind="INT64")
    with pytest.raises(ModelError) as caught:
        load(path, {"inputs": inputs})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_statements_bind_and_a_reopened_file_knows(tmp_path: Path) -> None:
    path, database = onnx_file(tmp_path / "m.onnx"), str(tmp_path / "m.duckdb")
    image = 0.8 * images(1)[0]
    with obeql.connect(database) as db:
        db.execute(f"CREATE MODEL m FROM '{path}' WITH inputs={{'age': [0.5, 2], gain: 3}} outputs=logits")
        first = db.explain(image, "m", patch=4, stride=4, classes=[0], score="logit")[0]
        db.execute(f"CREATE MODEL other FROM '{path}' WITH inputs=$v outputs=logits", {"v": {"age": [1, 2], "gain": 3}})
        live = db.create_model("live", Conditioned("scale"), size=12, inputs={"age": torch.tensor([AGE])})
        assert live.options["inputs"] == {"age": torch.tensor([AGE]).tolist()}
        assert db.execute("SELECT count(DISTINCT model_hash) FROM models").fetchall() == [(3,)]
    with obeql.connect(database) as db:
        again = db.explain(image + 0.1, "m", patch=4, stride=4, classes=[0], score="logit")[0]
    assert again.clean_score == pytest.approx(first.clean_score + 0.3, abs=1e-4)  # the gain times what was added


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("{'age': 1, 'age': 2}", QueryTypeError, "'age' is given twice"),
        ("{}", QuerySyntaxError, "a string in single quotes"),
        ("{'age' 1}", QuerySyntaxError, ":"),
        ("{'age': mean}", QueryTypeError, "a number"),
        ("[1, 2]", QueryTypeError, "names of inputs"),
    ],
)
def test_statements_that_are_wrong(text: str, error: type[Exception], words: str) -> None:
    with obeql.connect() as db, pytest.raises(error, match=words):
        db.execute(f"CREATE MODEL m FROM 'm.onnx' WITH inputs={text}")
