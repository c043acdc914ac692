"""Find the k most important cells with few computed ones.

Like `refiner`, whose field and audit it uses, with another question: can a cell that was not computed still be among
the k of largest importance? Cells where that is likely come next; the search ends when, in as many of the drawn maps
as the confidence asks for, no cell that was not computed is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from obeql.executor.refine.kriging import fit_field
from obeql.executor.refine.refiner import NOTHING, Estimate, Found, Goal, Reduced, Refiner, Request
from obeql.planner.grid import WindowGrid
from obeql.planner.scores import ScoreKind

__all__ = ["TopSearch"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Share of all cells that one level adds, and at most where estimating costs much.
_LEVEL_SHARE, _MOST_SHARE = 0.03, 0.1
#: Cells that one level computes exactly, at most: this many or 2 k.
_FEWEST_EXACT = 20
#: Standard deviations beyond the k-th best at which a cell is no candidate.
_UNLIKELY = -4.0


class TopSearch(Refiner):
    """A `Refiner` that looks for the `k` cells of largest importance, that is of least score, of every class.

    Estimates hold NaN where a cell was not computed. Their bound is the share of the k that is right at the
    confidence: the lower quantile over drawn maps.
    """

    def __init__(
        self,
        grid: WindowGrid,
        kind: ScoreKind,
        n_classes: int,
        k: int,
        confidence: float,
        seed: int,
        cost: Floats | None = None,
        reduced: Reduced | None = None,
        level_cost: float = 0.0,
    ) -> None:
        super().__init__(grid, kind, n_classes, Goal("top_cells", confidence, 1.0), seed, cost, reduced, level_cost)
        self.k = min(k, grid.n_windows)

    def next(self, most: int | None = None) -> Request:
        """The windows of the next level: those most likely to be among the k; none when all are found.

        A likely one that is known in the reduced precision is computed exactly, others in whichever is cheaper.
        """
        if self.done or (most is not None and most <= 0):
            return Request(NOTHING, NOTHING)
        if self._field is None:  # all begins again, without the reduced precision
            return self.first(most)
        likely = np.where(self.cells.exact, -np.inf, self._gain).ravel()
        n_left = int((~self.cells.exact).sum())
        n = max(1, round(max(_LEVEL_SHARE, min(_MOST_SHARE, 2 * self._level_cost)) * likely.size))
        if self._has_estimated_enough():
            n = n_left
        n = min(n_left, n if most is None else min(n, most))
        order = np.argsort(-likely, kind="stable")
        if self.reduced is None:
            self._chosen.flat[order[:n]] = True
            return Request(np.sort(order[:n]), NOTHING)
        is_reduced = self.cells.reduced.ravel()[order[:n_left]]
        candidates = order[:n_left][is_reduced]
        exact = candidates[: max(_FEWEST_EXACT, 2 * self.k)]
        exact = exact[likely[exact] > _UNLIKELY] if len(exact) else exact
        fresh = order[:n_left][~is_reduced][:n]
        fresh = fresh[likely[fresh] > _UNLIKELY]
        if not len(exact) and not len(fresh):  # nothing is likely, and yet the bound is not met
            exact = order[:n]
        self._chosen.flat[fresh] = True
        return Request(np.sort(exact), np.sort(fresh))

    def _search(self, k: int) -> Found:
        """One class: its cells, the bound, and how likely each cell is among the k."""
        logit, others = self.cells.planes(k)
        values = logit if self.kind == "logit" else logit - others
        seen, exact = self.cells.seen, self.cells.exact
        field = fit_field(self._axes, self._chosen, values[self._chosen])
        after = field.posterior(seen, values[seen][None], field.draws(self._n_draws, self._own_random()))
        even = np.ones(self.shape)
        noise = self._noise(k, even)
        wider = np.sqrt(max(1.0, self._audited(field, values, even, noise or 0.0)))
        assert after.draws is not None
        maps = after.means[0] + wider * (after.draws - after.means[0])
        if noise:
            maps = maps + noise * np.random.default_rng([self._seed, 2]).standard_normal(maps.shape) * ~exact
        best = np.sort(values[exact])[: self.k]
        limit = best[-1]
        # A cell not computed exactly that lies below the k-th best computed one takes its place.
        missed = np.minimum((maps[:, ~exact] < limit).sum(axis=1), self.k)
        bound = float(np.quantile(1.0 - missed / self.k, 1 - self.goal.confidence, method="lower"))
        if len(best) < self.k:
            bound = 0.0
        # The exact cells may not be the best yet: what is seen in the reduced precision sets the limit too.
        limit = min(limit, float(np.sort(values[seen])[: self.k][-1]))
        deviation = np.sqrt(after.variance * wider**2 + (0.0 if noise is None else noise**2) * ~exact)
        gain = np.where(deviation > 0, (limit - after.means[0]) / np.where(deviation > 0, deviation, 1.0), -np.inf)
        known = np.where(exact, logit, np.nan), np.where(exact, others, np.nan)
        is_clear = noise is not None and noise < float(values[seen].std())
        return Found(Estimate(*known, bound), gain, field, float(is_clear))

    def update(self) -> None:
        """Judge every class by the cells seen."""
        if self.cells.exact.all():
            super().update()
            return
        found = [self._search(k) for k in range(self.cells.n_classes)]
        if self.reduced is not None and min(each.reachable for each in found) < 1:
            self.forsake_reduced()
            return
        self.estimates = [each.estimate for each in found]
        # Of the classes that are not done, whichever holds a cell likeliest says that it comes next.
        left = [each for each in found if each.estimate.bound < 1.0] or found
        self._gain = np.max([each.gain for each in left], axis=0)
        self._field = left[0].field
        self.history.append((self._share(), self.worst))
