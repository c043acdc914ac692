"""Compute windows drawn at random until aggregates of a map are known: with the error asked for, or on which side of 0.

Like `sampler`, with another question: of every map a few totals are wanted, not the map. Before: push-down has read the
aggregates from SQL. After: the windows drawn stand for all, each for those of its stratum (`planner.aggregates`).

Two windows are drawn at random from each block of the grid. Neighbors are alike, so that blocks are more even than
the map; their two windows tell how even. A total, and to first order every smooth function of totals (Sarndal,
Swensson and Wretman 1992, ch. 5), then has an unbiased estimate with an unbiased variance, whatever the map looks like.
Its error is Student's quantile of the effective degrees of freedom (Satterthwaite 1946) times the standard error: where
a single block has most of the variance, that is one degree, and the error is large. Where the two windows of every
block agree, the error is what blocks may make up of which that is not true. The map is looked at after every level; the
error probability is shared among the looks, a fixed share of what is left for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from obeql.executor.adaptive.estimator import Estimate
from obeql.executor.adaptive.problem import NOTHING, Problem, Request
from obeql.executor.adaptive.sampler import Sampler
from obeql.planner.aggregates import AggregateAim, Expression, Strata, draw_sample, linear, scale_of

__all__ = ["AggregateSampler", "Measure", "student_quantile"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Returns what windows add to each column of the aim, and their importance: (columns + 1, n), NaN where nothing. Takes
#: the number of the class, the windows as flat numbers (n,), their logits and others (n,).
Measure = Callable[[int, Ints, Floats, Floats], Floats]

#: Windows that the first sample has, at least, and as a share of all.
_FIRST, _FIRST_SHARE = 32, 0.01
#: Share of the error probability that is left which a look takes.
_LOOK_SHARE = 0.3
#: Degrees of freedom below which a few blocks decide how far off a total may be.
_FEW_DEGREES = 10.0


@dataclass(frozen=True, slots=True)
class _Known:
    """What a sample says of an expression: its value, its error, and the size that errors are measured by."""

    value: float
    error: float
    scale: float

    @property
    def is_decided(self) -> bool:
        return abs(self.value) > self.error

    def is_within(self, precision: float) -> bool:
        return self.error <= precision * self.scale


class AggregateSampler(Sampler):
    """A `Sampler` that draws windows until each map answers what the `aim` asks."""

    def __init__(self, problem: Problem, aim: AggregateAim, measure: Measure) -> None:
        super().__init__(problem)
        self.has_reduced = False
        self.aim = aim
        self._measure = measure
        n_first = max(_FIRST, _FIRST_SHARE * self.cells.exact.size)
        self._depth = 2 * max(1, math.ceil(math.log2(n_first)) - 1)
        self._strata = self._drawn()
        self._selected: list[list[_Known]] = []
        self._decided: list[list[_Known]] = []

    def _drawn(self) -> Strata:
        return draw_sample(self.shape, self.problem.seed, self._depth)

    def first(self, most: int | None = None) -> Request:
        """Return the windows of the first sample that are not computed."""
        return self._missing()

    def next(self, most: int | None = None) -> Request:
        """Return the windows of the next sample that are not computed; none when every map is done."""
        while not self.done:
            self._depth += 1
            self._strata = self._drawn()
            request = self._missing()
            if not request.empty:
                return request
            self.update()
        return Request(NOTHING, NOTHING)

    def _missing(self) -> Request:
        return Request(np.flatnonzero(self._strata.drawn & ~self.cells.exact), NOTHING)

    @property
    def done(self) -> bool:
        """Return whether all is known of every map."""
        is_looked_at = len(self._decided) == self.cells.n_classes
        return bool(self.cells.exact.all()) or (is_looked_at and all(map(self._is_done, range(self.cells.n_classes))))

    def _is_done(self, k: int) -> bool:
        decided, aim = self._decided[k], self.aim
        if aim.all_must_hold and any(each.is_decided and each.value < 0 for each in decided):
            return True  # the group is left out, whatever else it would show
        precise = all(each.is_within(aim.precision) for each in self._selected[k])
        return precise and all(each.is_decided for each in decided)

    def update(self) -> None:
        """Estimate every expression of every map from the windows drawn."""
        level = (1.0 - self.aim.confidence) * _LOOK_SHARE * (1.0 - _LOOK_SHARE) ** len(self.history)
        self._selected, self._decided = [], []
        for k in range(self.cells.n_classes):
            sample = _Sample.of(self, k)
            self._selected.append([sample.known(each, level) for _, each in self.aim.selected])
            n = max(1, len(self.aim.decisions))
            self._decided.append([sample.known(each, level / n) for each in self.aim.decisions])
        self.estimates = [Estimate(*self.cells.planes(k), self._bound(k)) for k in range(self.cells.n_classes)]
        self.history.append((self._share(), self.worst))

    def _bound(self, k: int) -> float:
        """Return 1 less the largest error over its scale; 1 where HAVING is all that is asked, and decided."""
        if self.cells.exact.all():
            return 1.0
        worst = max((each.error / each.scale if each.scale else 1.0 for each in self._selected[k]), default=0.0)
        is_open = any(not each.is_decided for each in self._decided[k]) and not self._is_done(k)
        return 0.0 if is_open else max(0.0, 1.0 - worst)

    def stated(self, k: int) -> dict[str, Any]:
        """Return the sample, and what it says of the map of class k."""
        whole = bool(self.cells.exact.all())
        return {
            "sample": {"seed": self.problem.seed, "level": None if whole else self._depth},
            "aggregates": [{"value": _finite(each.value), "error": _finite(each.error)} for each in self._selected[k]],
        }

    def measured(self, k: int, drawn: Ints) -> Floats:
        """Return what drawn windows add to the columns of the aim, and their importance."""
        logit, others = (plane.reshape(-1)[drawn] for plane in self.cells.planes(k))
        return self._measure(k, drawn, logit, others)

    @property
    def sample(self) -> tuple[Ints, Ints, Floats]:
        """Return the windows drawn, flat numbers (n,), the stratum of each, and how many it stands for; all of them at
        the end."""
        n = self.cells.exact.size
        if self.cells.exact.all():
            return np.arange(n), np.arange(n), np.ones(n)
        strata = self._strata
        drawn = np.flatnonzero(strata.drawn)
        return drawn, strata.stratum.reshape(-1)[drawn], strata.weights.reshape(-1)[drawn]


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Drawn windows (n,) of one map: the stratum of each, how many it stands for, what it adds to columns (m, n)."""

    stratum: Ints
    weights: Floats
    values: Floats
    counted: Floats
    importance: Floats
    n_windows: int

    @classmethod
    def of(cls, sampler: AggregateSampler, k: int) -> _Sample:
        drawn, stratum, weights = sampler.sample
        *values, importance = sampler.measured(k, drawn)
        columns = np.array(values).reshape(len(values), len(drawn))
        counted = np.isfinite(columns).astype(float)
        return cls(
            np.unique(stratum, return_inverse=True)[1],
            weights,
            np.where(counted > 0, columns, 0.0),
            counted,
            importance,
            sampler.cells.exact.size,
        )

    def known(self, expression: Expression, level: float) -> _Known:
        """Return the value of an expression, and the error that it exceeds with probability `level`."""
        value, by_count, by_sum = linear(expression, self.counted @ self.weights, self.values @ self.weights)
        ranges = np.array([self._range(each, of) for each, of in zip(self.values, self.counted, strict=True)])
        scale = scale_of(expression, self.n_windows, ranges, value)
        n = len(self.weights)
        if n == self.n_windows:
            return _Known(value, 0.0, scale)
        if not math.isfinite(value) or np.ptp(self.importance) == 0.0:
            return _Known(value, math.inf, scale)  # where nothing varies so far, what may elsewhere cannot be told
        parts = by_count @ self.counted + by_sum @ self.values
        error = self._error(parts, level)
        if error > 0.0:
            return _Known(value, error, scale)
        # No block has windows that differ: so large a share of them does with probability `level` at most.
        share = 1.0 - level ** (1.0 / len(np.unique(self.stratum)))
        spread = float(np.abs(by_count).sum() + np.abs(by_sum) @ ranges)
        return _Known(value, spread * self.n_windows * share, scale)

    def _range(self, values: Floats, counted: Floats) -> float:
        """Return the range of the values seen, or of all importances where there are none."""
        seen = values[counted > 0]
        return float(np.ptp(seen)) if len(seen) > 1 and np.ptp(seen) > 0 else float(np.ptp(self.importance))

    def _error(self, parts: Floats, level: float) -> float:
        """Return Student's quantile times the standard error of the total of `parts` (n,)."""
        n = np.bincount(self.stratum).astype(float)
        n_all = np.bincount(self.stratum, weights=self.weights)
        means = np.bincount(self.stratum, weights=parts) / n
        squares = np.bincount(self.stratum, weights=(parts - means[self.stratum]) ** 2)
        variances = n_all * (n_all - n) * squares / (np.maximum(n - 1.0, 1.0) * n)
        total = float(variances.sum())
        if total <= 0.0:
            return 0.0
        # The square of an estimated variance of n - 1 degrees is too large by (n + 1) / (n - 1) on average. With half
        # of that taken off, decisions of maps that lie at the threshold itself still err as seldom as stated.
        freedom = total**2 / float((variances**2 / np.maximum(n, 2.0)).sum())
        # Where a few blocks hold most of the variance, their own degrees count: a map may be flat but for one place.
        own = total**2 / float((variances**2 / np.maximum(n - 1.0, 1.0)).sum())
        freedom = own if own < _FEW_DEGREES else freedom
        return student_quantile(level, freedom) * math.sqrt(total)


def student_quantile(level: float, freedom: float) -> float:
    """Return what Student's t exceeds in size with probability `level`, of so many degrees of freedom, rounded down.

    Source: G. W. Hill, Algorithm 396, Communications of the ACM 13(10) 1970; four digits at least.
    """
    n = max(1, math.floor(freedom))
    if n == 1:
        return 1.0 / math.tan(level * math.pi / 2)
    if n == 2:
        return math.sqrt(2.0 / (level * (2.0 - level)) - 2.0)
    a = 1.0 / (n - 0.5)
    b = 48.0 / a**2
    c = ((20700.0 * a / b - 98.0) * a - 16.0) * a + 96.36
    d = ((94.5 / (b + c) - 3.0) / b + 1.0) * math.sqrt(a * math.pi / 2) * n
    y = (d * level) ** (2.0 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(level / 2)
        y = x * x
        c += 0.3 * (n - 4.5) * (x + 0.6) if n < 5 else 0.0
        c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36.0) * y + 94.5) / c - y - 3.0) / b + 1.0) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1.0 / (((n + 6.0) / (n * y) - 0.089 * d - 0.822) * (n + 2.0) * 3.0) + 0.5 / (n + 4.0)) * y - 1.0) * (
            n + 1.0
        ) / (n + 2.0) + 1.0 / y
    return math.sqrt(n * y)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
