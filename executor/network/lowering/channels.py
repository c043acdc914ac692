"""Rules of operators that join, part and reorder channels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from obeql.executor.network.axes import Atom, Axes, channel_order, joined
from obeql.executor.network.capture.trace import Traced, TracedGraph
from obeql.executor.network.layers.channels import Concat
from obeql.executor.network.lowering.one_row import is_signal, with_row, without_row
from obeql.executor.network.lowering.registry import Args, Kwargs, argument, plain_map, rule
from obeql.executor.network.lowering.tokens import concat_tokens, select_positions


@rule("cat", "concat")
def cat(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    dim = argument(args, kwargs, 1, "dim", 0)
    values = args[0]
    tokens = concat_tokens(graph, name, values, dim) if len(values) > 1 else None
    if tokens is not None:
        return tokens
    if not all(isinstance(v, Traced) for v in values):
        return None
    if all(is_signal(v) for v in values):
        found = cat(graph, name, ([with_row(v) for v in values], dim % 3), {})
        return None if found is None else without_row(found)
    maps = [graph.map_of(v) for v in values]
    sources = [m for m in maps if m is not None]
    if len(sources) < len(maps) or dim % (len(graph.layers[0].shape) + 1) != 1:
        return None
    channels = sum(graph.shape(m)[0] for m in sources)
    shape = (channels, *graph.shape(sources[0])[1:])
    if len(sources) == 1:
        return sources[0]
    return plain_map(graph, graph.add(Concat(name, [m.layer for m in sources], shape)))


def _channels_along(graph: TracedGraph, value: Traced, dim: int) -> list[int] | None:
    """Return channels that positions 0, 1, ... of traced axis `dim` stand for; None if it is not the channel axis."""
    axes = value.axes
    if axes is None or not graph.shape(value):
        return None
    dim %= len(axes)
    n_channels = graph.shape(value)[0]
    group = axes[dim]
    if {a.axis for a in group} != {"C"} or sum(a.axis == "C" for g in axes for a in g) != len(group):
        return None
    return channel_order(group, n_channels) or list(range(n_channels))


def _selected(graph: TracedGraph, value: Traced, dim: int, channels: list[int], drop: bool = False) -> Traced:
    assert value.axes is not None
    dim %= len(value.axes)
    group = () if len(channels) == 1 else (Atom("C", len(channels)),)
    middle: Axes = () if drop else (group,)
    return Traced(graph.select(value.layer, channels), (*value.axes[:dim], *middle, *value.axes[dim + 1 :]))


def _select_part(
    graph: TracedGraph, value: Traced, dim: int, chosen: Sequence[int], drop: bool = False
) -> Traced | None:
    """Select along one of several axes that the channels are seen as: queries among queries, keys and values."""
    axes = value.axes
    if axes is None or not graph.is_map(value) or not chosen:
        return None
    dim %= len(axes)
    atoms = [atom for group in axes for atom in group if atom.axis == "C"]
    if len(axes[dim]) != 1 or axes[dim][0].axis != "C" or len(atoms) < 2:
        return None
    (part,) = axes[dim]
    atoms.sort(key=lambda atom: -atom.step)
    channels, moved, step = [0], {}, 1
    for atom in atoms:
        at = [range(atom.size)[i] for i in chosen] if atom is part else range(atom.size)
        channels = [base + i * atom.step for base in channels for i in at]
    for atom in reversed(atoms):
        size = len(chosen) if atom is part else atom.size
        moved[id(atom)] = (Atom("C", size, step),) if size > 1 else ()
        step *= size
    found = [tuple(a for atom in group for a in moved.get(id(atom), (atom,))) for group in axes]
    if drop:
        del found[dim]
    return Traced(graph.select(value.layer, channels), tuple(joined(group) for group in found))


@rule("split", "split_with_sizes")
def split(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, sizes = args[0], args[1]
    dim = argument(args, kwargs, 2, "dim", 0)
    if not graph.is_map(value):
        return None
    whole = value.size()[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, whole - i) for i in range(0, whole, sizes)]
    parts, start = [], 0
    for size in sizes:
        parts.append(slice_(graph, name, (value, dim, start, start + size), {}))
        start += size
    return None if any(part is None for part in parts) else parts


@rule("slice")
def slice_(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    dim = argument(args, kwargs, 1, "dim", 0)
    start = argument(args, kwargs, 2, "start", None) or 0
    end = argument(args, kwargs, 3, "end", None)
    step = argument(args, kwargs, 4, "step", 1)
    end = sys.maxsize if end is None else end
    size = value.size()[dim]
    if start == 0 and end >= size and step == 1:
        return value
    channels = _channels_along(graph, value, dim)
    if channels is None:
        chosen = range(size)[start:end:step]
        found = _select_part(graph, value, dim, chosen)
        return select_positions(graph, value, dim, chosen) if found is None else found
    if not graph.is_map(value) or not channels[start:end:step]:
        return None
    return _selected(graph, value, dim, channels[start:end:step])


@rule("select")
def select(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, dim, index = args[0], args[1], args[2]
    if value.axes is not None and not value.axes[dim]:  # the only position of an axis
        return Traced(value.layer, tuple(group for d, group in enumerate(value.axes) if d != dim % len(value.axes)))
    channels = _channels_along(graph, value, dim)
    if channels is None:
        found = _select_part(graph, value, dim, [index], drop=True)
        return select_positions(graph, value, dim, [index], drop=True) if found is None else found
    if not graph.is_map(value):
        return None
    return _selected(graph, value, dim, [channels[index]], drop=True)


@rule("unbind")
def unbind(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, dim = args[0], argument(args, kwargs, 1, "dim", 0)
    if not isinstance(value, Traced):
        return None
    parts = [select(graph, name, (value, dim, index), {}) for index in range(value.size()[dim])]
    return None if any(part is None for part in parts) else parts


@rule("chunk")
def chunk(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    dim = argument(args, kwargs, 2, "dim", 0)
    size = -(-args[0].size()[dim] // args[1])
    return split(graph, name, (args[0], size, dim), {})
