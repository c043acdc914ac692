"""A budget of tokens: of the tokens that a window changes, those that change most go into products with weights.

What the others change in a score counts to first order. For vision transformers, whose attention ends exact boxes at
its first layer. The executor's `first_order.token_budget` runs it.
"""

from __future__ import annotations

from obeql.planner.boxes import region_layers
from obeql.planner.geometry import LayerSpec, Network
from obeql.planner.physical.cost import Rates, layer_seconds, positions
from obeql.planner.physical.memory import whole_map_bytes
from obeql.planner.physical.plan import Cost, IncrementalForward, ProxyForward
from obeql.planner.physical.proxies.setting import ProxySetting, layer_bytes

__all__ = ["chosen_layers", "offered", "read_by_gradients"]

#: Tokens that a window may change, as budgets; and the share of all tokens that a budget may be.
_BUDGETS, _MOST_TOKENS = (6, 12, 24, 48), 0.3
#: How much longer chosen tokens take than as many of all; passes over all tokens where they are chosen, and in
#: attention.
_SLOWER, _CHOICE_PASSES, _ATTENTION_PASSES = 1.6, 2, 10
#: Windows that go through the tokens together, at most; they should fit into a cache.
_MOST_BATCH = 16


def offered(setting: ProxySetting) -> list[ProxyForward]:
    """Return the budgets of tokens, from cheap to costly; none where there is no attention."""
    network, rates = setting.network, setting.rates
    chosen = chosen_layers(network)
    attentions = [layer for layer in network.layers if layer.kind == "attention"]
    if not attentions or not chosen or not setting.has_memory_for(_read(network)):
        return []
    n_tokens = max(positions(layer) for layer in attentions)
    regions = region_layers(network, len(network.layers))
    batch = max(1, min(_MOST_BATCH, int(setting.budget / (8 * whole_map_bytes(network)))))
    found = []
    for tokens in _BUDGETS:
        if tokens <= _MOST_TOKENS * n_tokens:
            seconds = setting.n_windows * _window_seconds(network, rates, tokens, regions)
            engine = IncrementalForward(regions, (4,) * len(network.size), 4 * batch, batch, Cost(0.0, 0.0, seconds))
            found.append(ProxyForward("budget_tokens", engine, setting.price(seconds), tokens))
    return found


def read_by_gradients(network: Network) -> dict[int, int]:
    """Return the layers that only chosen tokens enter; each reads one map."""
    return dict.fromkeys(chosen_layers(network), 0)


def chosen_layers(network: Network) -> frozenset[int]:
    """Return the layers that only chosen tokens enter: the first of those that act on every position alone."""
    on_boxes = region_layers(network, len(network.layers))
    is_full: list[bool] = []
    found = set()
    for i, layer in enumerate(network.layers):
        from_full = any(is_full[j] for j in layer.inputs)
        is_choice = layer.reach == "pointwise" and len(layer.inputs) == 1 and layer.is_map and layer.kind != "add_map"
        if is_choice and from_full and positions(layer) > 1 and not on_boxes[layer.inputs[0]]:
            found.add(i)
        is_few = layer.reach == "pointwise" and (is_choice or not from_full)
        is_full.append(layer.is_map and not is_few)
    return frozenset(found)


def _read(network: Network) -> list[LayerSpec]:
    """Return what the layers read that only chosen tokens enter."""
    return [network.layers[network.layers[i].inputs[0]] for i in chosen_layers(network)]


def _window_seconds(network: Network, rates: Rates, budget: int, regions: tuple[bool, ...]) -> float:
    """Return the estimated seconds of a window with so many tokens."""
    chosen = chosen_layers(network)
    seconds = 0.0
    for i, layer in enumerate(network.layers):
        share = min(1.0, budget / positions(layer))
        whole = layer_seconds(network, i, rates)
        if regions[i]:
            seconds += 0.2 * whole
        elif layer.reach == "pointwise" and layer.is_map:
            seconds += min(1.0, _SLOWER * share) * whole
        elif layer.kind == "attention":
            passes_s = _ATTENTION_PASSES * layer_bytes(layer) / rates.bytes_per_s
            seconds += min(1.0, 2 * _SLOWER * share) * whole + passes_s
        else:
            seconds += whole
        if i in chosen:
            seconds += _CHOICE_PASSES * layer_bytes(network.layers[layer.inputs[0]]) / rates.bytes_per_s
        seconds += 3 * rates.call_s / _MOST_BATCH
    return seconds
