"""Look at what a network says of an image itself, before anything is made of it: numbers, and such as were expected.

Used by `executor` and by PREDICT on every clean pass. Where values that are not numbers come from is looked for only
then: nothing is checked layer by layer while maps are computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from obeql.executor.network.capture.reading import no_probability, sum_to_one
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers.head import Probabilities

__all__ = ["fault_of", "suspects"]

_AGAIN = "create the model again with outputs="


def suspects(graph: LayerGraph, logits: Tensor) -> list[bool]:
    """Return for each row of logits (n, K) whether `fault_of` has to look at it; of others it would return None."""
    bad = ~logits.isfinite().all(dim=1)
    if graph.by_looks and logits.dtype in (torch.float32, torch.float64):
        bad |= sum_to_one(logits)
    found: list[bool] = bad.tolist()
    return found


def fault_of(graph: LayerGraph, image: Tensor, logits: Tensor, hint: str = "") -> str | None:
    """Return why the logits (1, K) of image (1, C, H, W) cannot be used; None where they can.

    `hint` is added where they are not finite.
    """
    bad = ~logits[0].isfinite()
    if not bool(bad.any()):
        if graph.by_looks and logits.dtype in (torch.float32, torch.float64) and bool(sum_to_one(logits)):
            return (
                "the outputs for the image itself lie in 0..1 and sum to 1, so they are probabilities, but were taken "
                f"for logits; {_AGAIN}probabilities, or outputs=logits if that is what they are"
            )
        return None
    if (outside := _no_probability(graph, image)) is not None:
        index, value = outside
        return (
            f"output {index} for the image itself is {value:.6g}, but the outputs of the model are probabilities, "
            f"which lie in 0..1; {_AGAIN}logits, or outputs=value for what is no classifier"
        )
    index = int(bad.nonzero()[0])
    return (
        f"the model's output for the image itself is not finite (output {index} is {float(logits[0, index])})"
        f"{_where_not_finite(graph, image)}; check the image and the model's weights{hint}"
    )


def _no_probability(graph: LayerGraph, image: Tensor) -> tuple[int, float] | None:
    """Return the first of the outputs that was to be a probability and is none."""
    for layer in graph.layers[-2:]:
        if isinstance(layer, Probabilities):
            (before,) = layer.inputs
            return no_probability(graph.materialise(image, [before])[0][before])
    return None


def _where_not_finite(graph: LayerGraph, image: Tensor) -> str:
    """Return the first layer whose output for image (1, C, H, W) is not finite, and whether its weights are.

    It is worded to follow a message, behind a semicolon.

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
