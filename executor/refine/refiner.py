"""Decide which windows to compute next, and state how good the map is with those computed so far.

Before: an operator computes the windows it is told to. After: the reconstruction and its bound become a heat map.
Nothing here knows a network.

1. Cells of an audit are drawn at random, by the seed, before anything is known; a coarse lattice is computed with them.
2. A random field is fitted to the chosen cells (the audit's cells aside). It gives each other cell a value and a
   standard deviation (`kriging`).
3. The audit's cells, which had no part in 2, tell how large errors are against those standard deviations, weighted by
   how much an error at a cell costs in quality. The upper confidence limit of that ratio widens the field.
4. Maps drawn from the widened field are what the exact map may be; the bound is a low quantile of their quality.
5. While the bound is below the target, cells are added where the error costs most; where the target is too far, the
   rest is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from obeql.executor.refine.kriging import Axes, Field, Posterior, fit_field, select_spread
from obeql.executor.refine.quality import constant_below, quality_of
from obeql.planner.grid import WindowGrid
from obeql.planner.scores import ScoreKind, score_of

__all__ = ["Estimate", "Goal", "Refiner"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Share of the cells in the first lattice, and in the audit, which has at least and at most so many cells.
_FIRST_SHARE = 0.07
_AUDIT_SHARE, _LEAST_AUDIT, _MOST_AUDIT = 0.021, 24, 200
#: Share of all cells that one level adds, at least and at most.
_LEAST_LEVEL, _MOST_LEVEL = 0.03, 0.10
#: Beyond this share of cells computed the rest is computed too.
_GIVE_UP_SHARE = 0.6
#: Cells of the audit, and of the lattice, where there is time for hardly any.
_TINY_AUDIT = 12
_N_DRAWS = 128
#: Standard normal quantiles that stand for a cell's distribution.
_SCORES = np.array([NormalDist().inv_cdf((k + 0.5) / 15) for k in range(15)])


@dataclass(frozen=True, slots=True)
class Goal:
    """The quality asked for: `target` of `metric`, to be reached at `confidence`; None: as good as time allows."""

    metric: str
    confidence: float
    target: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A map as known so far: float64 planes (rows, cols) `logit` and `others`, exact where computed; and its bound."""

    logit: Floats
    others: Floats
    bound: float


class Refiner:
    """One grid over one image: cells computed so far, for every class asked, and what follows from them.

    `n_classes` maps are refined together, with the same cells. `cost` (rows, cols) is what a cell costs, in any
    unit. The same seed, cells and goal lead to the same choices.
    """

    def __init__(
        self, grid: WindowGrid, kind: ScoreKind, n_classes: int, goal: Goal, seed: int, cost: Floats | None = None
    ) -> None:
        self.shape = grid.shape
        self.goal = goal
        self.kind = kind
        self._seed = seed
        self._n_draws = _N_DRAWS
        self._cost = np.ones(self.shape) if cost is None else cost / cost.mean()
        self._axes = Axes(np.asarray(grid.rows.starts) / grid.patch[0], np.asarray(grid.cols.starts) / grid.patch[1])
        n = self.shape[0] * self.shape[1]
        n_audit = min(n, max(_LEAST_AUDIT, min(_MOST_AUDIT, round(_AUDIT_SHARE * n))))
        #: flat numbers of the cells that measure the quality; drawn before anything else
        self._order: Ints = np.random.default_rng([seed, 0]).permutation(n)[:n_audit]
        self.audit: Ints = np.sort(self._order)
        self._is_audit = np.zeros(self.shape, bool)
        #: cells the field is fitted to
        self._chosen = np.zeros(self.shape, bool)
        self.known = np.zeros(self.shape, bool)
        self._logit = np.full((n_classes, *self.shape), np.nan)
        self._others = np.full((n_classes, *self.shape), np.nan)
        #: share of cells known and the worst bound, level by level
        self.history: list[tuple[float, float]] = []
        self.estimates: list[Estimate] = []
        self._gain = np.ones(self.shape)
        #: whether some map has not varied at all so far
        self._is_flat = False
        self._field: Field | None = None

    # ---- cells in, windows out -------------------------------------------------------------------------------

    def add(self, windows: Ints, logit: Floats, others: Floats) -> None:
        """Take the computed windows: flat numbers (n,), `logit` and `others` (n, classes)."""
        rows, cols = np.divmod(windows, self.shape[1])
        self._logit[:, rows, cols] = logit.T
        self._others[:, rows, cols] = others.T
        self.known[rows, cols] = True

    def first(self, most: int | None = None) -> Ints:
        """The windows of the first level: a lattice over the whole grid, and the audit; about `most`, if it is few."""
        share = _FIRST_SHARE
        if most is not None and most < share * self.known.size + len(self.audit):
            self.audit = np.sort(self._order[: max(_TINY_AUDIT, most // 4)])
            share = max(most - len(self.audit), _TINY_AUDIT) / self.known.size
        self._is_audit.flat[self.audit] = True
        step = max(2, round(share**-0.5))
        # Cells that are known already are as good as chosen: they were not picked by their values.
        self._chosen |= self.known & ~self._is_audit
        self._chosen[np.ix_(*(_lattice(size, step) for size in self.shape))] = True
        return np.flatnonzero((self._chosen | self._is_audit) & ~self.known)

    def next(self, most: int | None = None) -> Ints:
        """The windows of the next level, at most `most`; none when the map is done."""
        if self.done:
            return np.empty(0, np.int64)
        n = self.known.size
        share = self._share()
        wanted = self._wanted_share()
        if self._is_flat or (self.goal.target is not None and wanted > _GIVE_UP_SHARE) or share > _GIVE_UP_SHARE:
            rest = np.flatnonzero(~self.known)
            if most is None or most >= len(rest):
                return rest
        add = round(n * float(np.clip(wanted - share, _LEAST_LEVEL, _MOST_LEVEL)))
        assert self._field is not None
        add = max(1, add if most is None else min(add, most))
        chosen = select_spread(self._gain / self._cost, self._chosen, add, self._field)
        self._chosen.flat[chosen] = True
        # A cell of the audit that was chosen is known already; it is fitted to from now on and audits no more.
        fresh = np.sort(chosen[~self.known.flat[chosen]])
        return fresh if len(fresh) else np.flatnonzero(~self.known)[:add]

    def _share(self) -> float:
        return float(self.known.mean())

    @property
    def worst(self) -> float:
        """The least bound of all maps."""
        return min((each.bound for each in self.estimates), default=-np.inf)

    @property
    def done(self) -> bool:
        """Whether nothing is left to compute for the goal."""
        if self.known.all():
            return True
        return bool(self.estimates) and self.goal.target is not None and self.worst >= self.goal.target

    def _wanted_share(self) -> float:
        """The share of cells at which the bound should reach the target, by how fast it rose so far."""
        target = self.goal.target
        share, bound = self.history[-1]
        if target is None or target >= 1:
            return share + _MOST_LEVEL if target is None else 1.0
        # 1 - bound falls about exponentially with the share of cells computed.
        slope = 4.5
        if len(self.history) > 1:
            first_share, first_bound = self.history[max(0, len(self.history) - 3)]
            fallen = np.log(max(1e-9, 1 - first_bound) / max(1e-9, 1 - bound))
            slope = 0.5 * slope + 0.5 * max(0.1, float(fallen) / (share - first_share))
        return share + float(np.log(max(1e-9, 1 - bound) / (1 - target))) / slope

    # ---- what follows ----------------------------------------------------------------------------------------

    def update(self) -> None:
        """Reconstruct every map from the known cells and bound its quality."""
        if self.known.all():
            self.estimates = [Estimate(z, o, 1.0) for z, o in zip(self._logit, self._others, strict=True)]
            self.history.append((1.0, 1.0))
            return
        self._is_flat = False
        found = [self._estimated(z, o) for z, o in zip(self._logit, self._others, strict=True)]
        self.estimates = [estimate for estimate, _, _ in found]
        # The class that is furthest from its target says which cells come next.
        _, self._gain, self._field = min(found, key=lambda each: each[0].bound)
        self.history.append((self._share(), self.worst))

    def _estimated(self, logit: Floats, others: Floats) -> tuple[Estimate, Floats, Field]:
        values = logit if self.kind == "logit" else logit - others
        field = fit_field(self._axes, self._chosen, values[self._chosen])
        before = field.posterior(self._chosen, values[self._chosen][None])
        known = np.stack([values[self.known], logit[self.known]])
        after = field.posterior(self.known, known, field.draws(self._n_draws, self._own_random()))
        best = self._scored(after.means[0])
        weights = _weights(self.goal.metric, best, self._error(after.means[0], after.variance))
        wider = np.sqrt(self._audited(field, before, values, weights))
        bound = self._bound(best, after, wider)
        seen = self._scored(values[self.known])[None, None]
        if np.ptp(seen) <= constant_below(seen)[0]:
            # Nothing varies so far: what might vary elsewhere cannot be told from these cells.
            self._is_flat, bound = True, 0.0
        reconstructed = after.means[1]
        other = others if self.kind == "logit" else reconstructed - after.means[0]
        if self.kind == "logit":
            other = field.posterior(self.known, np.stack([values[self.known], others[self.known]])).means[1]
        planes = np.where(self.known, logit, reconstructed), np.where(self.known, others, other)
        gain = weights * self._error(before.means[0], before.variance)
        return Estimate(*planes, bound), gain, field

    def _own_random(self) -> np.random.Generator:
        """Random numbers for draws; the same at every level and for every class."""
        return np.random.default_rng([self._seed, 1])

    def _scored(self, values: Floats) -> Floats:
        """Scores of modelled values: log-odds, or logits where the score is the logit."""
        return values if self.kind in ("logit", "log_odds") else score_of(self.kind, values, np.zeros_like(values))

    def _error(self, mean: Floats, variance: Floats) -> Floats:
        """Expected squared errors of scores where the modelled value has this mean and variance."""
        if self.kind in ("logit", "log_odds"):
            return variance
        drawn = self._scored(mean + np.sqrt(variance) * _SCORES.reshape(-1, *(1,) * mean.ndim))
        error: Floats = np.mean((drawn - self._scored(mean)) ** 2, axis=0)
        return error

    def _audited(self, field: Field, before: Posterior, values: Floats, weights: Floats) -> float:
        """How many times larger squared errors may be than the field says: an upper confidence limit, at least 1/4."""
        audited = self._is_audit & ~self._chosen
        expected = weights[audited] * self._error(before.means[0][audited], before.variance[audited])
        error = self._scored(values[audited]) - self._scored(before.means[0][audited])
        found = weights[audited] * error * error
        total = float(expected.sum())
        if total <= 0.0:
            return 1.0
        ratio = float(found.sum()) / total
        share = expected / total
        squares = np.concatenate([field.squares, found[expected > 0] / expected[expected > 0]])
        # Relative variance of one squared error: 2 for a normal distribution, more where large errors are more common.
        tail = max(2.0, float(squares.var() / max(squares.mean() ** 2, 1e-30)))
        freedom = 2.0 / (float((share * share).sum()) * tail)
        return max(0.25, ratio / _lower_chi_square(freedom, 1 - self.goal.confidence))

    def _bound(self, best: Floats, after: Posterior, wider: float) -> float:
        assert after.draws is not None
        maps = self._scored(after.means[0] + wider * (after.draws - after.means[0]))
        quality = quality_of(self.goal.metric, maps, best)
        return float(np.quantile(quality, 1 - self.goal.confidence, method="lower"))


def _lattice(size: int, step: int) -> Ints:
    """Places along one axis about `step` apart, the first and the last included."""
    n = max(2, round((size - 1) / step) + 1) if size > 1 else 1
    return np.unique(np.round(np.linspace(0, size - 1, n)).astype(np.int64))


def _lower_chi_square(freedom: float, level: float) -> float:
    """The `level` quantile of chi-square over its degrees of freedom (Wilson and Hilferty 1931), at least 1/50."""
    spread = 2.0 / (9.0 * freedom)
    root = 1.0 - spread + NormalDist().inv_cdf(level) * spread**0.5
    return max(0.02, root) ** 3 if root > 0.2715 else 0.02


def _weights(metric: str, best: Floats, error: Floats) -> Floats:
    """What a squared error at each cell costs in quality, in any unit: (rows, cols).

    For SSIM the cost of an error in a window is about error^2 / (2 variance + error^2 + C2), and a cell lies in as
    many as 49 windows.
    """
    side = min(7, min(best.shape) - (min(best.shape) + 1) % 2)
    if metric != "ssim" or side < 3:
        return np.ones(best.shape)
    spread = float(np.ptp(best)) or 1.0
    means = _sums(best, side) / side**2
    variance = np.maximum(_sums(best * best, side) / side**2 - means * means, 0.0)
    cost = 1.0 / (2 * variance + _sums(error, side) / side**2 + (0.03 * spread) ** 2)
    padded = np.pad(cost, side - 1)
    weights = _sums(padded, side)
    scaled: Floats = weights / weights.mean()
    return scaled


def _sums(plane: Floats, side: int) -> Floats:
    """Sums over all (side, side) windows inside a plane."""
    total = np.cumsum(np.cumsum(np.pad(plane, ((1, 0), (1, 0))), axis=0), axis=1)
    sums: Floats = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return sums
