"""Rules of batch norm at inference, in the forms that it is traced in, of layer norm and of group norm."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from obeql.executor.network.axes import channel_order
from obeql.executor.network.capture.trace import CannotLowerError, Traced, TracedGraph
from obeql.executor.network.layers.pointwise import ChannelNorm, scale_and_shift
from obeql.executor.network.layers.reduce import GroupNorm
from obeql.executor.network.lowering.affine import affine
from obeql.executor.network.lowering.one_row import is_signal, with_row, without_row
from obeql.executor.network.lowering.registry import Args, Kwargs, plain_map, rule


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "batch_norm", "cudnn_batch_norm")
def batch_norm(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, weight, bias, running_mean, variance = args[:5]
    if not isinstance(value, Traced) or value.axes is None or not isinstance(running_mean, Tensor):
        return None
    if len(args) == 8 and args[5]:
        return None  # training statistics mix the images of a batch
    if len(value.axes) not in (2, len(graph.layers[0].shape) + 1) or not {a.axis for a in value.axes[1]} <= {"C"}:
        return None
    scale, shift = scale_and_shift(running_mean, variance, weight, bias, args[-1])
    result = affine(graph, name, value, scale, shift)
    return None if result is None else [result, None, None]


@rule("batch_norm")
def batch_norm_composite(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    found = batch_norm(graph, name, (*args[:7], args[7]), kwargs)
    return None if found is None else found[0]


@rule("scale_and_shift")
def traced_scale_and_shift(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    """Return what `capture` traces for an inference batch norm; its channels are axis 1."""
    value = args[0]
    if value.axes is None or {a.axis for a in value.axes[1]} - {"C"}:
        raise CannotLowerError("a batch norm acts on an axis that is not the channels")
    return affine(graph, name, value, args[1], args[2])


@rule("scale_shift")
def scale_shift(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    """Return what `scale_shift.BatchNormAsScaleShift` traces an inference batch norm as."""
    value, scale, shift = args
    if not isinstance(value, Traced) or value.axes is None or len(value.axes) < 2:
        return None
    n_channels = graph.shape(value)[0]
    if n_channels > 1 and {a.axis for a in value.axes[1]} != {"C"}:
        return None
    return affine(graph, name, value, scale, shift)


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


@rule("native_group_norm")
def group_norm(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    value, weight, bias, n_groups, epsilon = *args[:3], *args[6:8]
    if not isinstance(value, Traced):
        return None
    if is_signal(value):
        found = group_norm(graph, name, (with_row(value), *args[1:]), kwargs)
        return None if found is None else [without_row(found[0]), None, None]
    source = graph.map_of(value)
    if source is None:
        return None
    layer = GroupNorm(name, (source.layer,), graph.shape(source), n_groups, weight, bias, epsilon)
    return [plain_map(graph, graph.add(layer)), None, None]
