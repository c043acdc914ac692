"""What a refinement has spent that computing everything at once would not have cost.

Used by `refiner` and `top_search`: while little was spent, a map that turns out too hard can still be computed whole
in hardly more time than EXACT takes. Counted in plan prices, never in measured seconds, so that the same plan leads to
the same map.
"""

from __future__ import annotations

from obeql.executor.refine.problem import Request
from obeql.planner.physical import Prices
from obeql.planner.refinement import MOST_WASTE

__all__ = ["Spending"]


class Spending:
    """Shares of the cost of computing `n_left` windows, all that were not stored, exactly and at once."""

    def __init__(self, prices: Prices, n_left: int) -> None:
        self._prices = prices
        self._n_left = max(1, n_left)
        #: estimating, windows in the reduced precision, and what small batches cost more than large ones
        self.wasted = 0.0

    def take(self, request: Request) -> None:
        """Count the windows of a request, and the look at the maps that follows it."""
        self.wasted += self._waste_of(request)

    def allows(self, request: Request) -> bool:
        """Whether what is wasted by then stays within bounds, should all be computed exactly in the end."""
        return self.wasted + self._waste_of(request) <= MOST_WASTE

    def is_last(self) -> bool:
        """Whether after one more level of exact windows none would be allowed."""
        return self.wasted + 2 * (self._prices.look + self._prices.level) > MOST_WASTE

    def _waste_of(self, request: Request) -> float:
        prices = self._prices
        wasted = prices.look + len(request.reduced) * prices.reduced / self._n_left
        return wasted + (prices.level if len(request.exact) else 0.0)
