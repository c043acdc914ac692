"""Proxies: cheap guesses at what an approximate map will look like, and what they cost.

Used by `refinement`, which offers them to the executor; the executor's `proxy_forward` runs them. A proxy runs a
network of tokens (a vision transformer) with a budget: of the tokens that a window changes, those that change most are
computed where they go into products with weights, and what the others change in a score counts to first order.

A proxy states nothing by itself: how far off it is, windows computed exactly tell.
"""

from __future__ import annotations

import math

from obeql.planner.boxes import region_layers
from obeql.planner.geometry import LayerSpec, Network
from obeql.planner.physical.cost import Rates, layer_seconds, positions
from obeql.planner.physical.memory import whole_map_bytes
from obeql.planner.physical.plan import Cost, IncrementalForward, ProxyForward

__all__ = ["PROXY_TRIAL", "first_order_bytes", "gate_layers", "proxies"]

#: Tokens that a window may change, as budgets.
_BUDGETS = (6, 12, 24, 48)
#: What a proxy may cost, in shares of computing all windows exactly; and the share of the tokens it may compute.
_MOST_PRICE, _MOST_TOKENS = 0.3, 0.3
#: What trying all proxies may cost, in the same shares, should none be any good; a backward pass, in windows; and the
#: windows that each is tried on.
_MOST_TRIAL, _GRADIENT_WINDOWS, PROXY_TRIAL = 0.04, 4, 48
#: Classes that a proxy guesses at most: each takes a backward pass.
_MOST_CLASSES = 8
#: How much longer chosen tokens take than as many of all; passes over all tokens at a gate, and in attention.
_SLOWER, _GATE_PASSES, _ATTENTION_PASSES = 1.6, 2, 10
#: Windows that go through the tokens together, at most; they should fit into a cache.
_MOST_BATCH = 16


def proxies(
    network: Network, rates: Rates, exact_s: float, n_classes: int, n_windows: int, budget: float
) -> tuple[ProxyForward, ...]:
    """Return the proxies of a network, from cheap to costly, where computing all windows takes `exact_s`.

    None where there is no attention, where trying one would cost too much of so few windows, or where a backward pass
    and its gradients take more than `budget` bytes.
    """
    if network.whole or n_classes > _MOST_CLASSES or first_order_bytes(network, n_classes) > budget:
        return ()
    gates = gate_layers(network)
    attentions = [layer for layer in network.layers if layer.kind == "attention"]
    if not attentions or not gates:
        return ()
    n_tokens = max(positions(layer) for layer in attentions)
    regions = region_layers(network, len(network.layers))
    batch = max(1, min(_MOST_BATCH, int(budget / (8 * whole_map_bytes(network)))))
    found = []
    trial = _GRADIENT_WINDOWS * n_classes / n_windows
    for tokens in _BUDGETS:
        if tokens > _MOST_TOKENS * n_tokens:
            break
        seconds = n_windows * _window_seconds(network, rates, tokens, regions)
        engine = IncrementalForward(regions, (4,) * len(network.size), 4 * batch, batch, Cost(seconds, 0.0, 0.0))
        price = seconds / max(1e-9, exact_s)
        trial += price * PROXY_TRIAL / n_windows
        if price <= _MOST_PRICE and trial <= _MOST_TRIAL:
            found.append(ProxyForward(tokens, engine, price))
    return tuple(found)


def gate_layers(network: Network) -> frozenset[int]:
    """Return the layers that only chosen tokens enter: the first of those that act on every position alone."""
    is_full: list[bool] = []
    gates = set()
    for i, layer in enumerate(network.layers):
        from_full = any(is_full[j] for j in layer.inputs)
        chosen = layer.reach == "pointwise" and len(layer.inputs) == 1 and layer.is_map and layer.kind != "add_map"
        if chosen and from_full and positions(layer) > 1 and _behind_tokens(network, i):
            gates.add(i)
        is_few = layer.reach == "pointwise" and (chosen or not from_full)
        is_full.append(layer.is_map and not is_few)
    return frozenset(gates)


def _behind_tokens(network: Network, i: int) -> bool:
    """Return whether a layer reads what does not run on boxes."""
    return not region_layers(network, len(network.layers))[network.layers[i].inputs[0]]


def first_order_bytes(network: Network, n_classes: int) -> int:
    """Return about what a backward pass holds at most, and afterwards the gradients of so many classes.

    A pass keeps each layer's values, and up to twice as much between the operators that a layer is made of.
    """
    values = sum(_bytes(layer) for layer in network.layers)
    gradients = sum(_bytes(network.layers[network.layers[i].inputs[0]]) for i in gate_layers(network))
    return 3 * values + 2 * n_classes * gradients


def _window_seconds(network: Network, rates: Rates, budget: int, regions: tuple[bool, ...]) -> float:
    """Return the estimated seconds of a window with so many tokens."""
    gates = gate_layers(network)
    seconds = 0.0
    for i, layer in enumerate(network.layers):
        share = min(1.0, budget / positions(layer))
        whole = layer_seconds(network, i, rates)
        if regions[i]:
            seconds += 0.2 * whole
        elif layer.reach == "pointwise" and layer.is_map:
            seconds += min(1.0, _SLOWER * share) * whole
        elif layer.kind == "attention":
            seconds += min(1.0, 2 * _SLOWER * share) * whole + _ATTENTION_PASSES * _bytes(layer) / rates.bytes_per_s
        else:
            seconds += whole
        if i in gates:
            read = network.layers[layer.inputs[0]]
            seconds += _GATE_PASSES * _bytes(read) / rates.bytes_per_s
        seconds += 3 * rates.call_s / _MOST_BATCH
    return seconds


def _bytes(layer: LayerSpec) -> int:
    return 4 * math.prod(layer.shape)
