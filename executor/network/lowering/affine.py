"""A number a channel that scales and one that shifts: what batch norms and constants come down to."""

from __future__ import annotations

import torch
from torch import Tensor

from obeql.executor.network.axes import channel_order, group_size
from obeql.executor.network.capture.trace import Traced, TracedGraph
from obeql.executor.network.layers.pointwise import Affine

__all__ = ["affine"]


def affine(graph: TracedGraph, name: str, value: Traced, scale: Tensor, shift: Tensor) -> Traced | None:
    """Scale and shift the channels; the numbers come in the order the trace sees the channels in."""
    axes = value.axes
    if axes is None:
        return None
    n_channels = graph.shape(value)[0]
    every = (g for g in axes if g and {a.axis for a in g} == {"C"} and group_size(g) == n_channels)
    group = next(every, None)
    order = None if group is None else channel_order(group, n_channels)
    is_one = bool((scale == scale[:1]).all()) and bool((shift == shift[:1]).all())  # then the order does not matter
    if n_channels > 1 and ((group is None and not is_one) or scale.numel() != n_channels):
        return None
    if order is not None:
        inverse = torch.tensor(order).argsort()
        scale, shift = scale[inverse], shift[inverse]
    layer = Affine(name, (value.layer,), graph.shape(value), scale.reshape(-1), shift.reshape(-1))
    return Traced(graph.add(layer), axes)
