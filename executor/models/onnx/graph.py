"""Read an ONNX file into plain data: sorted nodes, constants as arrays, one image input, its outputs.

The file is not trusted: sizes are checked against the data, external data stays inside the file's folder, and every
fault is one ModelError. `module` runs the result.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from obeql.errors import ModelError, install
from obeql.executor.models.bound_inputs import BoundValue, DeclaredInput, split_inputs
from obeql.executor.models.forward import reason
from obeql.executor.models.onnx.node import Array, Node
from obeql.planner.binding.input_values import InputValue
from obeql.planner.input_kinds import KINDS

__all__ = ["Graph", "read_graph"]

#: The oldest opset whose broadcasting is today's.
MIN_OPSET = 7
_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes in an order in which every input is known. `shape` is the declared input shape, None for a free axis.

    Floating-point constants are float32 whatever the file says; the others keep their type. `takes_bytes` says that the
    input is of whole numbers 0..255; its pixels reach the graph as floating-point numbers in that range.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    input: str
    shape: tuple[int | None, ...]
    output: str
    metadata: Mapping[str, str]
    #: the names of all outputs; `output` is one of them
    outputs: tuple[str, ...] = ()
    takes_bytes: bool = False
    #: values that are bound to other inputs and have a row for every image; those without one are constants
    bound: Mapping[str, BoundValue] = field(default_factory=dict)


def read_graph(path: Path, inputs: Mapping[str, InputValue] | None = None) -> Graph:
    """Return the graph of an ONNX file, with the values of `inputs` bound to all but the image.

    Raises: ModelError when the onnx package is missing, the file is not ONNX, is damaged, or is not a network from
    one image batch, and as `split_inputs` does.
    """
    onnx = _package()
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf has several decode errors, by version
        raise ModelError(f"{str(path)!r} is not an ONNX file, or it is truncated: {reason(error)}.") from None
    if not model.graph.node:
        raise ModelError(f"{str(path)!r} is not an ONNX file, or it holds no network.")
    if len(model.functions):
        model = _inlined(path, model)
    opset = _opset(path, model)
    constants = _initializers(onnx, path, model.graph)
    nodes = []
    for proto in model.graph.node:
        node = _node(onnx, path, proto, opset)
        if node.op == "Constant":
            constants[node.outputs[0]] = _constant(node)
        else:
            nodes.append(node)
    image, values = split_inputs(_declared(onnx, model.graph, constants), inputs, repr(str(path)))
    shape, takes_bytes = _image_shape(path, image)
    constants |= {name: _floats(value.tensor.numpy()) for name, value in values.items() if not value.each_image}
    bound = {name: value for name, value in values.items() if value.each_image}
    outputs = _outputs(path, model.graph)
    ordered = _sorted_nodes(path, nodes, {image.name, *constants, *bound})
    known = {image.name, *constants, *bound}.union(*(node.outputs for node in ordered))
    for output in outputs:
        if output not in known:
            raise ModelError(f"{str(path)!r} is damaged: no node computes its output {output!r}.")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Graph(ordered, constants, image.name, shape, outputs[0], metadata, outputs, takes_bytes, bound)


def _package() -> Any:
    try:
        return importlib.import_module("onnx")
    except ImportError:
        raise ModelError(f"An ONNX file needs the onnx package; {install('onnx')}.") from None


def _inlined(path: Path, model: Any) -> Any:
    try:
        return importlib.import_module("onnx.inliner").inline_local_functions(model)
    except Exception as error:
        raise ModelError(f"The functions inside {str(path)!r} cannot be expanded: {reason(error)}.") from None


def _opset(path: Path, model: Any) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    if not versions:
        raise ModelError(f"{str(path)!r} names no version of the standard ONNX operators.")
    if versions[0] < MIN_OPSET:
        raise ModelError(
            f"{str(path)!r} uses ONNX opset {versions[0]}; {MIN_OPSET} or newer is supported. "
            f"onnx.version_converter.convert_version(model, 13) converts it."
        )
    return int(versions[0])


def _initializers(onnx: Any, path: Path, graph: Any) -> dict[str, Array]:
    if len(graph.sparse_initializer):
        raise ModelError(f"{str(path)!r} holds sparse weights, which are not supported.")
    return {tensor.name: _array(onnx, path, tensor) for tensor in graph.initializer}


def _array(onnx: Any, path: Path, tensor: Any) -> Array:
    """Return a tensor's values, after checking its declared size against the data that is there."""
    shown = f"the weights {tensor.name!r} in {str(path)!r}"
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"The file is damaged: {shown} have shape {list(tensor.dims)}.")
    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return _floats(_external(onnx, path, tensor, shown))
        return _floats(onnx.numpy_helper.to_array(tensor))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"The file is damaged: {shown} declare shape {list(tensor.dims)}, which their data does not fit "
            f"({reason(error)})."
        ) from None


def _external(onnx: Any, path: Path, tensor: Any, shown: str) -> Array:
    """Read weights kept in a file beside the model; never outside the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder = path.resolve().parent
    parts = PurePosixPath(location.replace("\\", "/"))
    target = (folder / parts).resolve()
    if not location or parts.is_absolute() or ".." in parts.parts or not target.is_relative_to(folder):
        raise ModelError(f"The external data of {shown} lies at {location!r}, outside the model's folder; refused.")
    if not target.is_file():
        raise ModelError(f"The external data of {shown} is missing: {location!r} is not beside the model.")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    n_bytes = math.prod(tensor.dims) * dtype.itemsize
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", n_bytes))
    if offset < 0 or length != n_bytes or offset + n_bytes > target.stat().st_size:
        raise ModelError(
            f"The external data of {shown} is damaged: {n_bytes} bytes at {offset} are declared, "
            f"but {location!r} holds {target.stat().st_size}."
        )
    with target.open("rb") as file:
        file.seek(offset)
        values = np.frombuffer(file.read(n_bytes), dtype=dtype.newbyteorder("<"))
    return values.reshape(tuple(tensor.dims))


def _floats(values: Array) -> Array:
    """Return float32 for every floating type (bfloat16 and float8 come as NumPy extension types)."""
    if values.dtype.kind in "biu":
        return np.ascontiguousarray(values).reshape(values.shape)
    if values.dtype.kind in "OSUc":
        raise ModelError(f"The ONNX file holds constants of type {values.dtype}; only numbers are supported.")
    return np.array(values, dtype=np.float32)


def _node(onnx: Any, path: Path, proto: Any, opset: int) -> Node:
    for text in (proto.op_type, proto.domain, proto.name, *proto.input, *proto.output):
        if not isinstance(text, str) or not text.isprintable():
            raise ModelError(f"{str(path)!r} is damaged: it names something {text!r}.")
    op = proto.op_type if proto.domain in _DOMAINS else f"{proto.domain}.{proto.op_type}"
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            attributes[attribute.name] = _array(onnx, path, attribute.t)
        else:
            value = onnx.helper.get_attribute_value(attribute)
            attributes[attribute.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if not proto.output:
        raise ModelError(f"{str(path)!r} is damaged: its {op} node {proto.name!r} has no output.")
    return Node(op, proto.name, tuple(proto.input), tuple(proto.output), attributes, opset)


def _constant(node: Node) -> Array:
    for key, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64),
                       ("value_ints", np.int64)):  # fmt: skip
        if key in node.attributes:
            return np.asarray(node.attributes[key], dtype=dtype)
    if "value" not in node.attributes:
        raise node.refuse("is neither a tensor nor numbers")
    return np.asarray(node.attributes["value"])


#: Number formats of inputs; arithmetic is in float32 whatever the file says.
_DTYPES = {
    **dict.fromkeys(("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"), torch.float32),
    **{kind.upper(): getattr(torch, kind.lower()) for kind in ("uint8", "int8", "int16", "int32", "int64", "bool")},
}


def _declared(onnx: Any, graph: Any, constants: Mapping[str, Array]) -> list[DeclaredInput]:
    """Return the inputs that no initializer gives a value."""
    declared = []
    for value in graph.input:
        if value.name not in constants:
            tensor = value.type.tensor_type
            sizes = [
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim
            ]
            shape = tuple(sizes) if tensor.HasField("shape") else None
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
            declared.append(DeclaredInput(value.name, shape, _DTYPES.get(kind)))
    return declared


def _image_shape(path: Path, image: DeclaredInput) -> tuple[tuple[int | None, ...], bool]:
    """Return the declared shape of the input that takes images, and whether it takes bytes."""
    if image.dtype not in (torch.float32, torch.uint8):
        raise ModelError(f"The input {image.shown} of {str(path)!r} takes no images; floats and UINT8 are supported.")
    if image.shape and len(image.shape) - 2 not in KINDS:
        raise ModelError(
            f"The input {image.shown} of {str(path)!r} has {len(image.shape)} axes; "
            f"an image batch has 4, (N, C, H, W) or (N, H, W, C), of signals 3, (N, C, length), of volumes 5, "
            "(N, C, depth, height, width)."
        )
    return image.shape or (None,) * 4, image.dtype == torch.uint8


def _outputs(path: Path, graph: Any) -> tuple[str, ...]:
    if not len(graph.output):
        raise ModelError(f"A classifier returns (N, classes); {str(path)!r} has no output.")
    return tuple(str(value.name) for value in graph.output)


def _sorted_nodes(path: Path, nodes: Iterable[Node], known: set[str]) -> tuple[Node, ...]:
    """Return the nodes in an order in which every input is known (Kahn's algorithm, stable)."""
    known = set(known)
    waiting = list(nodes)
    ordered: list[Node] = []
    readers: dict[str, list[int]] = {}
    missing: list[int] = []
    for index, node in enumerate(waiting):
        absent = {name for name in node.inputs if name and name not in known}
        missing.append(len(absent))
        for name in absent:
            readers.setdefault(name, []).append(index)
    ready = [index for index, count in enumerate(missing) if count == 0]
    position = 0
    while position < len(ready):
        node = waiting[ready[position]]
        position += 1
        ordered.append(node)
        for name in node.outputs:
            if name and name in known:
                raise ModelError(f"{str(path)!r} is damaged: {name!r} is computed twice.")
            if name:
                known.add(name)
            for index in readers.pop(name, ()):
                missing[index] -= 1
                if missing[index] == 0:
                    ready.append(index)
    if len(ordered) < len(waiting):
        node = waiting[next(index for index, count in enumerate(missing) if count > 0)]
        absent_name = next(name for name in node.inputs if name and name not in known)
        raise ModelError(
            f"{str(path)!r} is damaged: {node.shown} reads {absent_name!r}, which nothing computes before it "
            f"(a cycle or a missing node)."
        )
    return tuple(ordered)
