"""Rules of pools, and of means over all positions."""

from __future__ import annotations

from typing import Any

from obeql.executor.network.axes import axis_names
from obeql.executor.network.capture.trace import Traced, TracedGraph
from obeql.executor.network.layers.pointwise import ChannelMean
from obeql.executor.network.layers.pool import AveragePool, MaxPool
from obeql.executor.network.layers.reduce import AdaptivePool, GlobalMean
from obeql.executor.network.lowering.registry import Args, Kwargs, argument, each_axis, plain_map, rule


@rule("max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    source = graph.map_of(args[0])
    if source is None:
        return None
    channels, *size = graph.shape(source)
    n = len(size)
    kernel = each_axis(args[1], n)
    stride = each_axis(argument(args, kwargs, 2, "stride", ()), n, kernel)
    padding = each_axis(argument(args, kwargs, 3, "padding", 0), n)
    dilation = each_axis(argument(args, kwargs, 4, "dilation", 1), n)
    ceil_mode = bool(argument(args, kwargs, 5, "ceil_mode", False))
    axes = zip(size, kernel, stride, padding, dilation, strict=True)
    out = [pooled_size(*axis, ceil_mode=ceil_mode) for axis in axes]
    layer = MaxPool(name, (source.layer,), (channels, *out), kernel, stride, padding, dilation, ceil_mode)
    return [plain_map(graph, graph.add(layer)), None]


@rule("max_pool2d", "max_pool3d")
def max_pool_alone(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    found = max_pool(graph, name, args, kwargs)
    return None if found is None else found[0]


@rule("avg_pool2d", "avg_pool3d")
def average_pool(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    source = graph.map_of(args[0])
    if source is None:
        return None
    channels, *size = graph.shape(source)
    n = len(size)
    kernel = each_axis(args[1], n)
    stride = each_axis(argument(args, kwargs, 2, "stride", ()), n, kernel)
    padding = each_axis(argument(args, kwargs, 3, "padding", 0), n)
    ceil_mode = bool(argument(args, kwargs, 4, "ceil_mode", False))
    include = bool(argument(args, kwargs, 5, "count_include_pad", True))
    divisor = argument(args, kwargs, 6, "divisor_override", None)
    axes = zip(size, kernel, stride, padding, strict=True)
    out = [pooled_size(*axis, 1, ceil_mode=ceil_mode) for axis in axes]
    layer = AveragePool(
        name,
        (source.layer,),
        (channels, *out),
        tuple(size),
        kernel,
        stride,
        padding,
        ceil_mode,
        include,
        divisor,
    )
    return plain_map(graph, graph.add(layer))


def pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int, *, ceil_mode: bool) -> int:
    """Return the output size of a sliding window on one axis, by PyTorch's rule.

    The last window starts inside the map or padding.
    """
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    return out


@rule("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool3d")
def adaptive_pool(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    source = graph.map_of(args[0])
    if source is None:
        return None
    channels, *size = graph.shape(source)
    out = each_axis(args[1], len(size))
    if out == tuple(size):
        return source
    if max(out) == 1:
        return plain_map(graph, graph.add(GlobalMean(name, (source.layer,), (channels, *out))))
    shape = (channels, *out)
    if all(n % n_bins == 0 for n, n_bins in zip(size, out, strict=True)):
        bins, none = tuple(n // n_bins for n, n_bins in zip(size, out, strict=True)), (0,) * len(size)
        layer = AveragePool(name, (source.layer,), shape, tuple(size), bins, bins, none, False, True, None)
        return plain_map(graph, graph.add(layer))
    return plain_map(graph, graph.add(AdaptivePool(name, (source.layer,), shape)))


@rule("mean")
def mean(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    axes = value.axes
    if axes is None or len(args) < 2 or kwargs.get("dtype") is not None or not graph.is_map(value):
        return None
    dims = {d % len(axes) for d in ([args[1]] if isinstance(args[1], int) else args[1])}
    reduced = {atom.axis for d in dims for atom in axes[d]}
    kept = {atom.axis for d, group in enumerate(axes) for atom in group if d not in dims}
    names = axis_names(graph.shape(value))
    places, sizes = names[1:], dict(zip(names, graph.shape(value), strict=True))
    if reduced == {"C"} and "C" not in kept:
        return _channel_mean(graph, name, value, dims, bool(argument(args, kwargs, 2, "keepdim", False)))
    if not reduced <= set(places) or any(axis in kept and sizes[axis] > 1 for axis in places):
        return None
    keep = bool(argument(args, kwargs, 2, "keepdim", False))
    groups = tuple(() if d in dims else group for d, group in enumerate(axes) if keep or d not in dims)
    layer = GlobalMean(name, (value.layer,), (sizes["C"], *(1 for _ in places)))
    return Traced(graph.add(layer), groups)


def _channel_mean(graph: TracedGraph, name: str, value: Traced, dims: set[int], keep: bool) -> Traced:
    assert value.axes is not None
    groups = tuple(() if d in dims else group for d, group in enumerate(value.axes) if keep or d not in dims)
    layer = ChannelMean(name, (value.layer,), (1, *graph.shape(value)[1:]))
    return Traced(graph.add(layer), groups)
