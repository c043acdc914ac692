"""What proxies compute: a graph of a network that gives scores, cheaply, of which a part counts to first order.

A module for each kind of `planner.proxies`, with a function `guessing`; run by `executor.operators.proxy_forward`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from obeql.executor.network.first_order.gradients import FirstOrder
from obeql.executor.network.graph import LayerGraph
from obeql.planner.physical.plan import ProxyForward
from obeql.planner.proxies import PROXIES

__all__ = ["guessing_graph"]


class _Computed(Protocol):
    """What the module of a kind has."""

    def guessing(self, graph: LayerGraph, proxy: ProxyForward, around: FirstOrder) -> LayerGraph:
        """Return a graph for the engine of the proxy that gives scores (n, K) of windows, not logits."""


def guessing_graph(graph: LayerGraph, proxy: ProxyForward, around: FirstOrder) -> LayerGraph:
    """Return what a proxy makes of a network about one image: a graph that gives scores (n, K) of K classes."""
    module = cast(_Computed, import_module(f"{__name__}.{PROXIES[proxy.method].module}"))
    return module.guessing(graph, proxy, around)
