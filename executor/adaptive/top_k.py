"""Find the k most important cells with few computed ones.

Like `sampler`, whose field and audit it uses, with another question: can a cell that was not computed still be among
the k of largest importance? Cells that tell most of those that may come next, spread out, and once few are left in
question, these. The search ends when, in as many of the drawn maps as the confidence asks for, no cell that was not
computed is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from obeql.executor.adaptive.estimator import Estimate, Found
from obeql.executor.adaptive.gaussian_process import select_spread
from obeql.executor.adaptive.problem import NOTHING, Problem, Request
from obeql.executor.adaptive.sampler import Sampler
from obeql.executor.adaptive.trend import fit_trend
from obeql.planner.scores import OF_LOGIT

__all__ = ["TopKSearch"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Share of all cells that the first level adds at most: so many times what a level costs beside its cells, but no less
#: and no more than these; each later one may add more.
_LEVEL_SHARE, _MOST_SHARE, _TIMES, _GROWTH = 0.03, 0.1, 1.0, 1.4
#: Share of all cells that a level adds at least, and how many times as many cells as are in question.
_LEAST_SHARE, _MARGIN = 0.01, 1.5
#: Cells that one level computes exactly, at most: this many or 2 k.
_FEWEST_EXACT = 20
#: Standard deviations beyond the k-th best at which a cell is no candidate.
_UNLIKELY = -4.0
#: What `quality_of_pairs` is where rounding errors vary as much as the map.
_LEAST_PAIRED = 2 / 3
#: Standard deviations up to which a cell is a good candidate, and the share of these among all cells beyond which all
#: are computed if their neighbours tell nothing of them.
_LIKELY, _GIVE_UP_SHARE = -2.0, 0.5
#: Share of the variance of cells that the others leave unexplained where no cell tells anything of its neighbours.
_UNEXPLAINED = 0.7
_LESS_THAN_ALL = 1.0
#: What a search may waste, as a share of computing all exactly; more with a reduced precision, whose cells are waste by
#: that measure, and where at most a share of all cells is in question, as such searches end soon.
_MOST_WASTE, _MOST_OTHERWISE, _NEARLY_DONE = 0.1, 0.2, 0.2
#: What a cell in the reduced precision may cost, in exact ones: those that matter are computed exactly as well, and
#: what it cost is lost where a search fails.
_DEAR = 0.4


class TopKSearch(Sampler):
    """A `Sampler` that looks for the `k` cells of largest importance, that is of least score, of every class.

    Estimates hold NaN where a cell was not computed. Their bound is the share of the k that is right at the
    confidence: the lower quantile over drawn maps. The problem's goal is `top_cells` with a target of 1.
    """

    def __init__(self, problem: Problem, k: int) -> None:
        # Scores rank cells as what they are made of does, whose errors are more alike over the map.
        super().__init__(replace(problem, kind="logit" if problem.kind in OF_LOGIT else "log_odds"))
        self.k = min(k, problem.grid.n_windows)
        self.has_reduced = 0.0 < problem.prices.reduced <= _DEAR
        #: how likely each cell is among the k: standard deviations from the k-th best, (*shape)
        self._likely: Floats = np.ones(self.shape)
        #: how many cells, the likeliest first, would be enough if maps were as they are estimated, of each class
        self._needed: Ints = np.zeros(problem.n_classes, np.int64)

    def _level(self, worst: Found, affordable: int | None, late: Ints) -> Request:
        """Return the cells that may be among the k: exactly if they are known in the reduced precision already.

        Where few are in question those, else some that tell most of the others.
        """
        if self._is_flat and self._is_too_even and (rest := self._rest(affordable)) is not None:
            return rest
        cells, chosen, n_cells = self.cells, self._sample.chosen, self._likely.size
        left = ~cells.exact
        share = max(_LEVEL_SHARE, min(_MOST_SHARE, _TIMES * self._level_price)) * _GROWTH ** (len(self.history) - 1)
        n_most = round(share * n_cells)
        n_needed = round(max(_MARGIN * int(self._needed.max()), _LEAST_SHARE * n_cells))
        n = max(1, min(n_most, n_needed))
        n = n if affordable is None else min(n, affordable)
        unknown = left & ~cells.reduced if self.has_reduced else left
        if n_needed <= n_most:
            fresh = self._likeliest(unknown, n)
        else:
            fresh = select_spread(_normal_share(self._likely), ~unknown, n, worst.field)
        if not self.has_reduced:
            chosen.flat[fresh] = True
            return Request(np.union1d(fresh, late), NOTHING)
        exact = self._likeliest(left & cells.reduced, max(_FEWEST_EXACT, 2 * self.k))
        exact, fresh = (some[self._likely.flat[some] > _UNLIKELY] for some in (exact, fresh))
        if not len(exact) and not len(fresh):  # nothing is likely, and yet the bound is not met
            exact = self._likeliest(left, n)
        chosen.flat[fresh] = True
        return Request(np.sort(exact), np.union1d(fresh, late))

    def _likeliest(self, among: Flags, n: int) -> Ints:
        """Return the n cells of `among` (*shape) that are likeliest among the k, flat numbers."""
        places = np.flatnonzero(among)
        first: Ints = places[np.argsort(-self._likely.flat[places], kind="stable")[:n]]
        return first

    @property
    def _is_too_even(self) -> bool:
        """Return whether too many cells may well be among the k; the first look, at hardly any cell, cannot tell."""
        share = float((~self.cells.exact & (self._likely > _LIKELY)).mean())
        return len(self.history) > 1 and share > _GIVE_UP_SHARE

    @property
    def _is_assured(self) -> bool:
        """Return whether all cells in the reduced precision, and exact ones as may be needed, cost less than all."""
        is_cheap = self.problem.prices.reduced + _GIVE_UP_SHARE < _LESS_THAN_ALL
        return is_cheap and super()._is_assured and not self._is_too_even

    @property
    def _audit_times(self) -> int:
        """In the run's precision few: what matters to a search are cells near the best ones."""
        return super()._audit_times if self.has_reduced else 1

    @property
    def _most_waste(self) -> float:
        is_near = bool(self.history) and self._needed.max() <= _NEARLY_DONE * self._likely.size
        return _MOST_OTHERWISE if self.has_reduced or is_near else _MOST_WASTE

    @property
    def _least_paired(self) -> float:
        return _LEAST_PAIRED

    def _found(self, k: int) -> Found:
        """Return one class: its cells, the bound, and how likely each cell is among the k as its gain."""
        estimator, cells, sample = self._estimator, self.cells, self._sample
        logit, others = cells.planes(k)
        values = estimator.modelled(logit, others)
        seen, exact = cells.seen, cells.exact
        trend = fit_trend(cells, sample.chosen, k, values, self.problem.kind in OF_LOGIT)
        left = trend.less(values)
        field = estimator.fitted(cells, sample.chosen, left)
        after = field.posterior(seen, left[seen][None], estimator.draws(field)).plus(trend.modelled)
        even = np.ones(self.shape)
        noise = estimator.noise(cells, sample, k, even) if self.has_reduced else 0.0
        wider = np.sqrt(max(1.0, estimator.audited(cells, sample, field, values, even, noise or 0.0, trend).limit))
        assert after.draws is not None
        maps = after.means[0] + wider * (after.draws - after.means[0])
        if noise:
            maps = maps + estimator.rounding_draws(noise, cells)
        best = np.sort(values[exact])[: self.k]
        limit = best[-1]
        # A cell not computed exactly that lies below the k-th best computed one takes its place.
        is_missed = (maps < limit) & ~exact
        missed = np.minimum(is_missed.reshape(len(maps), -1).sum(axis=1), self.k)
        bound = float(np.quantile(1.0 - missed / self.k, 1 - self.goal.confidence, method="lower"))
        if len(best) < self.k:
            bound = 0.0
        # The exact cells may not be the best yet: what is seen in the reduced precision sets the limit too.
        limit = min(limit, float(np.sort(values[seen])[: self.k][-1]))
        deviation = np.sqrt(after.variance * wider**2 + (0.0 if noise is None else noise**2) * ~exact)
        sure = np.where(~exact & (after.means[0] < limit), np.inf, -np.inf)
        gain = np.divide(limit - after.means[0], deviation, out=sure, where=deviation > 0)
        self._needed[k] = max(self._enough(is_missed, gain), self.k - len(best)) if bound < 1.0 else 0
        known = np.where(exact, logit, np.nan), np.where(exact, others, np.nan)
        spread = float(values[seen].std())
        is_clear = noise is not None and noise < spread
        # Like a map that does not vary: from the cells computed nothing follows for the others.
        is_flat = not seen.all() and float(after.variance[~seen].mean()) > _UNEXPLAINED * spread**2
        return Found(Estimate(*known, bound), gain, np.zeros(self.shape), field, float(is_clear), is_flat)

    def _enough(self, is_missed: Flags, gain: Floats) -> int:
        """Return how many cells of largest `gain` (*shape) hold all that are missed, in so many maps as asked."""
        rank = np.empty(gain.size, np.int64)
        rank[np.argsort(-gain.ravel(), kind="stable")] = np.arange(1, gain.size + 1)
        last = np.where(is_missed, rank.reshape(gain.shape), 0).reshape(len(is_missed), -1).max(axis=1)
        return int(np.quantile(last, self.goal.confidence, method="higher"))

    def _look_at(self, found: list[Found]) -> None:
        left = [each for each in found if each.estimate.bound < 1.0] or found
        super()._look_at(left)
        # Of the classes that are not done, whichever holds a cell likeliest says that it comes next.
        self._likely = np.max([each.gain for each in left], axis=0)


def _normal_share(deviations: Floats) -> Floats:
    """Return the share of a normal distribution below so many standard deviations."""
    share: Floats = torch.special.ndtr(torch.from_numpy(deviations)).numpy()
    return share
