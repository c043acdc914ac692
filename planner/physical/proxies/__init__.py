"""Proxies: cheap guesses at what an approximate map will look like, and what they cost.

Used by `lower`, which offers them to `refinement`; the executor's `proxy_forward` runs them. Every proxy computes what
a window changes much, and counts the rest to first order, by gradients on the unoccluded image. A module for each kind
of `planner.proxies`, with two functions: `offered`, and `read_by_gradients`, which says at what layers gradients count.

A proxy states nothing by itself: how far off it is, windows computed exactly tell.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from obeql.planner.geometry import Network
from obeql.planner.physical.plan import ProxyForward
from obeql.planner.physical.proxies.setting import ProxySetting
from obeql.planner.proxies import PROXIES

__all__ = ["PROXY_TRIAL", "proxies", "read_by_gradients"]

#: What a proxy may cost, in shares of computing all windows exactly.
_MOST_PRICE = 0.65
#: What trying all proxies may cost, in the same shares, should none be any good; a backward pass, in windows; and the
#: windows that each is tried on.
_MOST_TRIAL, _GRADIENT_WINDOWS, PROXY_TRIAL = 0.04, 4, 48
#: Classes that a proxy guesses at most: each takes a backward pass.
_MOST_CLASSES = 8


class _Planned(Protocol):
    """What the module of a kind has."""

    def offered(self, setting: ProxySetting) -> list[ProxyForward]:
        """Return the proxies of a network; none where it has nothing that they are about, or memory is too little."""

    def read_by_gradients(self, network: Network) -> dict[int, int]:
        """Return the layers that count to first order, each with which of its inputs is meant."""


def _module(method: str) -> _Planned:
    return cast(_Planned, import_module(f"{__name__}.{PROXIES[method].module}"))


def proxies(setting: ProxySetting, disabled: frozenset[str] = frozenset()) -> tuple[ProxyForward, ...]:
    """Return the proxies of a network, from cheap to costly, of kinds that are not disabled.

    None where trying them would cost too much of so few windows.
    """
    if setting.network.whole or setting.n_classes > _MOST_CLASSES:
        return ()
    offered = [proxy for method in PROXIES if method not in disabled for proxy in _module(method).offered(setting)]
    found = []
    trial = _GRADIENT_WINDOWS * setting.n_classes / setting.n_windows
    for proxy in sorted(offered, key=lambda each: each.price):
        trial += proxy.price * PROXY_TRIAL / setting.n_windows
        if proxy.price <= _MOST_PRICE and trial <= _MOST_TRIAL:
            found.append(proxy)
    return tuple(found)


def read_by_gradients(network: Network, method: str) -> dict[int, int]:
    """Return, of a kind of proxy, the layers by whose inputs gradients are needed, each with which input is meant."""
    return _module(method).read_by_gradients(network)
