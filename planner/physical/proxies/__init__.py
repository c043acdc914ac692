"""Proxies: cheap guesses at what an approximate map will look like, and what they cost.

Used by `lower`, which offers them to `refinement`; the executor's `proxy_forward` runs them. Every proxy computes what
a window changes much, and counts the rest to first order, by gradients on the unoccluded image. A module for each kind.

A proxy states nothing by itself: how far off it is, windows computed exactly tell.
"""

from __future__ import annotations

from collections.abc import Callable

from obeql.planner.geometry import Network
from obeql.planner.physical.cost import Rates
from obeql.planner.physical.plan import Engine, ProxyForward
from obeql.planner.physical.proxies.frozen_gates import frozen_gates
from obeql.planner.physical.proxies.token_budget import token_budgets

__all__ = ["PROXY_TRIAL", "proxies"]

#: What a proxy may cost, in shares of computing all windows exactly.
_MOST_PRICE = 0.65
#: What trying all proxies may cost, in the same shares, should none be any good; a backward pass, in windows; and the
#: windows that each is tried on.
_MOST_TRIAL, _GRADIENT_WINDOWS, PROXY_TRIAL = 0.04, 4, 48
#: Classes that a proxy guesses at most: each takes a backward pass.
_MOST_CLASSES = 8


def proxies(
    network: Network,
    rates: Rates,
    exact_s: float,
    n_classes: int,
    n_windows: int,
    budget: float,
    engine_of: Callable[[Network, Rates], Engine],
    disabled: frozenset[str] = frozenset(),
) -> tuple[ProxyForward, ...]:
    """Return the proxies of a network, from cheap to costly, where computing all windows takes `exact_s`.

    `engine_of` chooses what runs a network's windows. None where trying them would cost too much of so few windows, or
    where a backward pass and its gradients take more than `budget` bytes.
    """
    if network.whole or n_classes > _MOST_CLASSES:
        return ()
    offered: list[ProxyForward] = []
    if "budget_tokens" not in disabled:
        offered += token_budgets(network, rates, exact_s, n_classes, n_windows, budget)
    if "freeze_gates" not in disabled:
        offered += frozen_gates(network, rates, exact_s, n_classes, budget, engine_of)
    found = []
    trial = _GRADIENT_WINDOWS * n_classes / n_windows
    for proxy in sorted(offered, key=lambda each: each.price):
        trial += proxy.price * PROXY_TRIAL / n_windows
        if proxy.price <= _MOST_PRICE and trial <= _MOST_TRIAL:
            found.append(proxy)
    return tuple(found)
