"""What a refinement has spent that computing everything at once would not have cost.

Used by `sampler` and `top_k`: while little was spent, a map that turns out too hard can still be computed whole
in hardly more time than EXACT takes. Counted in plan prices, never in measured seconds, so that the same plan leads to
the same map.
"""

from __future__ import annotations

from obeql.executor.adaptive.gaussian_process import work_of
from obeql.executor.adaptive.problem import Request
from obeql.planner.physical.plan import CostShares

__all__ = ["Budget"]


class Budget:
    """Shares of the cost of computing all `n_left` of `n_cells` windows that were not stored, exactly and at once.

    `most`, where a method takes it, is what may be wasted.
    """

    def __init__(self, prices: CostShares, n_left: int, n_cells: int) -> None:
        self._prices = prices
        self._n_left = max(1, n_left)
        self._n_cells = n_cells
        #: estimating, windows in the reduced precision, and what small batches cost more than large ones
        self.wasted = 0.0

    def take(self, request: Request, n_known: int) -> None:
        """Count the windows of a request, and the look at the maps that follows it with `n_known` cells."""
        self.wasted += self._waste_of(request, n_known)

    def allows(self, request: Request, n_known: int, most: float) -> bool:
        """Return whether what is wasted by then stays within bounds, should all be computed exactly in the end."""
        return self.wasted + self._waste_of(request, n_known) <= most

    def is_last(self, n_known: int, most: float) -> bool:
        """Return whether after one more level of exact windows, and a look with so many known, none is allowed."""
        return self.wasted + 2 * (self._prices.level + self._look(n_known)) > most

    def _waste_of(self, request: Request, n_known: int) -> float:
        wasted = self._look(n_known) + len(request.reduced) * self._prices.reduced / self._n_left
        return wasted + (self._prices.level_of(len(request.exact) / self._n_cells) if len(request.exact) else 0.0)

    def _look(self, n_known: int) -> float:
        return self._prices.look * work_of(n_known, self._n_cells)
