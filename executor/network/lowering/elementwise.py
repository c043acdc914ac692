"""Rules of operators that act on every element alone, of one value or two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from obeql.executor.network.capture.trace import Traced, TracedGraph
from obeql.executor.network.layers.activation import ELEMENTWISE, Activation, Elementwise
from obeql.executor.network.layers.pointwise import Combine
from obeql.executor.network.lowering.affine import affine
from obeql.executor.network.lowering.one_row import is_signal, with_row, without_row
from obeql.executor.network.lowering.registry import RULES, Args, Kwargs, Rule, plain_map
from obeql.executor.network.lowering.tokens import add_constant_map


def _elementwise(name_of: str) -> Rule:
    def apply(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
        value = args[0]
        if not isinstance(value, Traced) or any(isinstance(a, (Traced, Tensor)) for a in args[1:]):
            return None
        function = Elementwise(name_of, tuple(args[1:]), tuple(kwargs.items()))
        layer = Activation(name, (value.layer,), graph.shape(value), function)
        return Traced(graph.add(layer), value.axes, value.shape)

    return apply


for _name in ELEMENTWISE:
    RULES.setdefault(_name, _elementwise(_name))


def _power(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    """Raise to a power that may be a tensor of one number, as ONNX files have it."""
    if len(args) == 2 and isinstance(args[1], Tensor) and args[1].numel() == 1:
        args = (args[0], float(args[1]))
    return _elementwise("pow")(graph, name, args, kwargs)


RULES["pow"] = _power


def _binary(function: str, scalar: str) -> Rule:
    def apply(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
        left, right = args[0], args[1]
        if kwargs.get("alpha", 1) != 1 or kwargs.get("rounding_mode") is not None:
            return None
        if isinstance(left, Traced) and isinstance(right, Traced):
            return _combine(graph, name, function, left, right)
        if isinstance(left, Traced) and isinstance(right, (int, float)) and not isinstance(right, bool):
            return _elementwise(scalar)(graph, name, (left, right), {})
        if isinstance(right, Traced) and function in {"add", "mul"}:
            left, right = right, left
        if isinstance(left, Traced) and isinstance(right, Tensor):
            return _with_constant(graph, name, function, left, right)
        return None

    return apply


for _function in ("add", "sub", "mul", "div"):
    RULES[_function] = _binary(_function, _function)


def _with_constant(graph: TracedGraph, name: str, function: str, value: Traced, constant: Tensor) -> Any:
    """Lower value o constant: one number, or one number a channel, or what is added to positions."""
    axes = value.axes
    if axes is None or not constant.is_floating_point() or constant.dim() > len(axes):
        return None
    full = constant.reshape((1,) * (len(axes) - constant.dim()) + tuple(constant.shape))
    varying = [d for d, n in enumerate(full.shape) if n != 1]
    n_channels = graph.shape(value)[0]
    if varying:
        group = axes[varying[0]]
        if len(varying) > 1 or {a.axis for a in group} != {"C"} or full.numel() != n_channels:
            if function not in ("add", "sub"):
                return None
            return add_constant_map(graph, name, value, full if function == "add" else -full)
    numbers = full.reshape(-1).double().expand(n_channels)
    zero, one = torch.zeros_like(numbers), torch.ones_like(numbers)
    scale, shift = {
        "add": (one, numbers),
        "sub": (one, -numbers),
        "mul": (numbers, zero),
        "div": (one / numbers, zero),
    }[function]
    return affine(graph, name, value, scale, shift)


def _combine(graph: TracedGraph, name: str, function: str, left: Traced, right: Traced) -> Any:
    a, b = graph.shape(left), graph.shape(right)
    if left.axes is None or right.axes is None or len(a) != len(b):
        return None
    if left.axes == right.axes and a == b:
        return Traced(graph.add(Combine(name, (left.layer, right.layer), a, function, broadcast=False)), left.axes)
    found = _with_one_channel(graph, name, function, left, right)
    if found is not None:
        return found
    if is_signal(left) and is_signal(right):
        left, right = with_row(left), with_row(right)
        result = _combine(graph, name, function, left, right)
        return None if result is None else without_row(result)
    maps = graph.map_of(left), graph.map_of(right)
    if maps[0] is None or maps[1] is None:
        return None
    a, b = graph.shape(maps[0]), graph.shape(maps[1])
    shape = tuple(max(m, n) for m, n in zip(a, b, strict=True))
    if a == b:
        broadcast = False
    elif a[0] == b[0] and 1 in (max(a[1:]), max(b[1:])):
        broadcast = True
    else:
        return None
    layer = Combine(name, (maps[0].layer, maps[1].layer), shape, function, broadcast)
    return plain_map(graph, graph.add(layer))


def _with_one_channel(graph: TracedGraph, name: str, function: str, left: Traced, right: Traced) -> Traced | None:
    """Combine a map with one of the same positions and a single channel; None where they are others."""
    a, b = graph.shape(left), graph.shape(right)
    if not graph.is_map(left) or a[1:] != b[1:] or min(a[0], b[0]) != 1:
        return None
    wide, narrow = (left, right) if a[0] > 1 else (right, left)
    assert wide.axes is not None
    alike = tuple(() if group and {atom.axis for atom in group} == {"C"} else group for group in wide.axes)
    if narrow.axes != alike:
        return None
    layer = Combine(name, (left.layer, right.layer), graph.shape(wide), function, broadcast=False)
    return Traced(graph.add(layer), wide.axes)
