"""Models from .onnx files: the layout, the batch and the final activation are read off the graph.

One of the URI families of `obeql.executor.models.load`.
"""

from __future__ import annotations

import ast
import math
from dataclasses import replace

import torch

from obeql.errors import ModelError
from obeql.executor.models.classes import resolve_classes
from obeql.executor.models.found import Found
from obeql.executor.models.onnx.graph import Graph, read_graph
from obeql.executor.models.onnx.module import OnnxModule
from obeql.executor.models.onnx.node import Node
from obeql.executor.models.options import Channels, ModelOptions, numbered
from obeql.executor.models.paths import existing_file
from obeql.executor.models.per_batch import FixedBatch, fits_any_batch, runs_one_by_one_only
from obeql.executor.models.preprocessing import Declared
from obeql.executor.network.capture.outputs import activation_beside, choose_output, described, n_rows
from obeql.planner.catalog import Activation, RawOutputs
from obeql.planner.geometry import NetworkOutput

__all__ = ["load_onnx"]


def load_onnx(target: str, options: ModelOptions) -> Found:
    """Return the network of an ONNX file as a module from (N, C, H, W) to logits.

    Of several outputs one is chosen as `choose_output` says. A final softmax or sigmoid is taken off and recorded,
    unless the options say that the outputs are logits or values. A graph
    exported for a fixed batch size runs at any: rebuilt where that provably gives the same outputs, else in pieces.

    Raises: ModelError for a file that is damaged, unsupported, or not an image classifier.
    """
    if options.weights is not None:
        raise ModelError("An ONNX file carries its weights; the option weights does not apply to it.")
    graph = read_graph(existing_file(target, "model file"), options.inputs)
    channels_last = _is_channels_last(graph)
    declared = _declared(graph, channels_last)
    activation: Activation | None = None
    listed: tuple[NetworkOutput, ...] = ()
    if len(graph.outputs) > 1 or options.output is not None:
        graph, listed, activation = _chosen(graph, channels_last, options, declared)
    if options.outputs not in ("logits", "value") and activation is None:
        graph, activation = _without_activation(graph)
    raw_outputs: RawOutputs | None = "logits" if activation is not None else options.outputs
    module: torch.nn.Module = OnnxModule(graph, channels_last)
    notes: tuple[str, ...] = ()
    batch = graph.shape[0]
    size = options.size_of(len(graph.shape) - 2) or declared.size
    if size is not None:
        shape = (_n_channels(options.channels or declared.channels), *size)
        if batch is None and runs_one_by_one_only(module, shape):
            batch = 1  # the input says that the batch is free, a shape further on does not
        if batch is not None:
            free = OnnxModule(graph, channels_last, batch)
            fixed = FixedBatch(module, batch)
            if fits_any_batch(free, fixed, shape):
                module = free
            else:
                module = fixed
                notes = (f"The file was exported for a batch of {batch} and runs in such pieces, which is slow.",)
    return Found(
        module, declared, _class_names(graph), raw_outputs, activation, notes, listed, "logits", binds_inputs=True
    )


def _chosen(
    graph: Graph, channels_last: bool, options: ModelOptions, declared: Declared
) -> tuple[Graph, tuple[NetworkOutput, ...], Activation | None]:
    """Return the graph of the output that the classes are read from, all outputs, and which activation lies beside it.

    Raises ModelError as `choose_output`.
    """
    size = options.size_of(len(graph.shape) - 2) or declared.size
    if size is None:
        raise ModelError("The ONNX file does not declare its input size; say it in pixels, for example size=224.")
    images = torch.zeros((graph.shape[0] or 2, _n_channels(declared.channels), *size))
    facts: dict[str, tuple[tuple[int, ...], bool]] = {}
    values: dict[str, torch.Tensor] = {}
    for name in graph.outputs:
        try:
            with torch.inference_mode():
                returned = OnnxModule(replace(graph, output=name), channels_last)(images)
            facts[name] = tuple(returned.shape), returned.is_floating_point()
        except ModelError:  # an output that nobody reads may use what is not supported
            facts[name] = (), False

    def look() -> dict[str, torch.Tensor]:
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            for name, (shape, _) in facts.items():
                if shape:
                    values[name] = OnnxModule(replace(graph, output=name), channels_last)(noise)
        return values

    chosen = choose_output(facts, len(images), options.output, len(resolve_classes(options.classes)), look)
    if not values and n_rows(facts, len(images)) > 1:
        look()
    beside = activation_beside(values, chosen) if options.outputs is None else None
    return replace(graph, output=chosen), described(facts, chosen), beside


def _is_channels_last(graph: Graph) -> bool:
    _, first, *_, last = graph.shape
    is_image = len(graph.shape) == 4
    if is_image and last in (1, 3) and first not in (1, 3):
        return True
    if not is_image or (last is None and first is None):
        # Sizes do not say it: a graph that begins by moving channels forward does.
        readers = _readers(graph, graph.input)
        return bool(readers) and all(_moves_channels_forward(graph, node) for node in readers)
    return False


def _moves_channels_forward(graph: Graph, node: Node) -> bool:
    perm = tuple(node.get("perm", ())) if node.op == "Transpose" else ()
    # The same move of a signal is one of its samples, for an LSTM, where no convolution reads them.
    return perm == (0, 3, 1, 2) or (
        perm == (0, 2, 1) and all(each.op == "Conv" for each in _readers(graph, node.outputs[0]))
    )


def _readers(graph: Graph, value: str) -> list[Node]:
    return [node for node in graph.nodes if value in node.inputs]


def _declared(graph: Graph, channels_last: bool) -> Declared:
    sizes = graph.shape[1:]
    channels, *spatial = (sizes[-1], *sizes[:-1]) if channels_last else sizes
    known = tuple(each for each in spatial if each is not None)
    size = known if len(known) == len(spatial) else None
    if len(spatial) != 2:
        return Declared(size=size, channels=numbered(channels or 1), n_axes=len(spatial))
    if channels not in (None, 1, 3):
        raise ModelError(
            f"The ONNX input has shape {_shape(graph)}; images have 3 channels (or 1 for gray), first or last."
        )
    std = 1 / 255 if graph.takes_bytes else 1.0
    return Declared(size=size, channels="gray" if channels == 1 else "rgb", std=(std,), n_axes=2)


def _n_channels(channels: Channels) -> int:
    if isinstance(channels, tuple):
        return len(channels)
    return 1 if channels == "gray" else 3


def _shape(graph: Graph) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in graph.shape) + ")"


def _without_activation(graph: Graph) -> tuple[Graph, Activation | None]:
    """Take off a final Softmax, LogSoftmax or Sigmoid; return the graph of the logits and what was there.

    Seen through nodes that only move values; a softmax before such a node must run over axis 1, the classes.
    """
    producers = {name: node for node in graph.nodes for name in node.outputs}
    chain: list[Node] = []
    node = producers.get(graph.output)
    while node is not None and node.op in ("Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze"):
        chain.append(node)
        node = producers.get(node.inputs[0])
    if node is None or node.op not in ("Softmax", "LogSoftmax", "Sigmoid"):
        return graph, None
    readers = sum(name in node.outputs for reader in graph.nodes for name in reader.inputs)
    if readers != (1 if chain else 0):
        return graph, None
    if node.op != "Sigmoid":
        axis = node.get("axis", -1 if node.opset >= 13 else 1)
        moved = any(step.op in ("Flatten", "Reshape", "Squeeze") for step in chain)
        if axis != 1 and (axis != -1 or moved):
            return graph, None
    bypass = replace(node, op="Identity", attributes={})
    nodes = tuple(bypass if other is node else other for other in graph.nodes)
    return replace(graph, nodes=nodes), "sigmoid" if node.op == "Sigmoid" else "softmax"


def _class_names(graph: Graph) -> tuple[str, ...]:
    """Return the class names that exporters leave in the metadata, as `names` = "{0: 'cat', 1: 'dog'}"."""
    text = graph.metadata.get("names", "")
    try:
        names = ast.literal_eval(text) if 0 < len(text) < 2**20 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    if not isinstance(names, dict) or sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        return ()
    return tuple(str(name) for _, name in sorted(names.items(), key=lambda item: _number(item[0])))


def _number(key: object) -> float:
    try:
        return float(str(key))
    except ValueError:
        return math.inf
