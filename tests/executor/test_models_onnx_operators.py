"""Every ONNX operator against onnxruntime, and every one of them traced with fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from obeql.executor.models.onnx.graph import read_graph  # noqa: E402
from obeql.executor.models.onnx.module import OPERATORS, OnnxModule  # noqa: E402
from obeql.executor.models.onnx.node import Node  # noqa: E402
from obeql.executor.models.onnx.resize import resize  # noqa: E402

Arrays = Mapping[str, Any]
RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def write(
    path: Path,
    nodes: Sequence[Any],
    constants: Arrays,
    shape: Sequence[Any],
    opset: int = 17,
    output: Sequence[Any] | None = None,
) -> Path:
    """Write a graph from the value "x" to the last node's first output."""
    last = nodes[-1].output[0]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path


def reference(path: Path, images: np.ndarray) -> np.ndarray:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


def specified(path: Path, images: np.ndarray) -> np.ndarray:
    """What the ONNX specification's own evaluator says, for what onnxruntime does not run."""
    from onnx.reference import ReferenceEvaluator

    # Its LRN computes as many channels as there are images, so there must be enough of them.
    return ReferenceEvaluator(str(path)).run(None, {"x": np.concatenate([images, images])})[0][: len(images)]


def traced(module: torch.nn.Module, shape: Sequence[int]) -> torch.fx.GraphModule:
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(torch.empty(97, *shape))
    return make_fx(module, tracing_mode="real", _allow_non_fake_inputs=True)(fake)


def one(op: str, *inputs: str, **attributes: Any) -> list[Any]:
    return [helper.make_node(op, ["x", *inputs], ["y"], **attributes)]


def conv(**attributes: Any) -> tuple[list[Any], Arrays]:
    return one("Conv", "w", "b", **attributes), {"w": floats(8, 6 // attributes.get("group", 1), 3, 3), "b": floats(8)}


PADS = {"pads": [1, 0, 2, 1]}
#: name -> (nodes, constants[, opset]); the input is (3, 6, 9, 11)
CASES: dict[str, tuple[Any, ...]] = {
    "conv": conv(),
    "conv_strided": conv(strides=[2, 3], dilations=[2, 1]),
    "conv_group": conv(group=2, pads=[1, 1, 1, 1]),
    "conv_asymmetric": conv(**PADS),
    "conv_same_upper": conv(auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv_same_lower": conv(auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv_valid": conv(auto_pad="VALID"),
    "conv_no_bias": (one("Conv", "w", kernel_shape=[1, 1]), {"w": floats(4, 6, 1, 1)}),
    **{
        f"conv_transpose_{name}": (
            one("ConvTranspose", "w", "b", **attributes),
            {"w": floats(6, 8 // attributes.get("group", 1), 3, 2), "b": floats(8)},
        )
        for name, attributes in {
            "plain": {},
            "strided": {"strides": [2, 3], "pads": [1, 0, 1, 1], "output_padding": [1, 2]},
            "grouped": {"group": 2, "dilations": [2, 1], "strides": [2, 2]},
            "beyond": {"strides": [2, 2], "output_padding": [1, 1]},
            "same_upper": {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
            "same_lower": {"strides": [3, 2], "auto_pad": "SAME_LOWER"},
            "shaped": {"strides": [2, 2], "output_shape": [18, 21]},
            # Windows smaller than the step between them do not reach as far as is asked for.
            "apart_upper": {"strides": [4, 3], "auto_pad": "SAME_UPPER"},
            "apart_lower": {"strides": [4, 5], "auto_pad": "SAME_LOWER"},
            "shaped_beyond": {"strides": [4, 3], "output_shape": [38, 34]},
        }.items()
    },
    **{
        f"quantized_{name}": (
            [
                helper.make_node("QuantizeLinear", ["x", "s", *zeros], ["q"], axis=1),
                helper.make_node("DequantizeLinear", ["q", "s", *zeros], ["y"], axis=1),
            ],
            constants,
        )
        for name, zeros, constants in (
            ("bytes", ["z"], {"s": np.float32(0.02), "z": np.uint8(120)}),
            ("signed", ["z"], {"s": np.float32(0.01), "z": np.int8(-3)}),
            ("without_zero", [], {"s": np.float32(0.01)}),
            ("by_channel", ["z"], {"s": np.abs(floats(6)) / 50 + 0.001, "z": np.arange(6).astype(np.uint8)}),
        )
    },
    "quantized_weights": (
        [
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
            helper.make_node("DequantizeLinear", ["c", "t"], ["b"]),
            helper.make_node("Conv", ["x", "w", "b"], ["y"]),
        ],
        {
            "q": RNG.integers(-127, 127, (4, 6, 3, 3)).astype(np.int8),
            "s": np.abs(floats(4)) / 99,
            "z": np.zeros(4, np.int8),
            "c": RNG.integers(-999, 999, 4).astype(np.int32),
            "t": np.float32(0.001),
        },
    ),
    "top_k": (
        [
            helper.make_node("TopK", ["x", "k"], ["v", "i"], axis=2),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["v", "f"], ["y"]),
        ],
        {"k": ints(4)},
    ),
    "top_k_smallest": (
        [helper.make_node("TopK", ["x", "k"], ["y", "i"], largest=0, axis=1)],
        {"k": ints(2)},
    ),
    "top_k_old": ([helper.make_node("TopK", ["x"], ["y", "i"], k=3)], {}, 9),
    **{
        f"upsample_{mode}_{number}": (one("Upsample", "c", mode=mode), {"c": np.array([1, 1, *factors], np.float32)}, 9)
        for mode in ("nearest", "linear")
        for number, factors in enumerate([(2, 2), (3, 1), (1.5, 2.25)])
    },
    "upsample_old": (one("Upsample", scales=[1.0, 1.0, 2.0, 3.0], mode="nearest"), {}, 7),
    "batch_norm": (
        one("BatchNormalization", "s", "b", "m", "v", epsilon=1e-3),
        {"s": floats(6), "b": floats(6), "m": floats(6), "v": np.abs(floats(6)) + 0.1},
    ),
    "instance_norm": (one("InstanceNormalization", "s", "b"), {"s": floats(6), "b": floats(6)}),
    "group_norm": (
        one("GroupNormalization", "s", "b", num_groups=3),
        {"s": floats(6), "b": floats(6)},
        21,
    ),
    "layer_norm": (one("LayerNormalization", "s", "b"), {"s": floats(11), "b": floats(11)}),
    "layer_norm_axis": (one("LayerNormalization", "s", axis=2), {"s": floats(9, 11)}),
    "lrn": (one("LRN", size=3, alpha=0.1, beta=0.7, bias=1.2), {}),
    "lrn_even": (one("LRN", size=4, alpha=0.1), {}),
    "max_pool": (one("MaxPool", kernel_shape=[2, 2], strides=[2, 2]), {}),
    "max_pool_ceil": (one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), {}),
    "max_pool_dilated": (one("MaxPool", kernel_shape=[3, 2], dilations=[2, 2], pads=[1, 1, 1, 1]), {}),
    "max_pool_asymmetric": (one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 1]), {}),
    "max_pool_asymmetric_ceil": (
        one("MaxPool", kernel_shape=[3, 3], strides=[3, 2], pads=[0, 0, 1, 1], ceil_mode=1),
        {},
    ),
    "max_pool_same": (one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"), {}),
    "average_pool": (one("AveragePool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 1]), {}),
    "average_pool_counts": (one("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1), {}),
    "average_pool_ceil": (one("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), {}),
    "average_pool_same": (one("AveragePool", kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_UPPER"), {}),
    "average_pool_asymmetric": (one("AveragePool", kernel_shape=[3, 3], pads=[0, 0, 2, 1]), {}),
    "average_pool_asymmetric_counts": (
        one("AveragePool", kernel_shape=[3, 3], pads=[0, 0, 2, 1], count_include_pad=1),
        {},
    ),
    "global_average_pool": (one("GlobalAveragePool"), {}),
    "global_max_pool": (one("GlobalMaxPool"), {}),
    "mat_mul": (one("MatMul", "w"), {"w": floats(11, 4)}),
    "mat_mul_batched": (one("MatMul", "w"), {"w": floats(6, 11, 4)}),
    "gemm": (
        [*one("Flatten"), helper.make_node("Gemm", ["y", "w", "c"], ["z"])],
        {"w": floats(594, 5), "c": floats(5)},
    ),
    "gemm_trans_b": (
        [*one("Flatten"), helper.make_node("Gemm", ["y", "w", "c"], ["z"], transB=1)],
        {"w": floats(5, 594), "c": floats(1, 5)},
    ),
    "gemm_scaled": (
        [*one("Flatten"), helper.make_node("Gemm", ["y", "w", "c"], ["z"], alpha=0.5, beta=2.0)],
        {"w": floats(594, 5), "c": floats(1)},
    ),
    "einsum": (
        [helper.make_node("Einsum", ["x", "w"], ["y"], equation="nchw,wk->nchk")],
        {"w": floats(11, 3)},
    ),
    "leaky_relu": (one("LeakyRelu", alpha=0.2), {}),
    "p_relu": (one("PRelu", "s"), {"s": floats(6, 1, 1)}),
    "p_relu_full": (one("PRelu", "s"), {"s": floats(1, 9, 11)}),
    "elu": (one("Elu", alpha=0.7), {}),
    "celu": (one("Celu", alpha=0.7), {}),
    "selu": (one("Selu"), {}),
    "selu_said": (one("Selu", alpha=1.5, gamma=1.1), {}),
    "thresholded_relu": (one("ThresholdedRelu", alpha=0.3), {}),
    "clip": (one("Clip", "l", "h"), {"l": np.float32(0), "h": np.float32(6)}),
    "clip_high": (one("Clip", "", "h"), {"h": np.float32(0.5)}),
    "clip_low": (one("Clip", "l"), {"l": np.float32(-0.5)}),
    "clip_attributes": (one("Clip", min=-0.5, max=0.25), {}, 10),
    "hard_sigmoid": (one("HardSigmoid"), {}),
    "hard_sigmoid_sixth": (one("HardSigmoid", alpha=1 / 6), {}),
    "gelu": (one("Gelu"), {}, 20),
    "gelu_tanh": (one("Gelu", approximate="tanh"), {}, 20),
    "softmax": (one("Softmax", axis=1), {}),
    "softmax_old": (one("Softmax", axis=2), {}, 11),
    "log_softmax": (one("LogSoftmax"), {}),
    "add": (one("Add", "c"), {"c": floats(6, 1, 1)}),
    "sub": (one("Sub", "c"), {"c": floats(1)}),
    "mul": (one("Mul", "c"), {"c": np.float32(1.5)}),
    "div": (one("Div", "c"), {"c": np.abs(floats(11)) + 1}),
    "pow": ([helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Pow", ["a", "c"], ["y"])], {"c": np.float32(2)}),
    "pow_integer": (one("Pow", "c"), {"c": ints(3)}),
    "sqrt": ([helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Sqrt", ["a"], ["y"])], {}),
    "log": ([helper.make_node("Exp", ["x"], ["a"]), helper.make_node("Log", ["a"], ["y"])], {}),
    "max": (one("Max", "c", "d"), {"c": floats(1), "d": floats(11)}),
    "min": (one("Min", "c"), {"c": floats(11)}),
    "mean": (one("Mean", "c"), {"c": floats(11)}),
    "sum": (one("Sum", "c", "c"), {"c": floats(11)}),
    "where": (
        [
            helper.make_node("Greater", ["x", "c"], ["m"]),
            helper.make_node("Where", ["m", "x", "c"], ["y"]),
        ],
        {"c": np.float32(0.1)},
    ),
    "logic": (
        [
            helper.make_node("Less", ["x", "c"], ["a"]),
            helper.make_node("GreaterOrEqual", ["x", "d"], ["b"]),
            helper.make_node("LessOrEqual", ["x", "d"], ["e"]),
            helper.make_node("And", ["a", "b"], ["m"]),
            helper.make_node("Or", ["m", "e"], ["n"]),
            helper.make_node("Not", ["n"], ["o"]),
            helper.make_node("Equal", ["x", "x"], ["q"]),
            helper.make_node("And", ["o", "q"], ["r"]),
            helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
        ],
        {"c": np.float32(0.5), "d": np.float32(-0.5)},
    ),
    "concat": (one("Concat", "x", axis=1), {}),
    "flatten_axis": (one("Flatten", axis=2), {}),
    "transpose": (one("Transpose", perm=[0, 2, 3, 1]), {}),
    "transpose_default": (one("Transpose"), {}),
    "reshape": (one("Reshape", "s"), {"s": ints(0, 2, 3, -1)}),
    "squeeze": (
        [*one("GlobalAveragePool"), helper.make_node("Squeeze", ["y", "a"], ["z"])],
        {"a": ints(2, 3)},
    ),
    "squeeze_old": ([*one("GlobalAveragePool"), helper.make_node("Squeeze", ["y"], ["z"], axes=[2, 3])], {}, 11),
    "unsqueeze": (one("Unsqueeze", "a"), {"a": ints(0, -1)}),
    "unsqueeze_old": (one("Unsqueeze", axes=[1]), {}, 11),
    "gather": (one("Gather", "i", axis=1), {"i": ints(4, 0, -1)}),
    "gather_scalar": (one("Gather", "i", axis=2), {"i": np.array(-2, dtype=np.int64)}),
    "gather_range": (one("Gather", "i", axis=3), {"i": ints(2, 3, 4)}),
    "gather_matrix": (one("Gather", "i", axis=1), {"i": ints(4, 0, 3, 1).reshape(2, 2)}),
    "slice": (
        one("Slice", "s", "e", "a", "t"),
        {"s": ints(1, 0), "e": ints(-1, 100), "a": ints(2, 3), "t": ints(1, 2)},
    ),
    "slice_reversed": (
        one("Slice", "s", "e", "a", "t"),
        {"s": ints(-1), "e": ints(-(2**62)), "a": ints(1), "t": ints(-2)},
    ),
    "slice_old": (one("Slice", starts=[1, 2], ends=[4, 9], axes=[1, 3]), {}, 9),
    "split": (
        [
            helper.make_node("Split", ["x", "s"], ["p", "q"], axis=1),
            helper.make_node("ReduceMean", ["q"], ["m"], axes=[1]),
            helper.make_node("Mul", ["p", "m"], ["y"]),
        ],
        {"s": ints(2, 4)},
    ),
    "split_equal": (
        [helper.make_node("Split", ["x"], ["p", "q"], axis=1), helper.make_node("Sub", ["p", "q"], ["y"])],
        {},
        13,
    ),
    "pad": (one("Pad", "p", "v"), {"p": ints(0, 0, 1, 2, 0, 1, 0, 3), "v": np.float32(0.5)}),
    "pad_old": (one("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 3], value=1.5), {}, 9),
    "pad_axes": (one("Pad", "p", "", "a"), {"p": ints(1, 2), "a": ints(2)}, 18),
    "pad_reflect": (one("Pad", "p", mode="reflect"), {"p": ints(0, 0, 1, 2, 0, 0, 2, 3)}),
    "pad_edge": (one("Pad", "p", mode="edge"), {"p": ints(0, 0, 0, 2, 0, 0, 0, 3)}),
    "expand": (one("Expand", "s"), {"s": ints(2, 1, 1, 1, 1)}),
    "tile": (one("Tile", "r"), {"r": ints(1, 2, 1, 3)}),
    "reduce_mean": (one("ReduceMean", axes=[2, 3], keepdims=0), {}),
    "reduce_mean_18": (one("ReduceMean", "a"), {"a": ints(-1, 1)}, 18),
    "reduce_all": (one("ReduceSum", keepdims=1), {}),
    "reduce_noop": (one("ReduceSum", noop_with_empty_axes=1), {}),
    "reduce_sum": (one("ReduceSum", "a"), {"a": ints(1)}),
    "reduce_max": (one("ReduceMax", axes=[1]), {}),
    "reduce_min": (one("ReduceMin", axes=[1]), {}),
    "reduce_l2": (one("ReduceL2", axes=[1]), {}),
    "dropout": ([helper.make_node("Dropout", ["x"], ["y"])], {}),
    "resize_nearest": (
        one("Resize", "", "c", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        {"c": np.array([1, 1, 2, 2], np.float32)},
    ),
    "resize_linear": (one("Resize", "", "", "n", mode="linear"), {"n": ints(3, 6, 13, 17)}),
    "resize_half_pixel_ties": (
        one("Resize", "", "", "n", mode="nearest", nearest_mode="ceil"),
        {"n": ints(3, 6, 15, 13)},
    ),
    "resize_repeat": (one("Resize", "", "c", mode="nearest"), {"c": np.array([1, 1, 2, 3], np.float32)}),
    **{
        f"resize_{mode}_{where}_{number}": (
            one(
                "Resize",
                "",
                "c",
                mode=mode,
                coordinate_transformation_mode=where,
                nearest_mode="floor" if where == "asymmetric" else "round_prefer_floor",
            ),
            {"c": np.array([1, 1, *factors], np.float32)},
        )
        for mode in ("nearest", "linear")
        for where in ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
        for number, factors in enumerate([(0.7, 0.7), (1.5, 0.33), (2, 3), (0.45, 1.3)])
    },
    "resize_axes": (
        one("Resize", "", "c", mode="linear", axes=[3, 2]),
        {"c": np.array([0.7, 1.5], np.float32)},
        18,
    ),
    "constants_folded": (
        [
            helper.make_node("Transpose", ["w"], ["wt"], perm=[3, 2, 0, 1]),
            helper.make_node("Mul", ["wt", "k"], ["wk"]),
            helper.make_node("Conv", ["x", "wk"], ["y"]),
        ],
        {"w": floats(3, 3, 6, 4), "k": np.float32(0.5)},
    ),
    # What exporters write for a flatten with a free batch.
    "shape_arithmetic": (
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "zero"], ["n"]),
            helper.make_node("Cast", ["n"], ["n32"], to=TensorProto.INT32),
            helper.make_node("Unsqueeze", ["n32", "axis"], ["n1"]),
            helper.make_node("Cast", ["n1"], ["n64"], to=TensorProto.INT64),
            helper.make_node("Slice", ["s", "one", "four"], ["rest"]),
            helper.make_node("ReduceProd", ["rest"], ["product"], keepdims=1),
            helper.make_node("Div", ["product", "two"], ["half"]),
            helper.make_node("Concat", ["n64", "two", "half"], ["target"], axis=0),
            helper.make_node("Reshape", ["x", "target"], ["y"]),
        ],
        {"zero": np.array(0, np.int64), "axis": ints(0), "one": ints(1), "four": ints(4), "two": ints(2)},
    ),
    # A mean written as sum / (height * width), with the sizes read from the map.
    "host_scalar": (
        [
            helper.make_node("Shape", ["x"], ["s"], start=2),
            helper.make_node("ReduceProd", ["s"], ["p"], keepdims=0),
            helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["x", "a"], ["t"], keepdims=0),
            helper.make_node("Div", ["t", "f"], ["y"]),
        ],
        {"a": ints(2, 3)},
    ),
    "filled": (
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node(
                "ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])
            ),
            helper.make_node("Mul", ["x", "c"], ["y"]),
        ],
        {},
    ),
}
PLAIN = "Abs Ceil Cos Erf Exp Floor HardSwish Identity Mish Neg Reciprocal Relu Round Sigmoid"
CASES |= {op.lower(): (one(op), {}, 18) for op in (*PLAIN.split(), "Sign", "Sin", "Softplus", "Softsign", "Tanh")}


ONLY_SPECIFIED = {"lrn_even"}


@pytest.mark.parametrize("case", CASES)
def test_operator_agrees_with_onnxruntime(case: str, tmp_path: Path) -> None:
    nodes, constants, *opset = CASES[case]
    free = [None if "resize_linear" not in case else 3, 6, 9, 11]
    path = write(tmp_path / "m.onnx", nodes, constants, free, *opset)
    images = floats(3, 6, 9, 11)
    expected = specified(path, images) if case in ONLY_SPECIFIED else reference(path, images)
    with torch.inference_mode():
        output = OnnxModule(read_graph(path))(torch.from_numpy(images))
    assert output.shape == expected.shape
    np.testing.assert_allclose(output.numpy(), expected, rtol=2e-5, atol=2e-5)


#: Constant shapes of these cases hold the batch; Resize's sizes do as well.
FIXED = {"resize_linear", "resize_half_pixel_ties"}


@pytest.mark.parametrize("case", [case for case in CASES if case not in FIXED])
def test_operator_traces_with_fake_tensors(case: str, tmp_path: Path) -> None:
    nodes, constants, *opset = CASES[case]
    module = OnnxModule(read_graph(write(tmp_path / "m.onnx", nodes, constants, [None, 6, 9, 11], *opset)))
    graph = traced(module, (6, 9, 11))
    images = torch.from_numpy(floats(97, 6, 9, 11))
    with torch.inference_mode():
        assert torch.equal(torch.nan_to_num(graph(images)), torch.nan_to_num(module(images)))


def test_every_operator_has_a_case() -> None:
    tried = {node.op_type for nodes, *_ in CASES.values() for node in nodes}
    # LSTM and GRU have a file of their own.
    assert set(OPERATORS) - tried <= {"CastLike", "Size", "Swish", "LSTM", "GRU"}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: one("Conv", "w"), "Conv node 'y'"),
        (lambda: one("LSTM", "w", "w"), "LSTM"),
        (lambda: [helper.make_node("Relu6", ["x"], ["y"])], "Did you mean 'Relu'"),
        (lambda: [helper.make_node("Fused", ["x"], ["y"], domain="com.example")], "com.example.Fused"),
        (
            lambda: [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Reshape", ["x", "i"], ["y"])],
            "NonZero",
        ),
        (
            lambda: [
                helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
                helper.make_node("Reshape", ["x", "i"], ["y"]),
            ],
            "computed from pixel values",
        ),
        (lambda: one("Reshape", "s"), "Reshape node 'y'"),
        (lambda: one("DynamicQuantizeLinear"), "Quantize the network as QDQ"),
        (
            lambda: [helper.make_node("QLinearAdd", ["x"], ["y"], domain="com.microsoft")],
            "quant_format=QuantFormat.QDQ",
        ),
        (
            lambda: [helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])],
            "indices",
        ),
    ],
)
def test_faults_name_the_operator(build: Callable[[], list[Any]], words: str, tmp_path: Path) -> None:
    from obeql.errors import ModelError

    constants = {"w": floats(4, 6, 3), "s": ints(7, 7)}
    path = write(tmp_path / "m.onnx", build(), constants, [None, 6, 9, 11])
    with pytest.raises(ModelError) as caught:
        OnnxModule(read_graph(path))(torch.zeros(2, 6, 9, 11))
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


def test_float64_and_bfloat16_follow_the_parameters(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["b", "k"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"w": floats(2, 3, 3, 3), "k": floats(2, 1, 1)}, [None, 3, 8, 8])
    module = OnnxModule(read_graph(path))
    for dtype in (torch.float64, torch.bfloat16):
        assert module.to(dtype)(torch.zeros(1, 3, 8, 8, dtype=dtype)).dtype == dtype


def _resized(size: int, attributes: Mapping[str, Any], factor: float | None, wanted: int) -> np.ndarray:
    """What onnxruntime makes of the row 0, 1, 2, .. by a factor, or to a size where there is none."""
    row = np.arange(size, dtype=np.float32).reshape(1, 1, 1, size)
    how = [1.0, 1.0, 1.0, factor] if factor is not None else [1, 1, 1, wanted]
    inputs = ["x", "", "how"] if factor is not None else ["x", "", "", "how"]
    kind = TensorProto.FLOAT if factor is not None else TensorProto.INT64
    graph = helper.make_graph(
        [helper.make_node("Resize", inputs, ["y"], **attributes)],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("how", kind, [4], how)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": row})[0]
    return found


@pytest.mark.parametrize("where", ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil", "linear"])
def test_resize_agrees_at_every_size_and_tie(where: str, rounding: str) -> None:
    attributes = {"mode": "linear"} if rounding == "linear" else {"mode": "nearest", "nearest_mode": rounding}
    attributes["coordinate_transformation_mode"] = where
    node = Node("Resize", "resize", ("x", "", "", ""), ("y",), attributes, 19)
    n_compared = 0
    for size in (*range(1, 24), 32, 47, 64, 112):
        ways = [(factor, 0) for factor in (0.3, 0.7, 1.1, 1.25, 1.3, 2.0, 7 / 3) if np.float32(size * factor) >= 1]
        for factor, wanted in [*ways, *((None, wanted) for wanted in (1, 2, 3, 7, 13, 16, 24, 46))]:
            expected = _resized(size, attributes, factor, wanted)
            scales = None if factor is None else np.array([1, 1, 1, factor], np.float32)
            row = torch.arange(size, dtype=torch.float32).reshape(1, 1, 1, size)
            found = resize(node, row, None, scales, None if factor is not None else ints(1, 1, 1, wanted)).numpy()
            assert found.shape == expected.shape, (size, factor, wanted)
            tolerance = 1e-4 if rounding == "linear" else 0
            assert np.abs(found - expected).max(initial=0) <= tolerance, (size, factor, wanted)
            n_compared += 1
    assert n_compared > 350
