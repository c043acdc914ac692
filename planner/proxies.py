"""The kinds of proxies, which guess maps cheaply: the one list of their names.

Of a kind, `planner.physical.proxies` has a module that says where it is offered and what it costs, and the executor's
`network.first_order` one of the same name that says what it computes. Choices, plans and what is told of a map follow
from the row.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PROXIES", "ProxyKind"]


@dataclass(frozen=True, slots=True)
class ProxyKind:
    """A kind of proxy: the choice that offers it, what that `does`, what people read of it, and its `module`s.

    Where a kind comes in several sizes, `shown` has a place for the size.
    """

    method: str
    does: str
    shown: str
    module: str


PROXIES: dict[str, ProxyKind] = {
    kind.method: kind
    for kind in (
        ProxyKind(
            "budget_tokens",
            "guesses by the tokens that a window changes most: of transformers",
            "a budget of {} tokens",
            "token_budget",
        ),
        ProxyKind(
            "freeze_gates", "guesses with gates as they are in the unoccluded image", "frozen gates", "frozen_gates"
        ),
    )
}
