"""A network whose gates keep their unoccluded values, with what they would have changed in a score to first order.

After `gradients`; run by `obeql.executor.operators.proxy_forward`, as any graph is. What multiplies a map by a gate of
one position for the whole map (squeeze-excite) takes the unoccluded image's gate, and so runs on boxes. The gate that a
window would have had is computed all the same, from boxes: its change times the score's gradient with respect to it is
added at the end. Only this product is linear. The gate itself, with the nonlinearity that made it, is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from obeql.executor.network.first_order.gradients import FirstOrder, score_of_logits
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.pointwise import Combine
from obeql.planner.catalog import Activation
from obeql.planner.geometry import Reach
from obeql.planner.physical.plan import ProxyForward
from obeql.planner.physical.proxies.frozen_gates import gates
from obeql.planner.scores import ScoreKind

__all__ = ["guessing"]


def guessing(graph: LayerGraph, proxy: ProxyForward, around: FirstOrder) -> LayerGraph:
    """Return the graph with gates as constants, which gives the scores (n, K) of K classes, as the planner's `frozen`.

    Gradients of `around` (K, 1, C) are of the score by each gate, under the numbers of the layers of `gates`.
    """
    values = around.values
    layers = list(graph.layers)
    changed, clean, worth = [len(layers) - 1], [], []
    for i, place in gates(graph.network()).items():
        combine = layers[i]
        assert isinstance(combine, Combine)
        source = combine.inputs[place]
        layers[i] = _HeldGate(combine, values[source], place)
        changed.append(source)
        clean.append(values[source].flatten(1))
        worth.append(around.gradients[i].flatten(1).t())
    layers.append(_FirstOrderScores(changed, clean, worth, around.classes, around.kind, graph.activation))
    return replace(graph, layers=tuple(layers))


class _HeldGate(Layer):
    """A map and a gate that is a constant, (1, C, 1, ...), put together as `combine` does."""

    kind: ClassVar[str] = "combine"

    def __init__(self, combine: Combine, gate: Tensor, place: int) -> None:
        super().__init__(combine.name, (combine.inputs[1 - place],), combine.shape)
        self.combine, self.gate, self.place = combine, gate, place

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.combine.forward((self.gate, inputs[0]) if self.place == 0 else (inputs[0], self.gate))


class _FirstOrderScores(Layer):
    """Scores of logits, and of gates their change times `worth` (C, K); inputs: the logits, then the gates."""

    kind: ClassVar[str] = "first_order"
    reach: Reach = "global"

    def __init__(
        self,
        inputs: Sequence[int],
        clean: Sequence[Tensor],
        worth: Sequence[Tensor],
        classes: Sequence[int],
        kind: ScoreKind,
        activation: Activation,
    ) -> None:
        super().__init__("first_order", inputs, (len(classes),))
        self.clean, self.worth = tuple(clean), tuple(worth)
        self._of_logits = classes, activation, kind

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        scores = score_of_logits(inputs[0], *self._of_logits)
        for gate, clean, worth in zip(inputs[1:], self.clean, self.worth, strict=True):
            scores = scores + (gate.flatten(1) - clean) @ worth
        return scores
