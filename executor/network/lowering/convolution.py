"""Rules of convolution, and of padding that stands by itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from obeql.executor.network.capture.trace import Traced, TracedGraph
from obeql.executor.network.layers.channels import Pad
from obeql.executor.network.layers.conv import Conv
from obeql.executor.network.lowering.one_row import is_signal, with_row, without_row
from obeql.executor.network.lowering.registry import Args, Kwargs, argument, pair, plain_map, rule


@rule("convolution", "conv2d", "mkldnn_convolution")
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
    if source is None or weight.dim() != 4:
        return None
    rows, cols = pair(padding)
    stride, dilation = pair(stride), pair(dilation)
    _, height, width = graph.shape(source)
    kh, kw = weight.shape[2:]
    out = (
        (height + 2 * rows - dilation[0] * (kh - 1) - 1) // stride[0] + 1,
        (width + 2 * cols - dilation[1] * (kw - 1) - 1) // stride[1] + 1,
    )
    layer = Conv(
        name,
        (source.layer,),
        (weight.shape[0], *out),
        weight,
        bias,
        stride,
        dilation,
        groups,
        (rows, rows, cols, cols),
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
    amounts = [*args[1], 0, 0, 0, 0]
    if source is None or any(amounts[4:]):
        return None
    left, right, top, bottom = amounts[:4]
    channels, height, width = graph.shape(source)
    shape = (channels, height + top + bottom, width + left + right)
    value = float(argument(args, kwargs, 2, "value", 0.0) or 0.0)
    return plain_map(graph, graph.add(Pad(name, (source.layer,), shape, (top, bottom, left, right), value)))
