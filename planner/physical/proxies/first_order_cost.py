"""What it takes to know gradients: the memory of a backward pass, for every proxy that counts to first order."""

from __future__ import annotations

import math
from collections.abc import Iterable

from obeql.planner.geometry import LayerSpec, Network

__all__ = ["backward_bytes", "layer_bytes"]


def backward_bytes(network: Network, read: Iterable[LayerSpec], n_classes: int) -> int:
    """Return about what a backward pass holds at most, and afterwards so many classes' gradients by what is `read`.

    A pass keeps each layer's values, and up to twice as much between the operators that a layer is made of.
    """
    values = sum(layer_bytes(layer) for layer in network.layers)
    return 3 * values + 2 * n_classes * sum(layer_bytes(layer) for layer in read)


def layer_bytes(layer: LayerSpec) -> int:
    """Return the bytes of a layer's values, in float32."""
    return 4 * math.prod(layer.shape)
