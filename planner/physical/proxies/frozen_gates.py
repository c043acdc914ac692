"""Frozen gates: maps are multiplied by the gates of the unoccluded image, so that boxes go on where gates see the map.

A squeeze-excite block multiplies every channel of a map by a number that depends on the whole map, so exact boxes end
there. With the numbers of the unoccluded image they do not. The gates that a window would have had are worked out
beside it, and what they differ by counts to first order. `frozen` says what the network is like then; the executor's
`first_order.frozen_gates` builds it.
"""

from __future__ import annotations

from dataclasses import replace

from obeql.planner.geometry import LayerSpec, Network
from obeql.planner.physical.cost import Rates, positions
from obeql.planner.physical.plan import IncrementalForward, ProxyForward
from obeql.planner.physical.proxies.setting import ProxySetting

__all__ = ["frozen", "gates", "offered", "read_by_gradients"]

#: How much longer a layer's positions are expected to take on boxes than on whole maps, where it was not measured.
_SLOWER_ON_BOXES = 1.5


def gates(network: Network) -> dict[int, int]:
    """Return which layers put a map and a gate of one position together, each with the place of the gate among the two.

    Found by what they read, whatever makes the gate.
    """
    found = {}
    for i, layer in enumerate(network.layers):
        if layer.kind == "combine" and layer.reach == "global" and len(layer.inputs) == 2:
            sizes = [positions(network.layers[j]) for j in layer.inputs]
            if min(sizes) == 1 < max(sizes):
                found[i] = sizes.index(1)
    return found


def frozen(network: Network, n_scores: int) -> Network:
    """Return the network with gates as constants, and a last layer that reads what they would have been."""
    at = gates(network)
    layers = list(network.layers)
    for i, place in at.items():
        (read,) = (j for k, j in enumerate(layers[i].inputs) if k != place)
        layers[i] = replace(layers[i], reach="pointwise", inputs=(read,))
    changed = tuple(network.layers[i].inputs[place] for i, place in at.items())
    scores = LayerSpec("first_order", "first_order", "global", (len(layers) - 1, *changed), (n_scores,))
    return Network((*layers, scores), network.reason, network.outputs)


def offered(setting: ProxySetting) -> list[ProxyForward]:
    """Return the proxy with frozen gates, or nothing where there is no gate, or boxes do not become faster by it."""
    network = setting.network
    at = gates(network)
    if not at or not setting.has_memory_for(network.layers[network.layers[i].inputs[k]] for i, k in at.items()):
        return []
    engine = setting.engine_of(frozen(network, setting.n_classes), _of_frozen(network, setting.rates))
    if not isinstance(engine, IncrementalForward):
        return []
    return [ProxyForward("freeze_gates", engine, setting.price(engine.cost.seconds))]


def read_by_gradients(network: Network) -> dict[int, int]:
    """Return the layers that put a map and a gate together, each with the place of the gate."""
    return gates(network)


def _of_frozen(network: Network, rates: Rates) -> Rates:
    """Return rates for the layers of `frozen`: on boxes as estimated from whole maps, where they ran on none so far."""
    if not rates.layer_s:
        return rates
    box_s, box_batch_s = rates.box_s, rates.box_batch_s
    if box_s:
        on_maps = [s / positions(layer) for s, layer in zip(rates.layer_s, network.layers, strict=True)]
        box_s = tuple(s or _SLOWER_ON_BOXES * whole for s, whole in zip(box_s, on_maps, strict=True))
        box_batch_s = tuple(s if of else rates.call_s for s, of in zip(box_batch_s, rates.box_s, strict=True))
        box_s, box_batch_s = (*box_s, 0.0), (*box_batch_s, 0.0)
    return replace(rates, layer_s=(*rates.layer_s, rates.call_s), box_s=box_s, box_batch_s=box_batch_s)
