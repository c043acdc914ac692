"""Rules of convolution, and of padding that stands by itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from obeql.executor.network.capture.trace import Traced, TracedGraph
from obeql.executor.network.layers.channels import Pad
from obeql.executor.network.layers.conv import Conv
from obeql.executor.network.lowering.one_row import is_signal, with_row, without_row
from obeql.executor.network.lowering.pools import pooled_size
from obeql.executor.network.lowering.registry import Args, Kwargs, argument, each_axis, plain_map, rule


@rule("convolution", "conv2d", "conv3d", "mkldnn_convolution")
def convolution(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, weight, bias = args[0], args[1], argument(args, kwargs, 2, "bias", None)
    stride, padding = argument(args, kwargs, 3, "stride", 1), argument(args, kwargs, 4, "padding", 0)
    dilation = argument(args, kwargs, 5, "dilation", 1)
    transposed = bool(args[6]) if len(args) > 8 else False
    groups = args[8] if len(args) > 8 else argument(args, kwargs, 6, "groups", 1)
    if not isinstance(value, Traced) or transposed or not isinstance(weight, Tensor):
        return None
    if weight.dim() == 3 and is_signal(value):
        steps = [(least, *_of_axis(given)) for least, given in ((1, stride), (0, padding), (1, dilation))]
        on_rows = (with_row(value), weight[:, :, None], bias, *steps, False, (0, 0), groups)
        found = convolution(graph, name, on_rows, {})
        return None if found is None else without_row(found)
    source = graph.map_of(value)
    if source is None or weight.dim() != len(graph.shape(source)) + 1:
        return None
    _, *size = graph.shape(source)
    padding, stride, dilation = (each_axis(each, len(size)) for each in (padding, stride, dilation))
    axes = zip(size, weight.shape[2:], stride, padding, dilation, strict=True)
    out = (pooled_size(*axis, ceil_mode=False) for axis in axes)
    layer = Conv(
        name,
        (source.layer,),
        (weight.shape[0], *out),
        weight,
        bias,
        stride,
        dilation,
        groups,
        tuple(amount for amount in padding for _ in range(2)),
    )
    return plain_map(graph, graph.add(layer))


def _of_axis(given: Any) -> tuple[int]:
    """Return a number of an operator on one axis, which ATen gives as itself or as a list of one."""
    return (given,) if isinstance(given, int) else (given[0],)


@rule("constant_pad_nd")
def pad(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    if is_signal(args[0]) and not any(args[1][2:]):
        found = pad(graph, name, (with_row(args[0]), *args[1:]), kwargs)
        return None if found is None else without_row(found)
    source = graph.map_of(args[0])
    if source is None:
        return None
    channels, *size = graph.shape(source)
    # ATen gives the last axis first: before, after.
    amounts = [*args[1], *(0,) * (2 * len(size) - len(args[1]))]
    if any(amounts[2 * len(size) :]):
        return None
    pairs = [tuple(amounts[k : k + 2]) for k in range(0, 2 * len(size), 2)][::-1]
    shape = (channels, *(n + before + after for n, (before, after) in zip(size, pairs, strict=True)))
    value = float(argument(args, kwargs, 2, "value", 0.0) or 0.0)
    pads = tuple(amount for pair in pairs for amount in pair)
    return plain_map(graph, graph.add(Pad(name, (source.layer,), shape, pads, value)))
