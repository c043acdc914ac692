"""ONNX files: layouts, batches, final activations, and every way a file can be broken."""

from __future__ import annotations

from collections.abc import Sequence
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

import obeql  # noqa: E402
from obeql.errors import ModelError  # noqa: E402
from obeql.executor.models import load  # noqa: E402
from obeql.executor.models.per_batch import FixedBatch  # noqa: E402

RNG = np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray:
    return (0.2 * RNG.standard_normal(shape)).astype(np.float32)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def save(
    path: Path,
    nodes: Sequence[Any],
    constants: dict[str, Any],
    shape: Sequence[Any],
    output: str = "y",
    opset: int = 17,
    **metadata: str,
) -> str:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return str(path)


def reference(path: str, images: np.ndarray) -> np.ndarray:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


#: conv, pool, a flatten the caller writes, dense head
WEIGHTS = {"w": floats(4, 3, 3, 3), "b": floats(4), "d": floats(36, 5), "e": floats(5)}


def small(*flatten: Any, head: Sequence[Any] = ()) -> list[Any]:
    """x (N, 3, 8, 8) -> y (N, 5); `flatten` takes "p" (N, 4, 3, 3) to "f" (N, 36)."""
    return [
        node("Conv", "x w b", "c"),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        *(flatten or (node("Flatten", "p", "f"),)),
        node("Gemm", "f d e", "z" if head else "y"),
        *head,
    ]


def test_free_batch_agrees_with_onnxruntime_and_traces(tmp_path: Path) -> None:
    flatten = (
        node("Shape", "p", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n zeros", "n1"),
        node("Concat", "n1 rest", "t", axis=0),
        node("Reshape", "p t", "f"),
    )
    shapes = {"zero": np.array(0), "zeros": np.array([0]), "rest": np.array([-1])}
    path = save(tmp_path / "m.onnx", small(*flatten), WEIGHTS | shapes, ["N", 3, 8, 8])
    model = load(path)
    images = floats(3, 3, 8, 8)
    assert (model.raw_outputs, model.activation, model.n_classes) == (None, None, 5)
    assert model.preprocessing.size == (8, 8)
    assert model.preprocessing.mean == (0.0, 0.0, 0.0)
    np.testing.assert_allclose(
        model.module(torch.from_numpy(images)).numpy(), reference(path, images), rtol=1e-5, atol=1e-5
    )
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(torch.empty(97, 3, 8, 8))
    graph = make_fx(model.module, tracing_mode="real", _allow_non_fake_inputs=True)(fake)
    calls = [str(call.target) for call in graph.graph.nodes if call.op == "call_function"]
    assert [call for call in calls if "convolution" in call or "addmm" in call] == [
        "aten.convolution.default",
        "aten.addmm.default",
    ]
    assert not [call for call in calls if "_local_scalar_dense" in call]


@pytest.mark.parametrize("target", [[1, -1], [1, 36], [-1, 36], [0, -1]])
def test_batch_of_one_is_freed(target: list[int], tmp_path: Path) -> None:
    flatten = node("Reshape", "p t", "f")
    path = save(tmp_path / "m.onnx", small(flatten), WEIGHTS | {"t": np.array(target)}, [1, 3, 8, 8])
    model = load(path)
    images = floats(3, 3, 8, 8)
    expected = np.concatenate([reference(path, image[None]) for image in images])
    np.testing.assert_allclose(model.module(torch.from_numpy(images)).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert not isinstance(model.module, FixedBatch)
    assert model.notes == ()


def test_class_token_of_a_batch_of_one_is_repeated(tmp_path: Path) -> None:
    flatten = (
        node("Reshape", "p t", "q"),
        node("Concat", "token q", "k", axis=1),
        node("Gather", "k zero", "g", axis=1),
        node("ReduceSum", "k one", "u", keepdims=0),
        node("Add", "g u", "f"),
    )
    constants = {"t": np.array([1, 4, 9]), "token": floats(1, 1, 9), "zero": np.array(0), "one": np.array([1])}
    weights = WEIGHTS | {"d": floats(9, 5)}
    path = save(tmp_path / "m.onnx", small(*flatten), weights | constants, [1, 3, 8, 8])
    images = floats(3, 3, 8, 8)
    expected = np.concatenate([reference(path, image[None]) for image in images])
    model = load(path)
    np.testing.assert_allclose(model.module(torch.from_numpy(images)).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert not isinstance(model.module, FixedBatch)


@pytest.mark.parametrize("batch", [1, 2])
def test_batch_that_cannot_be_freed_runs_in_pieces(batch: int, tmp_path: Path) -> None:
    # The mean over every axis mixes the images of a batch; only batches as exported give the file's outputs.
    head = (node("ReduceMean", "z", "m", keepdims=1), node("Sub", "z m", "y"))
    path = save(tmp_path / "m.onnx", small(head=head), WEIGHTS, [batch, 3, 8, 8])
    images = floats(4, 3, 8, 8)
    model = load(path)
    assert isinstance(model.module, FixedBatch)
    assert f"batch of {batch}" in model.notes[0]
    expected = np.concatenate([reference(path, images[at : at + batch]) for at in range(0, 4, batch)])
    np.testing.assert_allclose(model.module(torch.from_numpy(images)).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mixes", [False, True])
def test_a_batch_of_one_behind_a_free_input(mixes: bool, tmp_path: Path) -> None:
    """Exported with a free batch axis, and a shape further on that has a batch of one."""
    flatten = (node("Reshape", "p t", "f"),)
    head = (node("ReduceMean", "z", "m", keepdims=1), node("Sub", "z m", "y"))
    nodes = small(*flatten, head=head) if mixes else small(*flatten)
    path = save(tmp_path / "m.onnx", nodes, WEIGHTS | {"t": np.array([1, 36])}, ["N", 3, 8, 8])
    images = floats(3, 3, 8, 8)
    expected = np.concatenate([reference(path, image[None]) for image in images])
    model = load(path)
    np.testing.assert_allclose(model.module(torch.from_numpy(images)).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(model.module, FixedBatch) == mixes


def test_channels_last_input_is_permuted(tmp_path: Path) -> None:
    moved = [node("Transpose", "x", "xt", perm=[0, 3, 1, 2]), *small()]
    moved[1].input[0] = "xt"
    scaled = [node("Mul", "x two", "x2"), node("Transpose", "x2", "xt", perm=[0, 3, 1, 2]), *small()]
    scaled[2].input[0] = "xt"
    images = floats(3, 8, 8, 3)
    for name, nodes in (("moved", moved), ("scaled", scaled)):
        for shape in (["N", 8, 8, 3], [1, 8, 8, 3]):
            path = save(tmp_path / f"{name}.onnx", nodes, WEIGHTS | {"two": np.float32(2)}, shape)
            model = load(path)
            expected = np.concatenate([reference(path, image[None]) for image in images])
            outputs = model.module(torch.from_numpy(images).permute(0, 3, 1, 2))
            np.testing.assert_allclose(outputs.numpy(), expected, rtol=1e-5, atol=1e-5)
            assert model.preprocessing.size == (8, 8)
    free = save(tmp_path / "free.onnx", moved, WEIGHTS, ["N", "H", "W", "C"])
    assert load(free, {"size": 8}).n_classes == 5


def test_gray_input_is_declared(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", small(), WEIGHTS | {"w": floats(4, 1, 3, 3)}, ["N", 1, 8, 8])
    model = load(path, {"mean": 0.5, "std": 0.25})
    assert (model.preprocessing.channels, model.preprocessing.mean) == ("gray", (0.5,))


@pytest.mark.parametrize(
    ("head", "opset", "activation"),
    [
        ((node("Softmax", "z", "y"),), 17, "softmax"),
        ((node("Softmax", "z", "y"),), 11, "softmax"),
        ((node("LogSoftmax", "z", "y", axis=1),), 17, "softmax"),
        ((node("Sigmoid", "z", "y"),), 17, "sigmoid"),
        ((node("Sigmoid", "z", "s"), node("Identity", "s", "y")), 17, "sigmoid"),
        ((node("Softmax", "z", "s", axis=1), node("Flatten", "s", "y")), 17, "softmax"),
    ],
)
def test_final_activation_is_taken_off(head: tuple[Any, ...], opset: int, activation: str, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", small(head=head), WEIGHTS, ["N", 3, 8, 8], opset=opset)
    model = load(path)
    assert (model.activation, model.raw_outputs) == (activation, "logits")
    images = floats(2, 3, 8, 8)
    logits = model.module(torch.from_numpy(images))
    expected = reference(path, images)
    if head[0].op_type == "LogSoftmax":
        expected = np.exp(expected)
    ours = torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, 1)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert load(path, {"outputs": "probabilities"}).raw_outputs == "logits"
    said = load(path, {"outputs": "logits"})
    np.testing.assert_allclose(
        said.module(torch.from_numpy(images)).numpy(), reference(path, images), rtol=1e-5, atol=1e-6
    )
    assert said.content_hash() != model.content_hash()


@pytest.mark.parametrize(
    ("head", "constants"),
    [
        ((node("Softmax", "z", "s"), node("Clip", "s low one", "y")), {"low": np.float32(1e-7), "one": np.float32(1)}),
        ((node("Softmax", "z", "s"), node("Add", "s eps", "y")), {"eps": np.float32(1e-8)}),
        ((node("Softmax", "z", "s"), node("Mul", "s one", "y")), {"one": np.float32(1)}),
        ((node("Softmax", "z", "s"), node("Softmax", "c", "t"), node("Add", "s s", "u"), node("Div", "u two", "y")),
         {"two": np.float32(2)}),
    ],
)  # fmt: skip
def test_probabilities_in_other_forms_are_told_by_their_values(
    head: tuple[Any, ...], constants: dict[str, Any], tmp_path: Path
) -> None:
    named = {name: np.asarray(value) for name, value in constants.items()}
    path = save(tmp_path / "m.onnx", small(head=head), WEIGHTS | named, ["N", 3, 8, 8])
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    with obeql.connect() as db:
        db.create_model("net", path)
        result = db.explain(picture, "net", patch=4, stride=4, fill="black", classes="all")
    image = np.moveaxis(picture.astype(np.float32) / 255, -1, 0)[None]
    hidden = image.copy()
    hidden[:, :, :4, :4] = 0
    for heat, clean, first in zip(result, reference(path, image)[0], reference(path, hidden)[0], strict=True):
        assert heat.clean_score == pytest.approx(clean, abs=3e-7)
        assert heat.scores[0, 0] == pytest.approx(first, abs=3e-7)


def test_several_outputs_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    head = (node("Gemm", "z wide", "features"), node("Gemm", "z narrow", "y"))
    path = save(tmp_path / "m.onnx", small(head=head), WEIGHTS | {"wide": floats(5, 12), "narrow": floats(5, 4)},
                ["N", 3, 8, 8])  # fmt: skip
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
    onnx.save(model, path)
    fails(path, "'y' (N, 4)", "'features' (N, 12)", "output=")
    for output, n_classes in (("y", 4), ("features", 12), (0, 4), (1, 12)):
        assert load(path, {"output": output}).n_classes == n_classes


def test_logits_beside_their_probabilities_are_read(tmp_path: Path) -> None:
    for op, activation in (("Softmax", "softmax"), ("Sigmoid", "sigmoid")):
        path = save(tmp_path / "m.onnx", small(head=(node(op, "z", "y"),)), WEIGHTS, ["N", 3, 8, 8])
        model = onnx.load(path)
        model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
        onnx.save(model, path)
        read = load(path)
        assert [output.name for output in read.outputs if output.chosen] == ["z"]
        assert (read.activation, read.raw_outputs) == (activation, "logits")
        images = floats(2, 3, 8, 8)
        found = torch.sigmoid(read.module(torch.from_numpy(images))) if op == "Sigmoid" else torch.softmax(
            read.module(torch.from_numpy(images)), 1
        )  # fmt: skip
        np.testing.assert_allclose(found.numpy(), reference(path, images), rtol=1e-5, atol=1e-6)


def test_softmax_over_another_axis_stays(tmp_path: Path) -> None:
    head = (node("Softmax", "z", "y", axis=0),)
    model = load(save(tmp_path / "m.onnx", small(head=head), WEIGHTS, ["N", 3, 8, 8]))
    outputs = model.module(torch.from_numpy(floats(4, 3, 8, 8)))
    assert torch.allclose(outputs.sum(0), torch.ones(5))


def test_hash_is_of_content(tmp_path: Path) -> None:
    first = load(save(tmp_path / "a.onnx", small(), WEIGHTS, ["N", 3, 8, 8]))
    again = load(save(tmp_path / "b.onnx", small(), WEIGHTS, ["N", 3, 8, 8]))
    weights = WEIGHTS | {"e": WEIGHTS["e"] + np.float32(1e-6)}
    other = load(save(tmp_path / "c.onnx", small(), weights, ["N", 3, 8, 8]))
    nodes = small()
    nodes[1] = node("Tanh", "c", "r")
    third = load(save(tmp_path / "d.onnx", nodes, WEIGHTS, ["N", 3, 8, 8]))
    assert first.content_hash() == again.content_hash()
    assert len({first.content_hash(), other.content_hash(), third.content_hash()}) == 3


def test_class_names_from_metadata(tmp_path: Path) -> None:
    names = "{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e'}"
    assert load(save(tmp_path / "m.onnx", small(), WEIGHTS, ["N", 3, 8, 8], names=names)).classes == tuple("abcde")
    for broken in ("{0: 'a'}", "__import__('os')", "{" * 5000, "[1]", "{'x': 1}"):
        assert load(save(tmp_path / "n.onnx", small(), WEIGHTS, ["N", 3, 8, 8], names=broken)).classes == ()


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    model = load(save(tmp_path / "m.onnx", small()[::-1], WEIGHTS, ["N", 3, 8, 8]))
    assert model.n_classes == 5


def fails(path: str, *words: str, **options: Any) -> None:
    with pytest.raises(ModelError) as caught:
        load(path, options)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert len(message) < 600


def test_damaged_files(tmp_path: Path) -> None:
    path = Path(save(tmp_path / "m.onnx", small(), WEIGHTS, ["N", 3, 8, 8]))
    whole = path.read_bytes()
    for name, data in {
        "empty": b"",
        "garbage": b"\x93NUMPY garbage" * 50,
        "text": b"hello",
        "cut": whole[: len(whole) // 2],
        "tail": whole[:-7],
    }.items():
        (tmp_path / f"{name}.onnx").write_bytes(data)
        fails(str(tmp_path / f"{name}.onnx"), name)
    fails(str(tmp_path / "mm.onnx"), "Did you mean 'm.onnx'")
    fails(str(tmp_path), "allowed are")


def edited(path: str, edit: Any) -> str:
    model = onnx.load(path)
    edit(model)
    target = path.replace(".onnx", "_edited.onnx")
    onnx.save(model, target)
    return target


def test_dishonest_graphs(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", small(), WEIGHTS, ["N", 3, 8, 8])

    def huge(model: Any) -> None:
        model.graph.initializer[0].dims[0] = 2**40

    def negative(model: Any) -> None:
        model.graph.initializer[0].dims[0] = -4

    def cycle(model: Any) -> None:
        model.graph.node[0].input[0] = "r"

    def absent(model: Any) -> None:
        model.graph.node[1].input[0] = "nowhere"

    def twice(model: Any) -> None:
        model.graph.node[1].output[0] = "c"

    def second_input(model: Any) -> None:
        model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))

    def second_output(model: Any) -> None:
        model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))

    def other_output(model: Any) -> None:
        model.graph.output[0].name = "nothing"

    def whole_numbers(model: Any) -> None:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64

    def vectors(model: Any) -> None:
        del model.graph.input[0].type.tensor_type.shape.dim[2:]

    def map_output(model: Any) -> None:
        model.graph.output[0].name = "c"

    def old(model: Any) -> None:
        model.opset_import[0].version = 6

    def hyperspectral(model: Any) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4

    fails(edited(path, huge), "damaged", "'w'")
    fails(edited(path, negative), "damaged", "'w'")
    fails(edited(path, cycle), "cycle")
    fails(edited(path, absent), "'nowhere'")
    fails(edited(path, twice), "twice")
    fails(edited(path, second_input), "'mask'", "2")
    two = edited(path, second_output)
    assert [(each.name, each.shape, each.chosen) for each in load(two).outputs] == [
        ("y", (5,), True), ("c", (4, 6, 6), False),
    ]  # fmt: skip
    fails(two, "(N, classes)", "(2, 4, 6, 6)", output="c")
    fails(two, "no output 'd'", "'c' (N, 4, 6, 6)", output="d")
    fails(edited(path, other_output), "'nothing'")
    fails(edited(path, whole_numbers), "int64", "floats and UINT8 are supported")
    fails(edited(path, vectors), "2 axes")
    fails(edited(path, map_output), "(N, classes)", "(2, 4, 6, 6)")
    fails(edited(path, old), "opset 6")
    fails(edited(path, hyperspectral), "(?, 4, 8, 8)")


def test_an_input_of_any_size_is_not_tried(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", small(), WEIGHTS, ["N", 3, 300_000, 8])
    fails(path, "declares an input of 300000x8", "a side is 1 to 16384")


def test_memory_bombs_are_refused(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", "s", "k"), node("ReduceSum", "k", "t", keepdims=0), *small()]
    nodes[2].input[0] = "x2"
    nodes.insert(2, node("Add", "x t", "x2"))
    constants = WEIGHTS | {"s": np.array([2**40, 2**20])}
    fails(save(tmp_path / "m.onnx", nodes, constants, ["N", 3, 8, 8]), "ConstantOfShape")


def test_external_data_stays_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    path = save(folder / "m.onnx", small(), WEIGHTS, ["N", 3, 8, 8])
    expected = load(path)
    (tmp_path / "secret.bin").write_bytes(WEIGHTS["w"].tobytes())

    def outside(location: str, **entries: str) -> str:
        def edit(model: Any) -> None:
            tensor = model.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": location, **entries}.items():
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value

        model = onnx.load(path)
        edit(model)
        target = path.replace(".onnx", "_edited.onnx")
        Path(target).write_bytes(model.SerializeToString())
        return target

    fails(outside("../secret.bin"), "outside")
    fails(outside(str(tmp_path / "secret.bin")), "outside")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    fails(outside("link.bin"), "outside")
    fails(outside("absent.bin"), "missing")
    (folder / "w.bin").write_bytes(b"1234" + WEIGHTS["w"].tobytes())
    fails(outside("w.bin", offset="400"), "damaged")
    fails(outside("w.bin", offset="4", length="8"), "damaged")
    fails(outside("w.bin", offset="x"), "damaged")
    assert load(outside("w.bin", offset="4")).content_hash() == expected.content_hash()


def test_options_that_do_not_apply(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", small(), WEIGHTS, ["N", 3, "H", "W"])
    fails(path, "size=")
    fails(path, "weights", weights="other.pt", size=8)
    fails(path, "5 outputs", "2 class names", size=8, classes=["a", "b"])
    fails(path, "Check its input", size=9, channels="gray")


def test_random_damage_raises_nothing_but_model_errors(tmp_path: Path) -> None:
    whole = Path(save(tmp_path / "m.onnx", small(), WEIGHTS, ["N", 3, 8, 8])).read_bytes()
    chance = np.random.default_rng(0)
    path = tmp_path / "damaged.onnx"
    for _ in range(150):
        data = bytearray(whole)
        for place in chance.integers(0, len(whole), chance.integers(1, 6)):
            data[place] = chance.integers(256)
        path.write_bytes(data)
        try:
            load(str(path))
        except ModelError as error:
            assert "\n" not in str(error)


def quantized() -> tuple[list[Any], dict[str, Any]]:
    """Bytes (N, 12, 12, 3) -> y (N, 5), as converters from TensorFlow Lite write it, with a transposed convolution."""
    nodes = [
        node("DequantizeLinear", "x sx zx", "d"),
        node("Transpose", "d", "t", perm=[0, 3, 1, 2]),
        node("DequantizeLinear", "qw sw zw", "w", axis=0),
        node("Conv", "t w", "c"),
        node("Relu", "c", "r"),
        node("ConvTranspose", "r u", "v", strides=[2, 2]),
        node("QuantizeLinear", "v sv zv", "qv"),
        node("DequantizeLinear", "qv sv zv", "dv"),
        node("GlobalAveragePool", "dv", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f h", "y"),
    ]
    constants = {
        "sx": np.float32(2 / 255), "zx": np.uint8(128), "sv": np.float32(0.05), "zv": np.int8(-4),
        "qw": RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), "sw": np.abs(floats(4)) / 99 + 0.001,
        "zw": np.zeros(4, np.int8), "u": floats(4, 6, 3, 3), "h": 3 * floats(6, 5),
    }  # fmt: skip
    return nodes, constants


def test_a_network_of_bytes_reads_pixels_as_they_are(tmp_path: Path) -> None:
    import obeql

    nodes, constants = quantized()
    path = save(tmp_path / "m.onnx", nodes, constants, [None, 12, 12, 3])
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(model, path)
    picture = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    hidden = np.stack([picture.copy() for _ in range(9)])
    for number in range(9):
        top, left = 4 * (number // 3), 4 * (number % 3)
        hidden[number, top : top + 4, left : left + 4] = 0
    expected = reference(path, hidden)
    with obeql.connect() as db:
        db.create_model("net", path)
        heat = db.explain(picture, "net", patch=4, stride=4, fill="black", score="logit", classes=[2])[0]
    np.testing.assert_allclose(heat.scores.reshape(-1), expected[:, 2], atol=1e-3)
    assert heat.clean_score == pytest.approx(float(reference(path, picture[None])[0, 2]), abs=1e-3)
