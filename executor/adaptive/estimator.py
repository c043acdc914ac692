"""Estimate a map from the cells computed so far, and bound how good the estimate is.

Between `observations`, the cells, and `sampler` or `top_k`, which say what comes next. The field is fitted to the
chosen cells (`gaussian_process`), about the `trend` that a proxy's guesses give where there are any; the audit's cells,
which had no part in that, tell how large errors are against its standard deviations, weighted by how much an error at a
cell costs in quality. Maps drawn from the field, widened by the upper confidence limit of that ratio, are what the
exact map may be; the bound is a low quantile of their quality. About a proxy's guesses, which may be wrong in ways that
no field describes, it is what the audit's cells say without the field (`audit.upper_loss`). Cells of a reduced
precision carry rounding errors as large as those of the cells computed both ways, at their upper limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from obeql.executor.adaptive.audit import tail_ratio, upper_loss, upper_ratio
from obeql.executor.adaptive.gaussian_process import Axes, Field, Posterior, fit_field
from obeql.executor.adaptive.map_quality import constant_below, error_weights, quality_of, ssim_losses
from obeql.executor.adaptive.observations import Observations
from obeql.executor.adaptive.problem import Goal, Problem
from obeql.executor.adaptive.trend import Trend, fit_trend
from obeql.planner.scores import AS_IT_IS, OF_LOGIT, score_of

__all__ = ["Audit", "Estimate", "Estimator", "Found", "Sample", "is_sequential"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: Maps drawn from a field; and where only variances are read off them.
_N_DRAWS, _FEW_DRAWS = 128, 32
#: Looks that the error probability of the audit is shared among (Bonferroni); most maps take fewer, searches for cells
#: often five or six.
_LOOKS = 4
#: The same about a proxy's guesses, where the limit assumes no distribution, and so is seldom near what it limits.
_GUESSED_LOOKS = 2
#: Standard normal quantiles that stand for a cell's distribution.
_SCORES = np.array([NormalDist().inv_cdf((k + 0.5) / 15) for k in range(15)])


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Why cells were computed, bool (*shape) each: the field is fitted to `chosen` ones, `audit` ones measure the
    quality, and `pairs` among these are computed in both precisions.
    """

    chosen: Flags
    audit: Flags
    pairs: Flags

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Sample:
        return cls(*(np.zeros(shape, bool) for _ in range(3)))


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A map as known so far: float64 planes (*shape) `logit` and `others`, exact where computed; and its bound."""

    logit: Floats
    others: Floats
    bound: float


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What is known of one class's map, and what follows for the next cells.

    `gain` is what computing a cell would gain, `rounding` what computing it exactly would where it is known in the
    reduced precision; (*shape), in any unit. `reachable` is the bound with all cells in the reduced precision: 1
    without one, 0 where its errors cannot be told. `is_flat`: nothing varied so far.
    """

    estimate: Estimate
    gain: Floats
    rounding: Floats
    field: Field
    reachable: float
    is_flat: bool = False
    #: the bound that a large audit should give in the run's precision: errors being as large as they seem to be
    audited: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """How many times larger squared errors are than the field says, at most; 1/4 at least.

    `squares` (n,) are the squared errors of the audit's cells, bool (*shape).
    """

    limit: float
    cells: Flags
    squares: Floats


def is_sequential(goal: Goal, is_guessed: bool) -> bool:
    """Return whether the audit begins small, and grows where it is what a target lacks.

    So it does for SSIM about a proxy's guesses, where cells of the audit are most of the cost.
    """
    return goal.target is not None and goal.metric == "ssim" and is_guessed


class Estimator:
    """Estimates the maps of one problem, from whatever cells are known."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.axes = Axes.of(problem.grid)

    def found(self, cells: Observations, sample: Sample, k: int, has_reduced: bool) -> Found:
        """Return the estimate of class k, with its bound."""
        kind, metric = self.problem.kind, self.problem.goal.metric
        logit, others = cells.planes(k)
        values, seen = self.modelled(logit, others), cells.seen
        shown = self._scored(values[seen])[None, None]
        # Where nothing varies so far, what might vary elsewhere cannot be told from these cells.
        is_flat = bool(np.ptp(shown) <= constant_below(shown)[0])
        is_guessed = is_sequential(self.problem.goal, cells.guesses is not None)
        # Where cells of the audit are most of those known, they are fitted to as well, each left out where it audits.
        fitted_to = seen if is_guessed else sample.chosen
        trend = fit_trend(cells, fitted_to, k, values, kind in OF_LOGIT)
        field = self.fitted(cells, fitted_to, trend.less(values))
        left = np.stack([trend.less(values)[seen], (logit - trend.logit)[seen]])
        draws = self.draws(field, _FEW_DRAWS if is_guessed else _N_DRAWS)
        after = field.posterior(seen, left, draws).plus(trend.modelled, trend.logit)
        best = self._scored(after.means[0])
        weights = error_weights(metric, best, self._error(after.means[0], after.variance))
        noise = self.noise(cells, sample, k, weights) if has_reduced else 0.0
        audit = self.audited(cells, sample, field, values, weights, noise or 0.0, trend)
        wider = np.sqrt(audit.limit)
        if metric == "maxerr" and not seen.all():
            # One cell decides, and errors of a reconstruction are more often large than normal ones.
            squares = np.concatenate([field.squares, self._left_out(sample, field, seen, trend.less(values))])
            wider *= tail_ratio(squares, int((~seen).sum()))
        if is_guessed:
            bound, audited = self._without_field(best, seen, audit, cells.n_tried)
            reachable = 1.0
        else:
            bound, reachable = self._bounds(cells, best, after, float(wider), noise)
            audited = bound
        reconstructed = after.means[1]
        other = others if kind in OF_LOGIT else reconstructed - after.means[0]
        if kind in OF_LOGIT:
            both = np.stack([left[0], (others - trend.others)[seen]])
            other = field.posterior(seen, both).plus(trend.modelled, trend.others).means[1]
        planes = np.where(seen, logit, reconstructed), np.where(seen, others, other)
        # What comes next is chosen without regard to the audit, so that the audit's cells lie as others do.
        before = field.posterior(sample.chosen, trend.less(values)[sample.chosen][None]).plus(trend.modelled)
        gain = weights * self._error(before.means[0], before.variance)
        rounding = weights * self._error(after.means[0], np.full(gain.shape, (noise or 0.0) ** 2))
        estimate = Estimate(*planes, 0.0 if is_flat else bound)
        return Found(estimate, gain, rounding * (cells.reduced & ~cells.exact), field, reachable, is_flat, audited)

    def _without_field(self, best: Floats, seen: Flags, audit: Audit, n_tried: int) -> tuple[float, float]:
        """Return a lower bound on the SSIM of `best` by the audit's errors alone, and the SSIM that they speak for."""
        if not len(audit.squares):
            return 0.0, 0.0
        losses = partial(ssim_losses, best, ~seen, audit.cells, audit.squares, is_guessed=True)
        # The proxy was chosen by cells of the audit: what is said holds for each that might have been.
        level = (1 - self.problem.goal.confidence) / (_GUESSED_LOOKS * n_tried)
        limit, usual = upper_loss(len(audit.squares), losses, level)
        return 1.0 - limit, 1.0 - usual

    def fitted(self, cells: Observations, at: Flags, values: Floats) -> Field:
        """Return the field of `values` (*shape), fitted to the cells `at`.

        Any where no cell is left to predict.
        """
        if cells.seen.all():
            return Field(self.axes, 1.0, np.ones(cells.shape), np.ones(1))
        return fit_field(self.axes, at, values[at])

    def modelled(self, logit: Floats, others: Floats) -> Floats:
        """Return the values that the field describes: logits where those are the score, else log-odds."""
        return logit if self.problem.kind in OF_LOGIT else logit - others

    def draws(self, field: Field, n: int = _N_DRAWS) -> Floats:
        """Return the draws of the field: the same random numbers at every level and for every class."""
        return field.draws(n, np.random.default_rng([self.problem.seed, 1]))

    def rounding_draws(self, noise: float, cells: Observations) -> Floats:
        """Return the rounding errors that the cells not known exactly may have, as many as `draws`."""
        random = np.random.default_rng([self.problem.seed, 2])
        drawn: Floats = noise * random.standard_normal((_N_DRAWS, *cells.shape)) * ~cells.exact
        return drawn

    def audited(
        self,
        cells: Observations,
        sample: Sample,
        field: Field,
        values: Floats,
        weights: Floats,
        noise: float,
        trend: Trend,
    ) -> Audit:
        """Return what the audit's cells say of errors: how much larger they may be than the field says."""
        seen = cells.seen
        audited = sample.audit & ~sample.chosen & seen
        if not audited.any() or seen.all():
            return Audit(1.0, audited, np.empty(0))
        # An audited cell, predicted from all others, is like a cell that was not computed: both lie at random.
        residuals, variances = field.left_out(seen, trend.less(values)[seen])
        at = audited[seen]
        mean, variance = (
            values[audited] - residuals[at] / (1.0 - np.minimum(trend.own[audited], 1.0 - 1e-6)),
            variances[at],
        )
        expected = weights[audited] * self._error(mean, variance + noise**2 * ~cells.exact[audited])
        squares = np.square(self._scored(values[audited]) - self._scored(mean))
        found = weights[audited] * squares
        limit = upper_ratio(expected, found, self._level / cells.n_tried, field.squares)
        return Audit(limit, audited, squares)

    def _left_out(self, sample: Sample, field: Field, seen: Flags, values: Floats) -> Floats:
        """Return the squared errors of the audit's cells, predicted from all others, over their variances."""
        residuals, variances = field.left_out(seen, values[seen])
        at = (sample.audit & ~sample.chosen)[seen]
        squares: Floats = residuals[at] ** 2 / np.maximum(variances[at], 1e-30)
        return squares

    def noise(self, cells: Observations, sample: Sample, k: int, weights: Floats) -> float | None:
        """Return the standard deviation of reduced values about exact ones: an upper confidence limit.

        None where it cannot be told.
        """
        pairs = cells.pairs(k, sample.pairs)
        if pairs is None:
            return None
        at, exact, reduced = pairs
        true, rounded = self.modelled(*exact), self.modelled(*reduced)
        variance = _error_variance(true, rounded)
        expected = weights.flat[at] * self._error(true, np.full(len(at), variance))
        error = self._scored(true) - self._scored(rounded)
        return float(np.sqrt(variance * upper_ratio(expected, weights.flat[at] * error * error, self._level)))

    def quality_of_pairs(self, cells: Observations, sample: Sample, k: int) -> float:
        """Return the most SSIM that class k can have in the reduced precision, by the cells computed both ways.

        With rounding errors of variance n the SSIM is about the mean of 2v / (2v + n) over all windows of a map, which
        is at most that of the whole map's variance v. 0 where nothing varies, or too few cells tell. This is no look
        at the audit: nothing is predicted.
        """
        pairs = cells.pairs(k, sample.pairs)
        if pairs is None:
            return 0.0
        true, rounded = (self._scored(self.modelled(*planes)) for planes in pairs[1:])
        twice = 2.0 * float(true.var())
        return twice / (twice + _error_variance(true, rounded)) if twice > 0 else 0.0

    @property
    def _level(self) -> float:
        """Error probability of one look: the bound is looked at after every level, and one may be lucky."""
        return (1 - self.problem.goal.confidence) / _LOOKS

    def _scored(self, values: Floats) -> Floats:
        """Return the scores of modelled values: log-odds, or logits where the score is the logit."""
        kind = self.problem.kind
        return values if kind in AS_IT_IS else score_of(kind, values, np.zeros_like(values))

    def _error(self, mean: Floats, variance: Floats) -> Floats:
        """Return the expected squared errors of scores where the modelled value has this mean and variance."""
        if self.problem.kind in AS_IT_IS:
            return variance
        drawn = self._scored(mean + np.sqrt(variance) * _SCORES.reshape(-1, *(1,) * mean.ndim))
        error: Floats = np.mean((drawn - self._scored(mean)) ** 2, axis=0)
        return error

    def _bounds(
        self, cells: Observations, best: Floats, after: Posterior, wider: float, noise: float | None
    ) -> tuple[float, float]:
        """Return the lower bound on the quality of `best`, and that with all cells in the reduced precision."""
        assert after.draws is not None
        goal = self.problem.goal
        maps = after.means[0] + wider * (after.draws - after.means[0])
        rounding = self.rounding_draws(noise, cells) if noise else np.zeros(1)
        low = 1 - goal.confidence
        quality = quality_of(goal.metric, self._scored(maps + rounding), best)
        reachable = 0.0 if noise is None else 1.0
        if noise:
            one = quality_of(goal.metric, self._scored(maps[0] + rounding), self._scored(maps[0]))
            reachable = float(np.quantile(one, low, method="lower"))
        return float(np.quantile(quality, low, method="lower")), reachable


def _error_variance(true: Floats, rounded: Floats) -> float:
    """Return the variance of errors (n,) whose mean was taken out."""
    return float(np.mean((true - rounded) ** 2)) * len(true) / max(1, len(true) - 1)
