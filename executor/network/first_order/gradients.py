"""What a score changes by per unit change of what a layer reads, on the unoccluded image: one backward pass a class.

Comes before `token_budget` and `frozen_gates`, which multiply changes by these gradients. Each is through its own layer
alone: what other layers that read the same values make of a change does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers.tokens import as_rows
from obeql.planner.catalog import Activation
from obeql.planner.scores import OF_LOGIT, ScoreKind

__all__ = ["FirstOrder", "first_order", "score_of_logits"]


@dataclass(frozen=True, slots=True, eq=False)
class FirstOrder:
    """Of one image, what proxies count by: gradients (K, T, C) of K classes' scores, and values of all layers."""

    gradients: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    classes: Sequence[int]
    kind: ScoreKind


def first_order(
    graph: LayerGraph, image: Tensor, at: Mapping[int, int], classes: Sequence[int], kind: ScoreKind
) -> FirstOrder | str:
    """Return gradients (K, T, C) of K classes' scores by what layers read, and all layers' values.

    `at` are the layers, each with which of its inputs is meant; `image` is (1, C, H, W). The score is that of
    `score_of_logits`. Where it cannot be differentiated, or its gradient is not finite: which of the two, in words.
    """
    values: dict[int, Tensor] = {}
    leaves: dict[int, Tensor] = {}
    with torch.inference_mode(False), torch.enable_grad():
        # Ends the path for layers before the first of `at`, which need no derivative.
        values[0] = image.clone().contiguous(memory_format=torch.channels_last)
        try:
            for i, layer in enumerate(graph.layers[1:], start=1):
                inputs = [values[j] for j in layer.inputs]
                if i in at:
                    read = inputs[at[i]]
                    leaves[i] = torch.zeros_like(read).requires_grad_()
                    inputs[at[i]] = read + leaves[i]
                values[i] = layer.forward(inputs)
            scores = score_of_logits(values[len(graph.layers) - 1], classes, graph.activation, kind)[0]
            found = [
                torch.autograd.grad(score, list(leaves.values()), retain_graph=k + 1 < len(classes), allow_unused=True)
                for k, score in enumerate(scores)
            ]
        except (RuntimeError, NotImplementedError):  # an operator without a derivative
            return "the score has no gradient"
    gradients: dict[int, Tensor] = {}
    for place, i in enumerate(leaves):
        each = [of_class[place] for of_class in found]
        rows = [as_rows(torch.zeros_like(leaves[i]) if g is None else g)[0] for g in each]
        gradients[i] = torch.stack(rows)
        if not bool(gradients[i].isfinite().all()):
            return "the score has no finite gradient"
    return FirstOrder(gradients, {i: value.detach() for i, value in values.items()}, classes, kind)


def score_of_logits(logits: Tensor, classes: Sequence[int], activation: Activation, kind: ScoreKind) -> Tensor:
    """Return what maps of classes are modelled by, (N, K), for logits (N, classes): log-odds, or the logits."""
    if kind in OF_LOGIT or activation != "softmax" or logits.shape[1] == 1:
        return logits[:, list(classes)]
    found = []
    for k in classes:
        others = torch.cat([logits[:, :k], logits[:, k + 1 :]], dim=1)
        found.append(logits[:, k] - others.logsumexp(dim=1))
    return torch.stack(found, dim=1)
