"""Rules of operators that only look at a value in another way; they add no layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from obeql.executor.network.axes import permuted, reshaped
from obeql.executor.network.capture.trace import Traced, TracedGraph
from obeql.executor.network.lowering.registry import Args, Kwargs, argument, rule
from obeql.executor.network.lowering.tokens import repeated


@rule("view", "_unsafe_view", "reshape")
def view(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, shape = args[0], list(args[1])
    if value.axes is None:
        return None
    size = value.size()
    if -1 in shape:
        known = -torch.Size(shape).numel()
        shape[shape.index(-1)] = torch.Size(size).numel() // max(1, known)
    axes = reshaped(value.axes, shape)
    return None if axes is None else Traced(value.layer, axes)


@rule("flatten")
def flatten(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    size = list(value.size())
    start = argument(args, kwargs, 1, "start_dim", 0) % len(size)
    stop = argument(args, kwargs, 2, "end_dim", -1) % len(size)
    merged = torch.Size(size[start : stop + 1]).numel()
    return view(graph, name, (value, [*size[:start], merged, *size[stop + 1 :]]), {})


@rule("permute")
def permute(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    if value.axes is None:
        return None
    return Traced(value.layer, permuted(value.axes, [d % len(value.axes) for d in args[1]]))


@rule("transpose")
def transpose(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    if value.axes is None:
        return None
    order = list(range(len(value.axes)))
    a, b = args[1] % len(order), args[2] % len(order)
    order[a], order[b] = order[b], order[a]
    return Traced(value.layer, permuted(value.axes, order))


@rule("t")
def t(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    return None if value.axes is None else Traced(value.layer, permuted(value.axes, range(len(value.axes))[::-1]))


@rule("unsqueeze")
def unsqueeze(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    if value.axes is None:
        return None
    dim = args[1] % (len(value.axes) + 1)
    return Traced(value.layer, (*value.axes[:dim], (), *value.axes[dim:]))


@rule("squeeze")
def squeeze(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    if value.axes is None:
        return None
    rank = len(value.axes)
    dims = range(rank) if len(args) < 2 else [args[1]] if isinstance(args[1], int) else args[1]
    gone = {d % rank for d in dims}
    return Traced(value.layer, tuple(g for d, g in enumerate(value.axes) if d not in gone or g))


@rule("expand", "repeat")
def expand(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    if isinstance(value, Tensor):
        return repeated(value, list(args[1]))
    size = value.size()
    wanted = list(args[1])
    same = len(wanted) == len(size) and all(w in (-1, n) for w, n in zip(wanted, size, strict=True))
    return value if same else None


@rule("clone", "contiguous", "detach", "alias", "lift_fresh_copy", "dropout", "feature_dropout")
def same(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    if len(args) > 2 and args[2]:
        return None  # dropout that is switched on
    return args[0] if isinstance(args[0], Traced) else None


@rule("_to_copy", "to")
def to_copy(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    """Drop changes between floating-point types: a run has one precision, which the query names."""
    dtype = kwargs.get("dtype")
    floating = dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)
    return args[0] if floating and isinstance(args[0], Traced) else None


@rule("as_strided")
def as_strided(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    """Lower the restriding of a convolution's output on a 1x1 map; same sizes mean the same values there."""
    value = args[0]
    size = value.size()
    moved = [n for n in size[2:] if n > 1]
    return value if tuple(args[1]) == size and not moved else None
