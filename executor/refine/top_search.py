"""Find the k most important cells with few computed ones.

Like `refiner`, whose field and audit it uses, with another question: can a cell that was not computed still be among
the k of largest importance? Cells where that is likely come next; the search ends when, in as many of the drawn maps
as the confidence asks for, no cell that was not computed is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from obeql.executor.refine.kriging import fit_field
from obeql.executor.refine.refiner import Estimate, Goal, Refiner
from obeql.planner.grid import WindowGrid
from obeql.planner.scores import ScoreKind

__all__ = ["TopSearch"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Share of all cells that one level adds.
_LEVEL_SHARE = 0.03


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
    ) -> None:
        super().__init__(grid, kind, n_classes, Goal("top_cells", confidence, 1.0), seed, cost)
        self.k = min(k, grid.n_windows)

    def next(self, most: int | None = None) -> Ints:
        """The windows of the next level: those most likely to be among the k; none when all are found."""
        if self.done:
            return np.empty(0, np.int64)
        likely = np.where(self.known, -np.inf, self._gain).ravel()
        n = max(1, round(_LEVEL_SHARE * self.known.size))
        n = n if most is None else min(n, most)
        order = np.argsort(-likely, kind="stable")[: min(n, int((~self.known).sum()))]
        self._chosen.flat[order] = True
        return np.sort(order)

    def _search(self, logit: Floats, others: Floats) -> tuple[Estimate, Floats]:
        """One class: its cells, the bound, and how likely each cell is among the k."""
        values = logit if self.kind == "logit" else logit - others
        field = fit_field(self._axes, self._chosen, values[self._chosen])
        before = field.posterior(self._chosen, values[self._chosen][None])
        after = field.posterior(self.known, values[self.known][None], field.draws(self._n_draws, self._own_random()))
        wider = np.sqrt(max(1.0, self._audited(field, before, values, np.ones(self.shape))))
        assert after.draws is not None
        maps = after.means[0] + wider * (after.draws - after.means[0])
        least = np.partition(values[self.known], min(self.k, int(self.known.sum())) - 1)
        limit = least[min(self.k, len(least)) - 1]
        unknown = maps[:, ~self.known]
        # A cell not computed that lies below the k-th best computed one takes its place.
        missed = np.minimum((unknown < limit).sum(axis=1), self.k)
        bound = float(np.quantile(1.0 - missed / self.k, 1 - self.goal.confidence, method="lower"))
        if len(least) < self.k:
            bound = 0.0
        deviation = np.sqrt(after.variance) * wider
        gain = np.where(deviation > 0, (limit - after.means[0]) / np.where(deviation > 0, deviation, 1.0), -np.inf)
        return Estimate(logit, others, bound), gain

    def update(self) -> None:
        """Judge every class by the known cells."""
        if self.known.all():
            super().update()
            return
        found = [self._search(z, o) for z, o in zip(self._logit, self._others, strict=True)]
        self.estimates = [estimate for estimate, _ in found]
        # Of the classes that are not done, whichever holds a cell likeliest says that it comes next.
        gains = [gain for estimate, gain in found if estimate.bound < 1.0] or [gain for _, gain in found]
        self._gain = np.max(gains, axis=0)
        self.history.append((self._share(), self.worst))
