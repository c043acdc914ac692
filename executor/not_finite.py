"""Say where values that are not numbers come from, once an output has turned out not to be finite.

Used by `run` for its message alone: nothing is checked layer by layer while maps are computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from obeql.executor.network.graph import LayerGraph

__all__ = ["where_not_finite"]


def where_not_finite(graph: LayerGraph, image: Tensor) -> str:
    """The first layer whose output for image (1, C, H, W) is not finite, as `; ...`, and whether its weights are.

    Empty where every layer's output is finite, or none can be named.
    """
    kept, logits = graph.materialise(image, range(len(graph.layers)))
    kept[len(graph.layers) - 1] = logits
    for i in sorted(kept):
        n_bad = _count(kept[i])
        if not n_bad:
            continue
        layer = graph.layers[i]
        weights = [tensor for tensor in layer.parameters() if tensor.is_floating_point()]
        if n_weights := sum(_count(tensor) for tensor in weights):
            n_all = sum(tensor.numel() for tensor in weights)
            return f"; {n_weights} of the {n_all} weights of layer {i} ({layer.kind} {layer.name}) are NaN or infinite"
        largest = max((float(kept[j].abs().max()) for j in layer.inputs), default=0.0)
        return (
            f"; {n_bad} of {kept[i].numel()} outputs of layer {i} ({layer.kind} {layer.name}) are the first that are "
            f"not finite (its weights are finite, its inputs reach {largest:.3g})"
        )
    return ""


def _count(tensor: Tensor) -> int:
    return int(torch.count_nonzero(~tensor.isfinite()))
