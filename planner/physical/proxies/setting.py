"""What every proxy is planned for, and what it takes to know gradients: the memory of a backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from obeql.planner.geometry import LayerSpec, Network
from obeql.planner.physical.cost import Rates
from obeql.planner.physical.plan import Engine

__all__ = ["ProxySetting", "backward_bytes", "layer_bytes"]


@dataclass(frozen=True, slots=True)
class ProxySetting:
    """A network and a grid of `n_windows`, of which computing all takes `exact_s`, for so many classes.

    A backward pass and its gradients may take `budget` bytes. `engine_of` chooses what runs a network's windows.
    """

    network: Network
    rates: Rates
    exact_s: float
    n_classes: int
    n_windows: int
    budget: float
    engine_of: Callable[[Network, Rates], Engine]

    def price(self, seconds: float) -> float:
        """Return seconds in shares of computing all windows exactly."""
        return seconds / max(1e-9, self.exact_s)

    def has_memory_for(self, read: Iterable[LayerSpec]) -> bool:
        """Return whether gradients by what is `read` can be had."""
        return backward_bytes(self.network, read, self.n_classes) <= self.budget


def backward_bytes(network: Network, read: Iterable[LayerSpec], n_classes: int) -> int:
    """Return about what a backward pass holds at most, and afterwards so many classes' gradients by what is `read`.

    A pass keeps each layer's values, and up to twice as much between the operators that a layer is made of.
    """
    values = sum(layer_bytes(layer) for layer in network.layers)
    return 3 * values + 2 * n_classes * sum(layer_bytes(layer) for layer in read)


def layer_bytes(layer: LayerSpec) -> int:
    """Return the bytes of a layer's values, in float32."""
    return 4 * math.prod(layer.shape)
