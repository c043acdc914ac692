"""Rules that put positions in a row as tokens, add constant ones, and choose some.

Called from the rules of the operators that also work on channels (`channels`, `elementwise`, `views`), where what they
are given are positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from obeql.executor.network.axes import Axes, axis_names, canonical, positions
from obeql.executor.network.capture.trace import TRACE_BATCH, Traced, TracedGraph
from obeql.executor.network.layers.tokens import AddMap, SelectPositions, Tokens

__all__ = ["Repeated", "add_constant_map", "concat_tokens", "repeated", "select_positions"]


@dataclass(frozen=True, slots=True, eq=False)
class Repeated:
    """A constant that is the same for every image of a batch: (batch, ...), of which `tensor` is one image's."""

    tensor: Tensor

    def size(self) -> tuple[int, ...]:
        return (TRACE_BATCH, *self.tensor.shape)


def repeated(constant: Tensor, sizes: Sequence[int]) -> Repeated | None:
    """Return a constant that is expanded or repeated to a batch, and along no other axis; None if it is not."""
    if len(sizes) != constant.dim() or not sizes or constant.shape[0] != 1 or sizes[0] != TRACE_BATCH:
        return None
    same = all(wanted in (-1, n) for wanted, n in zip(sizes[1:], constant.shape[1:], strict=True))
    return Repeated(constant.detach()[0]) if same else None


def concat_tokens(graph: TracedGraph, name: str, values: Sequence[Any], dim: int) -> Traced | None:
    """Join tokens (batch, tokens, C) of maps and constants along the tokens; None if that is not what they are."""
    inputs: list[int] = []
    order: list[int] = []
    constants: list[Tensor] = []
    n_tokens, n_channels = 0, 0
    for value in map(_one_for_all, values):
        if len(value.size()) != 3 or dim % 3 != 1:
            return None
        if isinstance(value, Repeated):
            order.append(-len(constants) - 1)
            constants.append(value.tensor)
        elif isinstance(value, Traced) and is_tokens(graph, value):
            order.append(len(inputs))
            inputs.append(value.layer)
        else:
            return None
        n_tokens, n_channels = n_tokens + value.size()[1], value.size()[2]
    if not inputs:
        return None
    shape = (n_channels, n_tokens, *(1,) * (len(graph.layers[0].shape) - 2))
    layer = Tokens(name, inputs, shape, order, constants)
    return Traced(graph.add(layer), _as_tokens(shape))


def _one_for_all(value: Any) -> Any:
    """Return a constant that was made for the traced batch, all images alike, as `Repeated`; anything else as it is."""
    if isinstance(value, Tensor) and value.dim() and value.shape[0] == TRACE_BATCH and bool((value == value[:1]).all()):
        return Repeated(value.detach()[0].clone())
    return value


def is_tokens(graph: TracedGraph, value: Traced) -> bool:
    """Return whether a value is (batch, positions row by row, channels in order)."""
    axes, shape = value.axes, graph.shape(value)
    return axes is not None and graph.is_map(value) and axes == _as_tokens(shape)


def select_positions(
    graph: TracedGraph, value: Traced, dim: int, chosen: Sequence[int], drop: bool = False
) -> Traced | None:
    """Return positions of a value whose axis `dim` runs through all of them row by row; None if it does not."""
    axes, shape = value.axes, graph.shape(value)
    if axes is None or not graph.is_map(value) or not chosen:
        return None
    dim %= len(axes)
    if axes[dim] != positions(shape) or not axes[dim]:
        return None
    chosen = [range(math.prod(shape[1:]))[k] for k in chosen]
    name = f"{graph.layers[value.layer].name}_positions"
    found = (shape[0], len(chosen), *(1 for _ in shape[2:]))
    layer = SelectPositions(name, (value.layer,), found, chosen)
    middle: Axes = () if drop else (positions(found),)
    return Traced(graph.add(layer), (*axes[:dim], *middle, *axes[dim + 1 :]))


def add_constant_map(graph: TracedGraph, name: str, value: Traced, constant: Tensor) -> Traced | None:
    """Add a constant that varies over positions, (1, ...) in the trace's layout; None if it mixes axes."""
    axes, shape = value.axes, graph.shape(value)
    if axes is None or not graph.is_map(value) or constant.shape[0] != 1 or constant.dim() != len(axes):
        return None
    if {atom.axis for atom in axes[0]} != {"N"}:
        return None
    atoms = [atom for group in axes[1:] for atom in group]
    full = constant.expand(1, *value.size()[1:]).reshape([atom.size for atom in atoms])
    places = {axis: [i for i, atom in enumerate(atoms) if atom.axis == axis] for axis in axis_names(shape)}
    # Larger steps first: then atoms of one axis, joined, run through it in order.
    order = [i for axis in axis_names(shape) for i in sorted(places[axis], key=lambda i: -atoms[i].step)]
    values = full.permute(order).reshape(shape)
    return Traced(graph.add(AddMap(name, (value.layer,), shape, values.contiguous())), axes)


def _as_tokens(shape: Sequence[int]) -> Axes:
    """Return the axes of a map (C, ...) that is seen as (batch, positions, channels)."""
    batch, channels, *_ = canonical(TRACE_BATCH, shape)
    return batch, positions(shape), channels
