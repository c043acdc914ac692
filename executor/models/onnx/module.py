"""Run an ONNX graph as a torch module: constants become parameters, nodes become calls of torch functions.

Comes after `graph` (the file as plain data) and before capture. Shape arithmetic stays on the host (`host`),
so that tracing the module gives plain layers with no data-dependent reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from obeql.errors import ModelError, nearest
from obeql.executor.models.forward import reason
from obeql.executor.models.onnx.elementwise import ELEMENTWISE
from obeql.executor.models.onnx.graph import Graph
from obeql.executor.models.onnx.host import HOST
from obeql.executor.models.onnx.layers import LAYERS
from obeql.executor.models.onnx.node import Array, Node, Operator, Value
from obeql.executor.models.onnx.recurrent import RECURRENT
from obeql.executor.models.onnx.shapes import MAX_ELEMENTS, SHAPES

__all__ = ["OPERATORS", "OnnxModule"]

#: Every supported ONNX operator.
OPERATORS: Mapping[str, Operator] = {**LAYERS, **RECURRENT, **ELEMENTWISE, **SHAPES}

#: Operators on integers, of the other form in which quantized networks are written.
_INTEGERS = re.compile(r"QLinear|QGemm|Integer$|^DynamicQuantizeLinear$|QAttention")

#: Constants up to this many elements may serve as shapes or bounds and are kept on the host as well.
HOST_ELEMENTS = 65536


class OnnxModule(nn.Module):
    """An ONNX graph from (N, C, H, W) images, or (N, C, length) signals, to its one output.

    With `channels_last` the graph itself reads (N, H, W, C) or (N, length, C). With `batch`, the batch size that the
    graph was exported for, constant shapes that start with it start with the batch at hand instead. All floating-point
    arithmetic is done in the precision of the parameters.

    Raises: ModelError for an operator that is not supported, when constants do not fit together, and, from the
    forward pass, when a shape depends on pixel values or an operator fails.
    """

    def __init__(self, graph: Graph, channels_last: bool = False, batch: int | None = None) -> None:
        super().__init__()
        _check_operators(graph.nodes)
        self.channels_last = channels_last
        self.input, self.output = graph.input, graph.output
        self._batch = batch
        nodes, constants = _transpose_weights(*_fold_constants(graph.nodes, graph.constants))
        nodes = _needed(nodes, graph.output)
        if channels_last:
            nodes, self.channels_last = _drop_leading_transpose(nodes, graph.input)
        self._steps = tuple((node, OPERATORS.get(node.op), HOST.get(node.op)) for node in nodes)
        self._last_reads = _last_reads(nodes, graph.output)
        self._stored: dict[str, str] = {}
        self._host: dict[str, Array] = {}
        for name in sorted({name for node in nodes for name in node.inputs} & constants.keys()):
            self._store(name, constants[name])
        self._bound = {name: value for name, value in graph.bound.items() if any(name in node.inputs for node in nodes)}
        for name, value in self._bound.items():
            self._store(name, value.tensor.numpy(), on_host=False)
        if graph.output in constants:
            raise ModelError("The output of the ONNX graph does not depend on its input.")
        #: the computation in words; part of what says whether a file is what it was
        self.description = f"batch={batch}\n" + "\n".join(_description(node) for node in nodes)
        if any(_resizes_in_parts(node, constants) for node in nodes):
            # Earlier versions computed other numbers there: what they stored is of another model.
            self.resizes = "by scales"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Run the graph on images (N, C, H, W); returns its output."""
        size = image.shape[0]
        values: dict[str, Value] = {self.input: image.movedim(1, -1) if self.channels_last else image}
        for name, bound in self._bound.items():
            values[name] = bound.of(getattr(self, self._stored[name]), size)
        for (node, operator, host), done in zip(self._steps, self._last_reads, strict=True):
            try:
                results = self._call(node, operator, host, values, size, image.device)
            except ModelError:
                raise
            except Exception as error:
                raise node.refuse(f"fails ({reason(error)})") from error
            results = tuple(results) if isinstance(results, tuple | list) else (results,)
            values.update(zip(node.outputs, results, strict=False))
            for name in done:  # activations are freed as soon as nothing reads them any more
                values.pop(name, None)
        output = values[self.output]
        if not isinstance(output, torch.Tensor):
            raise ModelError("The output of the ONNX graph depends on the shape of its input alone.")
        return output

    def _store(self, name: str, array: Array, on_host: bool = True) -> None:
        base = re.sub(r"\W", "_", name) or "constant"
        attribute = base
        while hasattr(self, attribute):
            attribute = f"{base}_{len(self._stored)}"
        tensor = torch.from_numpy(np.array(array))
        if tensor.is_floating_point():
            self.register_parameter(attribute, nn.Parameter(tensor, requires_grad=False))
        else:
            self.register_buffer(attribute, tensor)
        self._stored[name] = attribute
        if on_host and array.size <= HOST_ELEMENTS:
            self._host[name] = array

    def _call(
        self,
        node: Node,
        operator: Operator | None,
        host: Callable[..., Any] | None,
        values: Mapping[str, Value],
        size: int,
        device: torch.device,
    ) -> Any:
        known = [values.get(name, self._host.get(name)) if name else None for name in node.inputs]
        if host is not None and all(
            isinstance(value, np.ndarray) or not name for name, value in zip(node.inputs, known, strict=True)
        ):
            return host(node, *known)
        if operator is None:
            raise node.refuse("needs values that are known without pixels")
        arguments: list[Any] = []
        for position, (name, value) in enumerate(zip(node.inputs, known, strict=True)):
            if not name:
                arguments.append(None)
            elif position in operator.host:
                if not isinstance(value, np.ndarray):
                    raise node.refuse(f"takes a shape or bound, {name!r}, that is computed from pixel values")
                arguments.append(self._rebatched(node, value, size))
            elif isinstance(value, np.ndarray) and position in operator.host_if_known:
                arguments.append(value)
            elif name in self._stored and name not in self._bound:
                arguments.append(getattr(self, self._stored[name]))
            elif isinstance(value, np.ndarray):
                number = operator.scalars and value.size == 1
                arguments.append(value.item() if number else torch.tensor(value, device=device))
            else:
                arguments.append(value)
        if node.op == "Concat" and self._batch is not None:
            arguments = _same_batch(node, arguments, size)
        return operator.run(node, *arguments)

    def _rebatched(self, node: Node, value: Array, size: int) -> Array:
        if self._batch is None or node.op != "Reshape" or node.inputs[1] not in self._stored:
            return value
        if value.size < 2 or value.reshape(-1)[0] != self._batch:
            return value
        return np.concatenate([[size], value.reshape(-1)[1:]])


def _same_batch(node: Node, values: Sequence[Any], size: int) -> list[Any]:
    """Repeat constants exported for a batch of one, such as a class token, for every image."""
    if node.get("axis", 0) == 0:
        return list(values)
    return [value.expand(size, *value.shape[1:]) if value.shape[0] == 1 else value for value in values]


def _check_operators(nodes: Sequence[Node]) -> None:
    for node in nodes:
        if node.op not in OPERATORS and node.op not in HOST:
            hint = nearest(node.op, OPERATORS) if "." not in node.op else ""
            way = "Another way in: torch.export of the original model, or a Python factory."
            if _INTEGERS.search(node.op):
                hint, way = (
                    "",
                    "Quantize the network as QDQ (quantize_static with quant_format=QuantFormat.QDQ), which is.",
                )
            raise ModelError(f"The ONNX operator {node.op} ({node.shown}) is not supported.{hint} {way}")


def _fold_constants(nodes: Sequence[Node], constants: Mapping[str, Array]) -> tuple[list[Node], dict[str, Array]]:
    """Compute every node that reads constants alone, once."""
    known = dict(constants)
    left = []
    for node in nodes:
        if not all(name in known for name in node.inputs if name):
            left.append(node)
            continue
        inputs = [known[name] if name else None for name in node.inputs]
        try:
            results = _folded(node, inputs)
        except ModelError:
            raise
        except Exception as error:
            raise node.refuse(f"fails ({reason(error)})") from error
        for name, result in zip(node.outputs, results, strict=False):
            known[name] = result
    return left, known


def _folded(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    if node.op in HOST:
        results = HOST[node.op](node, *inputs)
    else:
        operator = OPERATORS[node.op]
        arguments = [
            value if value is None or position in operator.host else torch.from_numpy(np.array(value))
            for position, value in enumerate(inputs)
        ]
        results = operator.run(node, *arguments)
    results = results if isinstance(results, tuple | list) else (results,)
    for result in results:
        if np.prod([float(size) for size in result.shape]) > MAX_ELEMENTS:
            raise node.refuse(f"builds a constant of shape {tuple(result.shape)}")
    return [
        result.contiguous().numpy() if isinstance(result, torch.Tensor) else np.asarray(result) for result in results
    ]


def _transpose_weights(nodes: Sequence[Node], constants: dict[str, Array]) -> tuple[list[Node], dict[str, Array]]:
    """Store the constant right factor of MatMul and Gemm as (out, in), as torch's linear layers do."""
    turned = []
    for node in nodes:
        right = constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if node.op in ("MatMul", "Gemm") and right is not None and right.ndim == 2 and not node.get("transB", 0):
            name = f"{node.inputs[1]} transposed"
            constants.setdefault(name, np.ascontiguousarray(right.T))
            inputs = (node.inputs[0], name, *node.inputs[2:])
            node = replace(node, inputs=inputs, attributes={**node.attributes, "transB": 1})  # noqa: PLW2901
        turned.append(node)
    return turned, constants


def _needed(nodes: Sequence[Node], output: str) -> list[Node]:
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _drop_leading_transpose(nodes: Sequence[Node], image: str) -> tuple[list[Node], bool]:
    """Return where a channels-last graph first turns its input into (N, C, H, W), read the images as they come.

    Returns the nodes and whether the graph still reads (N, H, W, C).
    """
    readers = [node for node in nodes if image in node.inputs]
    forward = ((0, 3, 1, 2), (0, 2, 1))
    if not readers or any(node.op != "Transpose" or tuple(node.get("perm", ())) not in forward for node in readers):
        return list(nodes), True
    same = [replace(node, op="Identity", attributes={}) if image in node.inputs else node for node in nodes]
    return same, False


def _last_reads(nodes: Sequence[Node], output: str) -> tuple[tuple[str, ...], ...]:
    """Return for every node the values that nothing reads after it."""
    seen = {output}
    done: list[tuple[str, ...]] = []
    for node in reversed(nodes):
        last = {name for name in (*node.inputs, *node.outputs) if name and name not in seen}
        seen.update(last)
        done.append(tuple(last))
    return tuple(done[::-1])


def _resizes_in_parts(node: Node, constants: Mapping[str, Array]) -> bool:
    """Return whether a node resizes by scales that are not known to be whole."""
    if node.op != "Resize" or len(node.inputs) < 3 or not node.inputs[2]:
        return False
    scales = constants.get(node.inputs[2])
    return scales is None or bool((scales != np.floor(scales)).any())


def _description(node: Node) -> str:
    attributes = ", ".join(f"{key}={_shown(value)}" for key, value in sorted(node.attributes.items()))
    return f"{', '.join(node.outputs)} = {node.op}({', '.join(node.inputs)}; {attributes}) v{node.opset}"


def _shown(value: Any) -> str:
    return str(value.tolist()) if isinstance(value, np.ndarray) else str(value)
