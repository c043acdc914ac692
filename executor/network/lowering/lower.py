"""From traced ATen operators to layers.

Comes after tracing (`capture`), before `fold`. Each operator has one rule in `RULES`, which reads traced values and
adds layers. An operator without a rule, or used in a way its rule does not know, becomes an `AtenCall`: it runs as
traced on whole maps, so lowering itself never fails on an unknown operator, it only stops being incremental there.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from obeql.executor.network.axes import canonical
from obeql.executor.network.capture.trace import TRACE_BATCH, CannotLowerError, Traced, TracedGraph
from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.activation import Activation as ActivationLayer
from obeql.executor.network.layers.image import Image
from obeql.executor.network.layers.reduce import AtenCall, BatchSize, Flatten, LayerRef
from obeql.executor.network.lowering import RULES
from obeql.executor.network.lowering.attention import Scores, Unfollowed, scores_step
from obeql.executor.network.lowering.one_row import without_row
from obeql.executor.network.lowering.registry import plain_map
from obeql.executor.network.lowering.tokens import Repeated
from obeql.planner.catalog import Activation

__all__ = ["TRACE_BATCH", "CannotLowerError", "lower"]


_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


def lower(
    traced: fx.Graph,
    input_shape: Sequence[int],
    take_off: bool = True,
) -> tuple[list[Layer], Activation | None]:
    """Return (layers, final activation removed); the last layer gives (N, K).

    With `take_off`, a softmax or sigmoid at the end is left out, so that the last layer gives logits.

    Raises CannotLowerError when the output is not a (N, K) tensor that depends on the image.
    """
    traced.eliminate_dead_code()  # such as the indices of a pool, which no layer has
    graph = TracedGraph([Image("image", (), input_shape)])
    env: dict[fx.Node, Any] = {}
    for node in traced.nodes:
        if node.op == "placeholder":
            env[node] = Traced(0, canonical(TRACE_BATCH, input_shape))
        elif node.op == "get_attr":
            env[node] = _attribute(traced.owning_module, str(node.target))
        elif node.op == "call_function":
            env[node] = _call(graph, node, env)
        elif node.op == "output":
            return _finish(graph, node, env, take_off)
        else:
            raise CannotLowerError(f"a traced graph has no {node.op} nodes")
    raise CannotLowerError("the traced graph has no output")


def _attribute(module: fx.GraphModule | None, target: str) -> Tensor:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    if not isinstance(value, Tensor):
        raise CannotLowerError(f"constant {target} is a {type(value).__name__}")
    return value.detach()


def _call(graph: TracedGraph, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    args: Any = fx.node.map_arg(node.args, lambda n: env[n])
    kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: env[n])
    if node.target is operator.getitem:
        return args[0][args[1]]
    name = _overload_name(node.target)
    leaves = _leaves((args, tuple(kwargs.values())))
    if any(isinstance(item, (Scores, Unfollowed)) for item in leaves):
        return scores_step(graph, str(node.name), name, args, kwargs)
    values = [item for item in leaves if isinstance(item, (Traced, Repeated))]
    if not values and not _mentions_batch((node.args, tuple(node.kwargs.values()))):
        with torch.no_grad():
            return _functional(node.target)(*args, **kwargs)
    if values and all(isinstance(item, Repeated) for item in values):
        constant = _for_one_image(node.target, args, kwargs)
        if constant is not None:
            return constant
    rule = RULES.get(name)
    if rule is not None:
        if name in ("add", "sub", "mul", "div"):  # one constant for all images is as good as a constant
            result = rule(graph, str(node.name), tuple(map(_as_constant, args)), kwargs)
            if result is not None:
                return result
        if name not in ("cat", "concat"):
            args, kwargs = _with_repeated(graph, args), _with_repeated(graph, kwargs)
        result = rule(graph, str(node.name), args, kwargs)
        if result is not None:
            return result
    return _opaque(graph, node, args, kwargs)


def _overload_name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", None)
    name = str(packet.__name__) if packet is not None else getattr(target, "__name__", str(target))
    return name.rstrip("_")


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _mentions_batch(value: Any) -> bool:
    return any(leaf == TRACE_BATCH for leaf in _leaves(value) if type(leaf) is int)


def _opaque(graph: TracedGraph, node: fx.Node, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run the operator as traced. Its operands are brought to the layout the traced network saw."""
    inputs: list[int] = []

    def placed(value: Any) -> Any:
        if isinstance(value, Repeated):
            value = _repeat(graph, value)
        if isinstance(value, Traced):
            try:
                inputs.append(graph.as_traced(value).layer)
            except CannotLowerError as error:
                raise CannotLowerError(f"what {node.target} takes is no layer's output: {error}") from None
            return LayerRef(len(inputs) - 1)
        if type(value) is int and value == TRACE_BATCH:
            return BatchSize()
        if isinstance(value, (list, tuple)):
            return type(value)(placed(item) for item in value)
        return value

    call_args = placed(tuple(args))
    call_kwargs = {key: placed(value) for key, value in kwargs.items()}
    if not inputs:
        inputs.append(0)  # only to learn the number of images

    def add(item: int | None, result: Any) -> Any:
        if not isinstance(result, Tensor):
            return result
        if result.dim() == 0 or result.shape[0] != TRACE_BATCH:
            raise CannotLowerError(f"{node.target} mixes images of a batch")
        name = node.name if item is None else f"{node.name}_{item}"
        layer = AtenCall(name, inputs, result.shape[1:], _functional(node.target), call_args, call_kwargs, item)
        added = graph.add(layer)
        n_dims = len(graph.layers[0].shape)
        if len(layer.shape) == 2 and n_dims == 3 and graph.layers[0].shape[1] == 1:
            # A signal again, so that rules go on from here.
            channels, length = layer.shape
            row = Flatten(f"{name}_row", (added,), (channels, 1, length), (0, 1, 2))
            return Traced(graph.add(row), without_row(plain_map(graph, len(graph.layers) - 1)).axes)
        axes = canonical(TRACE_BATCH, layer.shape) if len(layer.shape) in (1, n_dims) else None
        return Traced(added, axes, tuple(result.shape))

    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return [add(i, item) for i, item in enumerate(value)]
    return add(None, value)


def _for_one_image(target: Any, args: Any, kwargs: dict[str, Any]) -> Repeated | None:
    """Return what an operator gives for constants that are the same for every image; None if images have a part in it.

    It is tried on two images, whose results must be the same.
    """
    images = 2

    def of_images(value: Any) -> Any:
        if isinstance(value, Repeated):
            return value.tensor.expand(images, *value.tensor.shape)
        if type(value) is int and value == TRACE_BATCH:
            return images
        if isinstance(value, (list, tuple)):
            return type(value)(map(of_images, value))
        return value

    try:
        with torch.no_grad():
            result = _functional(target)(*of_images(tuple(args)), **{key: of_images(kwargs[key]) for key in kwargs})
    except (RuntimeError, IndexError, TypeError):
        return None
    alike = isinstance(result, Tensor) and result.dim() > 0 and len(result) == images and result[0].equal(result[1])
    return Repeated(result[0].clone()) if alike else None


def _as_constant(value: Any) -> Any:
    return value.tensor[None] if isinstance(value, Repeated) else value


def _with_repeated(graph: TracedGraph, value: Any) -> Any:
    """Return arguments with constants of all images of a batch as layers."""
    if isinstance(value, Repeated):
        return _repeat(graph, value)
    if isinstance(value, (list, tuple)):
        return type(value)(_with_repeated(graph, item) for item in value)
    if isinstance(value, dict):
        return {key: _with_repeated(graph, item) for key, item in value.items()}
    return value


def _repeat(graph: TracedGraph, value: Repeated) -> Traced:
    """Return a constant that an operator without a rule takes once for each image."""
    constant = value.tensor[None]
    sizes = (BatchSize(), *value.tensor.shape)
    expand = torch.ops.aten.expand.default
    layer = AtenCall("repeated", (0,), tuple(value.tensor.shape), expand, (constant, sizes), {})
    return Traced(graph.add(layer), None, value.size())


def _functional(target: Any) -> Any:
    """Return the operator to run for a traced one, on tensors whose memory may be laid out otherwise than in the trace.

    One that writes into its first operand becomes the one that returns a new tensor, a view becomes a reshape.
    """
    if target in _VIEWS:
        return torch.ops.aten.reshape.default
    if target is torch.ops.aten.as_strided.default:
        raise CannotLowerError("as_strided depends on the memory layout")
    name = getattr(getattr(target, "overloadpacket", None), "__name__", "")
    if name.endswith("_") and not name.startswith("_"):
        packet = getattr(torch.ops.aten, name[:-1], None)
        overload = getattr(packet, target._overloadname, None)
        if overload is None:
            raise CannotLowerError(f"{target} writes into its operand")
        return overload
    return target


def _finish(
    graph: TracedGraph,
    node: fx.Node,
    env: dict[fx.Node, Any],
    take_off: bool,
) -> tuple[list[Layer], Activation | None]:
    result = node.args[0]
    if isinstance(result, (list, tuple)):
        result = result[0]
    value = env[result] if isinstance(result, fx.Node) else None
    if isinstance(value, Unfollowed):
        raise CannotLowerError(value.reason)
    if not isinstance(value, Traced):
        raise CannotLowerError("the network's output does not depend on the image")
    value = graph.as_vector(value) or graph.as_traced(value)
    shape = graph.shape(value)
    if len(shape) != 1:
        raise CannotLowerError(f"the network's output is {shape} for each image, not (classes,)")
    found: Activation | None = None
    if take_off:
        below, found = _without_final_activation(graph, value.layer)
        if found is not None:
            value = Traced(below, None)
    # The output must be the last layer; whatever was traced after it has no reader.
    return graph.layers[: value.layer + 1], found


def _without_final_activation(graph: TracedGraph, last: int) -> tuple[int, Activation | None]:
    """Return the layer that gives logits where the network ends in softmax or sigmoid, perhaps flattened afterwards."""
    final = graph.layers[last]
    found: Activation | None = None
    if isinstance(final, Flatten):
        below, found = _without_final_activation(graph, final.inputs[0])
        if found is not None:
            return graph.add(Flatten(final.name, (below,), final.shape, final.order)), found
    elif isinstance(final, AtenCall) and final.operator is torch.ops.aten._softmax.default:
        # Over all of an image's values at once, so that they are its classes.
        if math.prod(final.shape) == (1, *final.shape)[final.args[1]]:
            return final.inputs[0], "softmax"
    elif isinstance(final, ActivationLayer) and final.function.name == "sigmoid":
        return final.inputs[0], "sigmoid"
    return last, None
