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

Where a reduced precision is at hand, the lattice and all later cells are computed in it, and the audit's cells both
ways: their differences say how large rounding errors are (`noise`), which the drawn maps carry too. If rounding alone
puts the target out of reach, everything starts again without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from obeql.executor.refine.kriging import Axes, Field, Posterior, fit_field, select_spread
from obeql.executor.refine.observed import Observed
from obeql.executor.refine.quality import constant_below, quality_of
from obeql.planner.grid import WindowGrid
from obeql.planner.refinement import REDUCED_AUDIT, audit_size
from obeql.planner.scores import ScoreKind, score_of

__all__ = ["NOTHING", "Estimate", "Found", "Goal", "Reduced", "Refiner", "Request"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Share of the cells in the first lattice.
_FIRST_SHARE = 0.07
#: Share of all cells that one level adds: at least and at most, in general and where cells cost little more than
#: estimating, which is what a level costs; between them, so many times what a level costs.
_LEAST_LEVEL, _MOST_LEVEL = (0.03, 0.12), (0.10, 0.25)
_LEAST_TIMES, _MOST_TIMES = 2.0, 6.0
#: Estimating may cost this share of computing all cells; then the rest is computed, but not before two levels.
_MOST_ESTIMATING = 0.1
#: Beyond this share of cells computed the rest is computed too.
_GIVE_UP_SHARE = 0.6
#: Cells of the audit, and of the lattice, where there is time for hardly any.
_TINY_AUDIT = 12
#: Quality that a reduced precision must allow where no target is asked for.
_LEAST_REDUCED = 0.5
_N_DRAWS = 128
#: Levels that the error probability of the audit is shared among (Bonferroni); most maps take fewer.
_LOOKS = 4
#: Standard normal quantiles that stand for a cell's distribution.
_SCORES = np.array([NormalDist().inv_cdf((k + 0.5) / 15) for k in range(15)])


NOTHING: Ints = np.empty(0, np.int64)
_NO_SQUARES: Floats = np.empty(0)


@dataclass(frozen=True, slots=True)
class Goal:
    """The quality asked for: `target` of `metric`, to be reached at `confidence`; None: as good as time allows."""

    metric: str
    confidence: float
    target: float | None = None


@dataclass(frozen=True, slots=True)
class Reduced:
    """A reduced precision: what one of its cells costs, in exact ones; `whole`: all cells are computed at once."""

    cost: float
    whole: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Windows to compute next, sorted flat numbers (n,): `exact` in the run's precision, `reduced` in the other."""

    exact: Ints
    reduced: Ints

    @property
    def empty(self) -> bool:
        return not len(self.exact) and not len(self.reduced)


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A map as known so far: float64 planes (rows, cols) `logit` and `others`, exact where computed; and its bound."""

    logit: Floats
    others: Floats
    bound: float


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What is known of one class's map, what a cell more would gain, and the bound that `reduced` could reach."""

    estimate: Estimate
    gain: Floats
    field: Field
    reachable: float


class Refiner:
    """One grid over one image: cells computed so far, for every class asked, and what follows from them.

    `n_classes` maps are refined together, with the same cells. `cost` (rows, cols) is what a cell costs, in any
    unit. `level_cost` is what estimating once costs, as a share of computing all cells. The same seed, cells and goal
    lead to the same choices. `most`, where it is given, is what may be spent, in exact cells.
    """

    def __init__(
        self,
        grid: WindowGrid,
        kind: ScoreKind,
        n_classes: int,
        goal: Goal,
        seed: int,
        cost: Floats | None = None,
        reduced: Reduced | None = None,
        level_cost: float = 0.0,
    ) -> None:
        self.shape = grid.shape
        self.goal = goal
        self.kind = kind
        self.reduced = reduced
        self.cells = Observed(self.shape, n_classes)
        self._seed = seed
        self._n_draws = _N_DRAWS
        self._level_cost = level_cost
        self._cost = np.ones(self.shape) if cost is None else cost / cost.mean()
        self._axes = Axes(np.asarray(grid.rows.starts) / grid.patch[0], np.asarray(grid.cols.starts) / grid.patch[1])
        n = self.shape[0] * self.shape[1]
        #: all cells in random order, drawn before anything else: the audit's come first
        self._order: Ints = np.random.default_rng([seed, 0]).permutation(n)
        #: the cells that measure the quality, and those of them that are computed in both precisions
        self._is_audit = np.zeros(self.shape, bool)
        self._is_pair = np.zeros(self.shape, bool)
        #: cells the field is fitted to
        self._chosen = np.zeros(self.shape, bool)
        #: share of cells seen and the worst bound, level by level
        self.history: list[tuple[float, float]] = []
        self.estimates: list[Estimate] = []
        self._gain = np.ones(self.shape)
        #: whether some map has not varied at all so far
        self._is_flat = False
        self._field: Field | None = None

    # ---- windows to compute ----------------------------------------------------------------------------------

    def first(self, most: int | None = None) -> Request:
        """The windows of the first level: a lattice over the whole grid, and the audit; about `most`, if it is few."""
        n = self.cells.exact.size
        price = 1.0 if self.reduced is None else self.reduced.cost
        share = _FIRST_SHARE
        n_audit = audit_size(n)
        if most is not None and most < price * share * n + n_audit:
            n_audit = min(n_audit, max(_TINY_AUDIT, most // 4))
            share = max((most - n_audit) / price, _TINY_AUDIT) / n
        self._is_audit[:] = self._is_pair[:] = False
        self._is_pair.flat[self._order[:n_audit]] = True
        self._is_audit.flat[self._order[: n_audit * (1 if self.reduced is None else REDUCED_AUDIT)]] = True
        # Cells that are known already are as good as chosen: they were not picked by their values.
        self._chosen |= self.cells.exact & ~self._is_audit
        if self.reduced is not None and self.reduced.whole and (most is None or most >= price * n):
            self._chosen[:] = True
        else:
            step = max(2, round(share**-0.5))
            self._chosen[np.ix_(*(_lattice(size, step) for size in self.shape))] = True
        return self._request(self._chosen | self._is_audit)

    def _request(self, wanted: Flags) -> Request:
        """Cells of `wanted` that are not known well enough: pairs both ways, the others as is cheaper."""
        exact = wanted & ~self.cells.exact
        if self.reduced is None:
            return Request(np.flatnonzero(exact), NOTHING)
        reduced = wanted & ~self.cells.reduced & (~self.cells.exact | self._is_pair)
        return Request(np.flatnonzero(exact & self._is_pair), np.flatnonzero(reduced))

    def next(self, most: int | None = None) -> Request:
        """The windows of the next level, for at most `most`; none when the map is done."""
        if self.done or (most is not None and most <= 0):
            return Request(NOTHING, NOTHING)
        if self._field is None:  # all begins again, without the reduced precision
            return self.first(most)
        seen = self.cells.seen
        if seen.all():  # rounding is all that is left
            rest = np.flatnonzero(~self.cells.exact)
            return Request(rest if most is None else rest[:most], NOTHING)
        affordable = None if most is None else int(most / (1.0 if self.reduced is None else self.reduced.cost))
        share, wanted = self._share(), self._wanted_share()
        is_far = self.goal.target is not None and (wanted > _GIVE_UP_SHARE or self._has_estimated_enough())
        if self._is_flat or is_far or share > _GIVE_UP_SHARE:
            n_left = int((~seen).sum())
            if affordable is None or affordable >= n_left:
                return self._request(np.ones(self.shape, bool))
        least = float(np.clip(_LEAST_TIMES * self._level_cost, *_LEAST_LEVEL))
        largest = float(np.clip(_MOST_TIMES * self._level_cost, *_MOST_LEVEL))
        add = round(seen.size * float(np.clip(wanted - share, least, largest)))
        add = max(1, add if affordable is None else min(add, affordable))
        chosen = select_spread(self._gain / self._cost, self._chosen, add, self._field)
        # A cell of the audit that was chosen is known already; it is fitted to from now on and audits no more.
        self._chosen.flat[chosen] = True
        request = self._request(self._chosen)
        return request if not request.empty else self._request(np.ones(self.shape, bool))

    def _has_estimated_enough(self) -> bool:
        return len(self.history) >= max(2.0, _MOST_ESTIMATING / max(self._level_cost, 1e-9))

    @property
    def n_audit(self) -> int:
        """Cells drawn at random to measure the quality."""
        return int(self._is_audit.sum())

    def _share(self) -> float:
        return float(self.cells.seen.mean())

    @property
    def worst(self) -> float:
        """The least bound of all maps."""
        return min((each.bound for each in self.estimates), default=-np.inf)

    @property
    def done(self) -> bool:
        """Whether nothing is left to compute for the goal."""
        if self.cells.exact.all():
            return True
        return bool(self.estimates) and self.goal.target is not None and self.worst >= self.goal.target

    def _wanted_share(self) -> float:
        """The share of cells at which the bound should reach the target, by how fast it rose so far."""
        target = self.goal.target
        share, bound = self.history[-1]
        if target is None or target >= 1:
            return share + _MOST_LEVEL[1] if target is None else 1.0
        # 1 - bound falls about exponentially with the share of cells computed.
        slope = 4.5
        if len(self.history) > 1:
            first_share, first_bound = self.history[max(0, len(self.history) - 3)]
            fallen = np.log(max(1e-9, 1 - first_bound) / max(1e-9, 1 - bound))
            slope = 0.5 * slope + 0.5 * max(0.1, float(fallen) / (share - first_share))
        return share + float(np.log(max(1e-9, 1 - bound) / (1 - target))) / slope

    # ---- what follows ----------------------------------------------------------------------------------------

    def update(self) -> None:
        """Reconstruct every map from the cells seen and bound its quality."""
        cells = self.cells
        if cells.exact.all():
            self.estimates = [Estimate(*cells.planes(k), 1.0) for k in range(cells.n_classes)]
            self.history.append((1.0, 1.0))
            return
        self._is_flat = False
        found = [self._estimated(k) for k in range(cells.n_classes)]
        least = _LEAST_REDUCED if self.goal.target is None else self.goal.target
        if self.reduced is not None and min(each.reachable for each in found) < least:
            self.forsake_reduced()
            return
        self.estimates = [each.estimate for each in found]
        # The class that is furthest from its target says which cells come next.
        worst = min(found, key=lambda each: each.estimate.bound)
        self._gain, self._field = worst.gain, worst.field
        self.history.append((self._share(), self.worst))

    def forsake_reduced(self) -> None:
        """Begin again without the reduced precision: its errors are too large for the goal."""
        self.reduced = None
        self.cells.forget_reduced()
        self._chosen[:] = False
        self._field = None
        self.history.clear()
        # All that is known until then are the audit's cells.
        self.estimates = []
        for k in range(self.cells.n_classes):
            logit, others = (np.where(np.isnan(x), np.nanmean(x), x) for x in self.cells.planes(k))
            self.estimates.append(Estimate(logit, others, 0.0))

    def _estimated(self, k: int) -> Found:
        logit, others = self.cells.planes(k)
        values = logit if self.kind == "logit" else logit - others
        seen = self.cells.seen
        shown = self._scored(values[seen])[None, None]
        if np.ptp(shown) <= constant_below(shown)[0]:
            # Nothing varies so far: what might vary elsewhere cannot be told from these cells.
            self._is_flat = True
        field = fit_field(self._axes, self._chosen, values[self._chosen])
        known = np.stack([values[seen], logit[seen]])
        after = field.posterior(seen, known, field.draws(self._n_draws, self._own_random()))
        best = self._scored(after.means[0])
        weights = _weights(self.goal.metric, best, self._error(after.means[0], after.variance))
        noise = self._noise(k, weights)
        wider = np.sqrt(self._audited(field, values, weights, noise or 0.0))
        bound, reachable = self._bounds(best, after, wider, noise)
        reconstructed = after.means[1]
        other = others if self.kind == "logit" else reconstructed - after.means[0]
        if self.kind == "logit":
            other = field.posterior(seen, np.stack([values[seen], others[seen]])).means[1]
        planes = np.where(seen, logit, reconstructed), np.where(seen, others, other)
        # What comes next is chosen without regard to the audit, so that the audit's cells lie as others do.
        before = field.posterior(self._chosen, values[self._chosen][None])
        gain = weights * self._error(before.means[0], before.variance)
        return Found(Estimate(*planes, 0.0 if self._is_flat else bound), gain, field, reachable)

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

    def _audited(self, field: Field, values: Floats, weights: Floats, noise: float) -> float:
        """How many times larger squared errors may be than the field says: an upper confidence limit, at least 1/4."""
        seen = self.cells.seen
        audited = self._is_audit & ~self._chosen & seen
        if not audited.any():
            return 1.0
        # An audited cell, predicted from all others, is like a cell that was not computed: both lie at random.
        residuals, variances = field.left_out(seen, values[seen])
        at = audited[seen]
        mean, variance = values[audited] - residuals[at], variances[at]
        expected = weights[audited] * self._error(mean, variance + noise**2)
        error = self._scored(values[audited]) - self._scored(mean)
        return self._upper_ratio(expected, weights[audited] * error * error, field.squares)

    def _noise(self, k: int, weights: Floats) -> float | None:
        """The standard deviation of reduced values about exact ones: an upper confidence limit; 0 without any.

        None where it cannot be told.
        """
        if self.reduced is None:
            return 0.0
        pairs = self.cells.pairs(k, self._is_pair)
        if pairs is None:
            return None
        at, exact, reduced = pairs
        true, rounded = (x[0] if self.kind == "logit" else x[0] - x[1] for x in (exact, reduced))
        variance = float(np.mean((true - rounded) ** 2)) * len(at) / (len(at) - 1)
        expected = weights.flat[at] * self._error(true, np.full(len(at), variance))
        error = self._scored(true) - self._scored(rounded)
        return float(np.sqrt(variance * self._upper_ratio(expected, weights.flat[at] * error * error)))

    def _upper_ratio(self, expected: Floats, found: Floats, squares: Floats = _NO_SQUARES) -> float:
        """The upper confidence limit, at least 1/4, of how many times larger squared errors are than expected.

        `expected` and `found` (n,); `squares` (m,) are other squared errors over their variances, which tell with
        these how common large ones are.
        """
        total = float(expected.sum())
        if total <= 0.0:
            return 1.0
        ratio = float(found.sum()) / total
        share = expected / total
        squares = np.concatenate([squares, found[expected > 0] / expected[expected > 0]])
        # Relative variance of one squared error: 2 for a normal distribution, more where large errors are more common.
        tail = max(2.0, float(squares.var() / max(squares.mean() ** 2, 1e-30)))
        freedom = 2.0 / (float((share * share).sum()) * tail)
        # The bound is looked at after every level, and one of the looks may be lucky.
        return max(0.25, ratio / _lower_chi_square(freedom, (1 - self.goal.confidence) / _LOOKS))

    def _bounds(self, best: Floats, after: Posterior, wider: float, noise: float | None) -> tuple[float, float]:
        """The lower bound on the quality of `best`, and the one that all cells in the reduced precision would have.

        The second is 1 without such a precision, 0 where its errors cannot be told.
        """
        assert after.draws is not None
        maps = after.means[0] + wider * (after.draws - after.means[0])
        rounding = np.zeros(1)
        if noise:
            random = np.random.default_rng([self._seed, 2])
            rounding = noise * random.standard_normal(maps.shape) * ~self.cells.exact
        low = 1 - self.goal.confidence
        quality = quality_of(self.goal.metric, self._scored(maps + rounding), best)
        reachable = 0.0 if noise is None else 1.0
        if noise:
            one = quality_of(self.goal.metric, self._scored(maps[0] + rounding), self._scored(maps[0]))
            reachable = float(np.quantile(one, low, method="lower"))
        return float(np.quantile(quality, low, method="lower")), reachable


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
