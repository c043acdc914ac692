"""One rule for each ATen operator that becomes a layer, or that only changes how a value is looked at.

A rule takes (graph, node name, args, kwargs) with traced values in the arguments and returns a traced value, a list
of them for operators with several outputs, or None where it does not apply.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from obeql.executor.network.axes import Atom, Axes, canonical, channel_order, permuted, reshaped
from obeql.executor.network.layers.activation import ELEMENTWISE, Activation, Elementwise
from obeql.executor.network.layers.channels import Concat, Pad
from obeql.executor.network.layers.conv import Conv, as_conv_weight
from obeql.executor.network.layers.linear import Linear
from obeql.executor.network.layers.pointwise import Affine, ChannelNorm, Combine, scale_and_shift
from obeql.executor.network.layers.pool import AveragePool, MaxPool
from obeql.executor.network.layers.reduce import AdaptivePool, GlobalMean
from obeql.executor.network.trace import TRACE_BATCH, CannotLowerError, Traced, TracedGraph

__all__ = ["RULES", "Rule"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Rule = Callable[[TracedGraph, str, Args, Kwargs], Any]

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operators by packet name (a trailing underscore does not count)."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def _argument(args: Args, kwargs: Kwargs, position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _pair(value: Any, default: tuple[int, int] | None = None) -> tuple[int, int]:
    """ATen gives one number for both axes, two numbers, or an empty list for the default."""
    if isinstance(value, int):
        return value, value
    numbers = tuple(value)
    if not numbers and default is not None:
        return default
    return (numbers[0], numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _plain(graph: TracedGraph, layer: int) -> Traced:
    return Traced(layer, canonical(TRACE_BATCH, graph.layers[layer].shape))


# ---- layers that mix positions ------------------------------------------------------------------------------


@rule("convolution", "conv2d", "mkldnn_convolution")
def convolution(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, weight, bias = args[0], args[1], _argument(args, kwargs, 2, "bias", None)
    stride, padding = _argument(args, kwargs, 3, "stride", 1), _argument(args, kwargs, 4, "padding", 0)
    dilation = _argument(args, kwargs, 5, "dilation", 1)
    transposed = bool(args[6]) if len(args) > 8 else False
    groups = args[8] if len(args) > 8 else _argument(args, kwargs, 6, "groups", 1)
    source = graph.map_of(value) if isinstance(value, Traced) else None
    if source is None or transposed or not isinstance(weight, Tensor) or weight.dim() != 4:
        return None
    rows, cols = _pair(padding)
    stride, dilation = _pair(stride), _pair(dilation)
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
    return _plain(graph, graph.add(layer))


@rule("max_pool2d_with_indices", "max_pool2d")
def max_pool(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    source = graph.map_of(args[0])
    if source is None:
        return None
    kernel = _pair(args[1])
    stride = _pair(_argument(args, kwargs, 2, "stride", ()), kernel)
    padding = _pair(_argument(args, kwargs, 3, "padding", 0))
    dilation = _pair(_argument(args, kwargs, 4, "dilation", 1))
    ceil_mode = bool(_argument(args, kwargs, 5, "ceil_mode", False))
    channels, *size = graph.shape(source)
    out = [
        _pooled(n, k, s, p, d, ceil_mode) for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    layer = MaxPool(name, (source.layer,), (channels, *out), kernel, stride, padding, dilation, ceil_mode)
    return [_plain(graph, graph.add(layer)), None]


def _max_pool_alone(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    found = max_pool(graph, name, args, kwargs)
    return None if found is None else found[0]


RULES["max_pool2d"] = _max_pool_alone


@rule("avg_pool2d")
def average_pool(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    source = graph.map_of(args[0])
    if source is None:
        return None
    kernel = _pair(args[1])
    stride = _pair(_argument(args, kwargs, 2, "stride", ()), kernel)
    padding = _pair(_argument(args, kwargs, 3, "padding", 0))
    ceil_mode = bool(_argument(args, kwargs, 4, "ceil_mode", False))
    include = bool(_argument(args, kwargs, 5, "count_include_pad", True))
    divisor = _argument(args, kwargs, 6, "divisor_override", None)
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
    return _plain(graph, graph.add(layer))


def _pooled(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Output size of a pool on one axis, by PyTorch's rule (the last window starts inside the map or its padding)."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    return out


@rule("constant_pad_nd")
def pad(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    source = graph.map_of(args[0])
    amounts = [*args[1], 0, 0, 0, 0]
    if source is None or any(amounts[4:]):
        return None
    left, right, top, bottom = amounts[:4]
    channels, height, width = graph.shape(source)
    shape = (channels, height + top + bottom, width + left + right)
    value = float(_argument(args, kwargs, 2, "value", 0.0) or 0.0)
    return _plain(graph, graph.add(Pad(name, (source.layer,), shape, (top, bottom, left, right), value)))


@rule("_adaptive_avg_pool2d", "adaptive_avg_pool2d")
def adaptive_pool(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    source = graph.map_of(args[0])
    if source is None:
        return None
    channels, height, width = graph.shape(source)
    rows, cols = _pair(args[1])
    if (rows, cols) == (height, width):
        return source
    if (rows, cols) == (1, 1):
        return _plain(graph, graph.add(GlobalMean(name, (source.layer,), (channels, 1, 1))))
    shape = (channels, rows, cols)
    if height % rows == 0 and width % cols == 0:
        bins = (height // rows, width // cols)
        layer = AveragePool(name, (source.layer,), shape, (height, width), bins, bins, (0, 0), False, True, None)
        return _plain(graph, graph.add(layer))
    return _plain(graph, graph.add(AdaptivePool(name, (source.layer,), shape)))


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
    if not reduced <= {"H", "W"} or any(axis in kept and sizes[axis] > 1 for axis in "HW"):
        return None
    keep = bool(_argument(args, kwargs, 2, "keepdim", False))
    groups = tuple(() if d in dims else group for d, group in enumerate(axes) if keep or d not in dims)
    layer = GlobalMean(name, (value.layer,), (sizes["C"], 1, 1))
    return Traced(graph.add(layer), groups)


# ---- linear layers ------------------------------------------------------------------------------------------


def _linear(graph: TracedGraph, name: str, value: Any, weight: Any, bias: Any) -> Any:
    """x @ weight.T + bias over the last axis: a vector's Linear, or a 1x1 convolution of a map."""
    if not isinstance(value, Traced) or not isinstance(weight, Tensor) or weight.dim() != 2:
        return None
    if bias is not None and (not isinstance(bias, Tensor) or bias.shape != (weight.shape[0],)):
        return None
    axes = value.axes
    on_map = axes is not None and len(graph.shape(value)) == 3 and {a.axis for a in axes[-1]} <= {"C"}
    if on_map and axes is not None and graph.shape(value)[1:] != (1, 1):
        n_in, height, width = graph.shape(value)
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
            (n_out, height, width),
            as_conv_weight(weight),
            bias,
            (1, 1),
            (1, 1),
            1,
            (0, 0, 0, 0),
        )
        return Traced(graph.add(layer), (*axes[:-1], (Atom("C", n_out),) if n_out > 1 else ()))
    vector = graph.as_vector(value)
    if vector is None or weight.shape[1] != graph.shape(vector)[0]:
        return None
    linear = Linear(name, (vector.layer,), (weight.shape[0],), weight, bias)
    return _plain(graph, graph.add(linear))


@rule("linear")
def linear(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    return _linear(graph, name, args[0], args[1], _argument(args, kwargs, 2, "bias", None))


@rule("addmm")
def addmm(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    if kwargs.get("alpha", 1) != 1 or kwargs.get("beta", 1) != 1 or not isinstance(args[2], Tensor):
        return None
    return _linear(graph, name, args[1], args[2].t(), args[0])


@rule("mm", "matmul")
def mm(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    if not isinstance(args[1], Tensor) or args[1].dim() != 2:
        return None
    return _linear(graph, name, args[0], args[1].t(), None)


# ---- normalisation ------------------------------------------------------------------------------------------


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "batch_norm", "cudnn_batch_norm")
def batch_norm(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, weight, bias, running_mean, variance = args[:5]
    if not isinstance(value, Traced) or value.axes is None or not isinstance(running_mean, Tensor):
        return None
    if len(args) == 8 and args[5]:
        return None  # training statistics mix the images of a batch
    if len(value.axes) not in (2, 4) or not {a.axis for a in value.axes[1]} <= {"C"}:
        return None
    scale, shift = scale_and_shift(running_mean, variance, weight, bias, args[-1])
    result = _affine(graph, name, value, scale, shift)
    return None if result is None else [result, None, None]


@rule("batch_norm")
def batch_norm_composite(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    found = batch_norm(graph, name, (*args[:7], args[7]), kwargs)
    return None if found is None else found[0]


@rule("scale_and_shift")
def traced_scale_and_shift(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    """What `capture` traces for an inference batch norm; its channels are axis 1."""
    value = args[0]
    if value.axes is None or {a.axis for a in value.axes[1]} - {"C"}:
        raise CannotLowerError("a batch norm acts on an axis that is not the channels")
    return _affine(graph, name, value, args[1], args[2])


@rule("scale_shift")
def scale_shift(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    """What `scale_shift.BatchNormAsScaleShift` traces an inference batch norm as."""
    value, scale, shift = args
    if not isinstance(value, Traced) or value.axes is None or len(value.axes) < 2:
        return None
    n_channels = graph.shape(value)[0]
    if n_channels > 1 and {a.axis for a in value.axes[1]} != {"C"}:
        return None
    return _affine(graph, name, value, scale, shift)


def _affine(graph: TracedGraph, name: str, value: Traced, scale: Tensor, shift: Tensor) -> Traced | None:
    """Scale and shift the channels; the numbers come in the order the trace sees the channels in."""
    axes = value.axes
    if axes is None:
        return None
    n_channels = graph.shape(value)[0]
    group = next((g for g in axes if g and {a.axis for a in g} == {"C"}), None)
    order = None if group is None else channel_order(group, n_channels)
    if n_channels > 1 and (group is None or scale.numel() != n_channels):
        return None
    if order is not None:
        inverse = torch.tensor(order).argsort()
        scale, shift = scale[inverse], shift[inverse]
    layer = Affine(name, (value.layer,), graph.shape(value), scale.reshape(-1), shift.reshape(-1))
    return Traced(graph.add(layer), axes)


@rule("native_layer_norm", "layer_norm")
def layer_norm(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, normalized, weight, bias, epsilon = args[:5]
    axes = value.axes
    if axes is None or len(normalized) != 1 or not {a.axis for a in axes[-1]} <= {"C"}:
        return None
    n_channels = graph.shape(value)[0]
    if normalized[0] != n_channels or channel_order(axes[-1], n_channels) is not None:
        return None
    layer = ChannelNorm(name, (value.layer,), graph.shape(value), weight, bias, epsilon)
    return [Traced(graph.add(layer), axes), None, None]


# ---- elementwise --------------------------------------------------------------------------------------------


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
    """value o constant, where the constant is one number or one number a channel."""
    axes = value.axes
    if axes is None or not constant.is_floating_point() or constant.dim() > len(axes):
        return None
    full = constant.reshape((1,) * (len(axes) - constant.dim()) + tuple(constant.shape))
    varying = [d for d, n in enumerate(full.shape) if n != 1]
    n_channels = graph.shape(value)[0]
    if varying:
        group = axes[varying[0]]
        if len(varying) > 1 or {a.axis for a in group} != {"C"} or full.numel() != n_channels:
            return None
    numbers = full.reshape(-1).double().expand(n_channels)
    zero, one = torch.zeros_like(numbers), torch.ones_like(numbers)
    scale, shift = {
        "add": (one, numbers),
        "sub": (one, -numbers),
        "mul": (numbers, zero),
        "div": (one / numbers, zero),
    }[function]
    return _affine(graph, name, value, scale, shift)


def _combine(graph: TracedGraph, name: str, function: str, left: Traced, right: Traced) -> Any:
    a, b = graph.shape(left), graph.shape(right)
    if left.axes is None or right.axes is None or len(a) != len(b):
        return None
    if left.axes == right.axes and a == b:
        return Traced(graph.add(Combine(name, (left.layer, right.layer), a, function, broadcast=False)), left.axes)
    maps = graph.map_of(left), graph.map_of(right)
    if maps[0] is None or maps[1] is None:
        return None
    a, b = graph.shape(maps[0]), graph.shape(maps[1])
    shape = tuple(max(m, n) for m, n in zip(a, b, strict=True))
    gate = (1, 1)
    if a == b:
        broadcast = False
    elif a[0] == b[0] and gate in (a[1:], b[1:]):
        broadcast = True
    else:
        return None
    layer = Combine(name, (maps[0].layer, maps[1].layer), shape, function, broadcast)
    return _plain(graph, graph.add(layer))


# ---- moving channels ----------------------------------------------------------------------------------------


@rule("cat", "concat")
def cat(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    dim = _argument(args, kwargs, 1, "dim", 0)
    values = args[0]
    if not all(isinstance(v, Traced) for v in values):
        return None
    maps = [graph.map_of(v) for v in values]
    if dim % 4 != 1 or any(m is None for m in maps):
        return None
    sources = [m for m in maps if m is not None]
    channels = sum(graph.shape(m)[0] for m in sources)
    shape = (channels, *graph.shape(sources[0])[1:])
    if len(sources) == 1:
        return sources[0]
    return _plain(graph, graph.add(Concat(name, [m.layer for m in sources], shape)))


def _channels_along(graph: TracedGraph, value: Traced, dim: int) -> list[int] | None:
    """The channels that positions 0, 1, ... of traced axis `dim` stand for; None if it is not the channel axis."""
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


@rule("split", "split_with_sizes")
def split(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, sizes = args[0], args[1]
    dim = _argument(args, kwargs, 2, "dim", 0)
    channels = _channels_along(graph, value, dim)
    if channels is None or len(graph.shape(value)) != 3:
        return None
    if isinstance(sizes, int):
        sizes = [min(sizes, len(channels) - i) for i in range(0, len(channels), sizes)]
    parts, start = [], 0
    for size in sizes:
        parts.append(_selected(graph, value, dim, channels[start : start + size]))
        start += size
    return parts


@rule("slice")
def slice_(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    dim = _argument(args, kwargs, 1, "dim", 0)
    start = _argument(args, kwargs, 2, "start", None) or 0
    end = _argument(args, kwargs, 3, "end", None)
    step = _argument(args, kwargs, 4, "step", 1)
    end = sys.maxsize if end is None else end
    size = value.size()[dim]
    if start == 0 and end >= size and step == 1:
        return value
    channels = _channels_along(graph, value, dim)
    if channels is None or len(graph.shape(value)) != 3 or not channels[start:end:step]:
        return None
    return _selected(graph, value, dim, channels[start:end:step])


@rule("select")
def select(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, dim, index = args[0], args[1], args[2]
    channels = _channels_along(graph, value, dim)
    if channels is None or len(graph.shape(value)) != 3:
        return None
    return _selected(graph, value, dim, [channels[index]], drop=True)


# ---- looking at a value in another way ----------------------------------------------------------------------


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
    start = _argument(args, kwargs, 1, "start_dim", 0) % len(size)
    stop = _argument(args, kwargs, 2, "end_dim", -1) % len(size)
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


@rule("expand")
def expand(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
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
    """Changes between floating-point types are dropped: a run has one precision, which the query names."""
    dtype = kwargs.get("dtype")
    floating = dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)
    return args[0] if floating and isinstance(args[0], Traced) else None


@rule("as_strided")
def as_strided(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    """PyTorch restrides the output of a convolution on a 1x1 map; same sizes mean the same values there."""
    value = args[0]
    size = value.size()
    moved = [n for n in size[2:] if n > 1]
    return value if tuple(args[1]) == size and not moved else None
