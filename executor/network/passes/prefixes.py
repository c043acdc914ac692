"""Let a concatenation that begins with the inputs of an earlier one take that one's output.

Densely connected blocks (DenseNet) concatenate all layers so far before each layer: written as they are, every map is
copied again and again. As a chain, each concatenation adds its new channels behind those that are there (`Concat`).
"""

from __future__ import annotations

from collections.abc import Sequence

from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.channels import Concat

__all__ = ["share_prefixes"]


def share_prefixes(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the graph with concatenations chained: each but the first has the one before as its first input."""
    work = list(layers)
    #: concatenations that none goes on from yet, by their inputs as they were
    open_ends: dict[tuple[int, ...], int] = {}
    before: dict[int, int] = {}
    for i, layer in enumerate(work):
        if not isinstance(layer, Concat):
            continue
        inputs = layer.inputs
        for n in range(len(inputs) - 1, 1, -1):
            start = open_ends.pop(inputs[:n], None)
            if start is not None:
                before[i] = start
                work[i] = layer.continuing(start, inputs[n:])
                break
        open_ends.setdefault(inputs, i)
    for i in sorted(before, reverse=True):
        last, first = work[i], work[before[i]]
        assert isinstance(last, Concat) and isinstance(first, Concat)
        work[before[i]] = first.with_room(last.room)
    return tuple(work)
