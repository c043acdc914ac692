"""Rules of pools, and of means over all positions."""

from __future__ import annotations

from typing import Any

from obeql.executor.network.capture.trace import Traced, TracedGraph
from obeql.executor.network.layers.pointwise import ChannelMean
from obeql.executor.network.layers.pool import AveragePool, MaxPool
from obeql.executor.network.layers.reduce import AdaptivePool, GlobalMean
from obeql.executor.network.lowering.registry import RULES, Args, Kwargs, argument, pair, plain_map, rule


@rule("max_pool2d_with_indices", "max_pool2d")
def max_pool(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    source = graph.map_of(args[0])
    if source is None:
        return None
    kernel = pair(args[1])
    stride = pair(argument(args, kwargs, 2, "stride", ()), kernel)
    padding = pair(argument(args, kwargs, 3, "padding", 0))
    dilation = pair(argument(args, kwargs, 4, "dilation", 1))
    ceil_mode = bool(argument(args, kwargs, 5, "ceil_mode", False))
    channels, *size = graph.shape(source)
    out = [
        _pooled(n, k, s, p, d, ceil_mode) for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    layer = MaxPool(name, (source.layer,), (channels, *out), kernel, stride, padding, dilation, ceil_mode)
    return [plain_map(graph, graph.add(layer)), None]


def _max_pool_alone(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    found = max_pool(graph, name, args, kwargs)
    return None if found is None else found[0]


RULES["max_pool2d"] = _max_pool_alone


@rule("avg_pool2d")
def average_pool(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    source = graph.map_of(args[0])
    if source is None:
        return None
    kernel = pair(args[1])
    stride = pair(argument(args, kwargs, 2, "stride", ()), kernel)
    padding = pair(argument(args, kwargs, 3, "padding", 0))
    ceil_mode = bool(argument(args, kwargs, 4, "ceil_mode", False))
    include = bool(argument(args, kwargs, 5, "count_include_pad", True))
    divisor = argument(args, kwargs, 6, "divisor_override", None)
    channels, *size = graph.shape(source)
    out = [_pooled(n, k, s, p, 1, ceil_mode) for n, k, s, p in zip(size, kernel, stride, padding, strict=True)]
    layer = AveragePool(
        name,
        (source.layer,),
        (channels, *out),
        (size[0], size[1]),
        kernel,
        stride,
        padding,
        ceil_mode,
        include,
        divisor,
    )
    return plain_map(graph, graph.add(layer))


def _pooled(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Output size of a pool on one axis, by PyTorch's rule (the last window starts inside the map or its padding)."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    return out


@rule("_adaptive_avg_pool2d", "adaptive_avg_pool2d")
def adaptive_pool(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    source = graph.map_of(args[0])
    if source is None:
        return None
    channels, height, width = graph.shape(source)
    rows, cols = pair(args[1])
    if (rows, cols) == (height, width):
        return source
    if (rows, cols) == (1, 1):
        return plain_map(graph, graph.add(GlobalMean(name, (source.layer,), (channels, 1, 1))))
    shape = (channels, rows, cols)
    if height % rows == 0 and width % cols == 0:
        bins = (height // rows, width // cols)
        layer = AveragePool(name, (source.layer,), shape, (height, width), bins, bins, (0, 0), False, True, None)
        return plain_map(graph, graph.add(layer))
    return plain_map(graph, graph.add(AdaptivePool(name, (source.layer,), shape)))


@rule("mean")
def mean(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    axes = value.axes
    if axes is None or len(args) < 2 or kwargs.get("dtype") is not None or len(graph.shape(value)) != 3:
        return None
    dims = {d % len(axes) for d in ([args[1]] if isinstance(args[1], int) else args[1])}
    reduced = {atom.axis for d in dims for atom in axes[d]}
    kept = {atom.axis for d, group in enumerate(axes) for atom in group if d not in dims}
    sizes = dict(zip("CHW", graph.shape(value), strict=True))
    if reduced == {"C"} and "C" not in kept:
        return _channel_mean(graph, name, value, dims, bool(argument(args, kwargs, 2, "keepdim", False)))
    if not reduced <= {"H", "W"} or any(axis in kept and sizes[axis] > 1 for axis in "HW"):
        return None
    keep = bool(argument(args, kwargs, 2, "keepdim", False))
    groups = tuple(() if d in dims else group for d, group in enumerate(axes) if keep or d not in dims)
    layer = GlobalMean(name, (value.layer,), (sizes["C"], 1, 1))
    return Traced(graph.add(layer), groups)


def _channel_mean(graph: TracedGraph, name: str, value: Traced, dims: set[int], keep: bool) -> Traced:
    assert value.axes is not None
    groups = tuple(() if d in dims else group for d, group in enumerate(value.axes) if keep or d not in dims)
    layer = ChannelMean(name, (value.layer,), (1, *graph.shape(value)[1:]))
    return Traced(graph.add(layer), groups)
