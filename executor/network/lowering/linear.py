"""Rules of products with a matrix of weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from obeql.executor.network.axes import Atom, channel_order
from obeql.executor.network.capture.trace import Traced, TracedGraph
from obeql.executor.network.layers.conv import Conv, as_conv_weight
from obeql.executor.network.layers.linear import Linear
from obeql.executor.network.lowering.attention import times
from obeql.executor.network.lowering.registry import Args, Kwargs, argument, plain_map, rule


def _linear(graph: TracedGraph, name: str, value: Any, weight: Any, bias: Any) -> Any:
    """Lower x @ weight.T + bias over the last axis: a vector's Linear, or a 1x1 convolution of a map."""
    if not isinstance(value, Traced) or not isinstance(weight, Tensor) or weight.dim() != 2:
        return None
    if bias is not None and (not isinstance(bias, Tensor) or bias.shape != (weight.shape[0],)):
        return None
    axes = value.axes
    on_map = axes is not None and graph.is_map(value) and {a.axis for a in axes[-1]} <= {"C"}
    if on_map and axes is not None and max(graph.shape(value)[1:]) > 1:
        n_in, *size = graph.shape(value)
        source = value.layer
        order = channel_order(axes[-1], n_in)
        if weight.shape[1] != n_in:
            return None
        if order is not None:
            source = graph.select(source, order)
        n_out = weight.shape[0]
        layer = Conv(
            name,
            (source,),
            (n_out, *size),
            as_conv_weight(weight, len(size)),
            bias,
            (1,) * len(size),
            (1,) * len(size),
            1,
            (0, 0) * len(size),
        )
        return Traced(graph.add(layer), (*axes[:-1], (Atom("C", n_out),) if n_out > 1 else ()))
    vector = graph.as_vector(value)
    if vector is None or weight.shape[1] != graph.shape(vector)[0]:
        return None
    linear = Linear(name, (vector.layer,), (weight.shape[0],), weight, bias)
    return plain_map(graph, graph.add(linear))


@rule("linear")
def linear(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    return _linear(graph, name, args[0], args[1], argument(args, kwargs, 2, "bias", None))


@rule("addmm")
def addmm(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    if kwargs.get("alpha", 1) != 1 or kwargs.get("beta", 1) != 1 or not isinstance(args[2], Tensor):
        return None
    return _linear(graph, name, args[1], args[2].t(), args[0])


@rule("mm", "matmul")
def mm(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    if isinstance(args[0], Traced) and isinstance(args[1], Traced):
        return times(graph, name, args[0], args[1])
    return _product(graph, name, args[0], args[1])


@rule("bmm")
def bmm(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    """Lower one product, which PyTorch's `einsum` makes of two matrices, too: (1, n, d) with (1, d, k)."""
    if isinstance(args[0], Traced) and isinstance(args[1], Traced):
        return times(graph, name, args[0], args[1])
    if isinstance(args[1], Tensor) and args[1].dim() == 3 and len(args[1]) > 1 and args[1].stride(0) == 0:
        # One matrix for every row of the stack: PyTorch's `linear` where no operand asks for a gradient.
        return _linear(graph, name, args[0], args[1][0].t(), None)
    left, right = (_only_matrix(operand) for operand in args[:2])
    product = None if left is None or right is None else _product(graph, name, left, right)
    return None if product is None else Traced(product.layer, ((), *product.axes))


def _product(graph: TracedGraph, name: str, left: Any, right: Any) -> Any:
    """Return left @ right of a value and a matrix of weights, whichever comes first; None for other operands."""
    if isinstance(right, Tensor) and right.dim() == 2:
        return _linear(graph, name, left, right.t(), None)
    if not isinstance(left, Tensor) or left.dim() != 2 or not isinstance(right, Traced):
        return None
    product = None if right.axes is None else _linear(graph, name, Traced(right.layer, right.axes[::-1]), left, None)
    return None if product is None else Traced(product.layer, product.axes[::-1])


def _only_matrix(stack: Any) -> Any:
    """Return the only matrix of a stack (1, n, d) of them; None of another stack."""
    if isinstance(stack, Tensor):
        return stack[0] if stack.shape[0] == 1 else None
    is_one = isinstance(stack, Traced) and stack.axes is not None and not stack.axes[0]
    return Traced(stack.layer, stack.axes[1:]) if is_one else None
