"""LSTM and GRU of ONNX files behind a convolution, against onnxruntime, and what of them is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import obeql  # noqa: E402
from obeql.errors import ModelError  # noqa: E402
from obeql.executor.models.onnx.graph import read_graph  # noqa: E402
from obeql.executor.models.onnx.module import OnnxModule  # noqa: E402

UNITS, LENGTH = 5, 20
GATES = {"LSTM": 4, "GRU": 3}


def write(path: Path, op: str, inputs: tuple[str, ...] = ("w", "r", "b"), **attributes: Any) -> Path:
    """Conv over (N, 2, length), then the operator over its steps, then the mean of all steps and a linear layer."""
    rng = np.random.default_rng(3)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[op] * UNITS
    constants = {
        "k": rng.normal(0, 0.5, (4, 2, 3)),
        "w": rng.normal(0, 0.5, (directions, rows, 4)),
        "r": rng.normal(0, 0.5, (directions, rows, UNITS)),
        "b": rng.normal(0, 0.5, (directions, 2 * rows)),
        "o": rng.normal(0, 1, (directions * UNITS, 3)),
        "p": rng.normal(0, 1, (directions, 3 * UNITS)),
    }
    last_first = attributes.get("layout", 0)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], kernel_shape=[3], strides=[2]),
        helper.make_node("Transpose", ["c"], ["s"], perm=[0, 2, 1] if last_first else [2, 0, 1]),
        helper.make_node(op, ["s", *inputs], ["y", "h"], hidden_size=UNITS, **attributes),
        helper.make_node("ReduceMean", ["y"], ["m"], axes=[1 if last_first else 0], keepdims=0),
        *([] if last_first else [helper.make_node("Transpose", ["m"], ["n"], perm=[1, 0, 2])]),
        helper.make_node("Flatten", ["m" if last_first else "n"], ["f"]),
        helper.make_node("MatMul", ["f", "o"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, LENGTH])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def reference(path: Path, x: Any) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("inputs", [("w", "r", "b"), ("w", "r")])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize(("op", "more"), [("LSTM", {}), ("GRU", {"linear_before_reset": 1})])
def test_numbers_are_those_of_onnxruntime(
    tmp_path: Path, op: str, more: dict[str, int], direction: str, inputs: tuple[str, ...]
) -> None:
    path = write(tmp_path / "net.onnx", op, inputs, direction=direction, **more)
    x = np.random.default_rng(1).normal(0, 1, (3, 2, LENGTH)).astype(np.float32)
    module = OnnxModule(read_graph(path)).eval()
    with torch.inference_mode():
        found = module(torch.tensor(x)).numpy()
    np.testing.assert_allclose(found, reference(path, x), atol=1e-5)


def test_a_map_equals_a_loop_through_onnxruntime(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", "LSTM", direction="bidirectional")
    x = np.random.default_rng(1).normal(0, 1, (2, LENGTH)).astype(np.float32)
    with obeql.connect() as db:
        db.create_model("net", str(path), size=(LENGTH,))
        heat = db.explain(x, "net", classes=1, patch=4, stride=4, fill="zero", score="logit")[0]
    expected = []
    for start in range(0, LENGTH, 4):
        hidden = x.copy()
        hidden[:, start : start + 4] = 0
        expected.append(reference(path, hidden[None])[0, 1])
    np.testing.assert_allclose(heat.scores, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "inputs", "more", "why"),
    [
        ("GRU", ("w", "r", "b"), {}, "linear_before_reset=0"),
        ("LSTM", ("w", "r", "b"), {"direction": "reverse"}, "runs backwards alone"),
        ("LSTM", ("w", "r", "b"), {"clip": 1.0}, "a clip or other activations"),
        ("LSTM", ("w", "r", "b"), {"activations": ["Relu", "Tanh", "Tanh"]}, "a clip or other activations"),
        ("LSTM", ("w", "r", "b", "", "", "", "p"), {}, "has peepholes"),
    ],
)
def test_what_torch_does_not_compute_is_refused(
    tmp_path: Path, op: str, inputs: tuple[str, ...], more: dict[str, Any], why: str
) -> None:
    path = write(tmp_path / "net.onnx", op, inputs, **more)
    with pytest.raises(ModelError, match=why):
        OnnxModule(read_graph(path)).eval()(torch.zeros(1, 2, LENGTH))
