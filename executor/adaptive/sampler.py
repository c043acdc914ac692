"""Decide which windows to compute next, until the bound on the map's quality reaches the target.

Before: an operator computes the windows it is told to. After: the reconstruction and its bound become a heat map.
Nothing here knows a network.

1. Cells of an audit are drawn at random, by the seed, before anything is known; a coarse lattice is computed with them,
   or with as many of them as may be wasted should the reduced precision fail: the others come at the second look.
2. The maps are estimated and their quality bounded (`estimator`).
3. While the bound is below the target, cells are added where the error costs most.
4. Where the target is too far, or a level more would waste too much (`spending`), all that is left is computed at once.

Where a reduced precision is at hand, the first cells of the audit are computed both ways: their differences say how
large rounding errors are. If these are small, the lattice and all later cells are computed in the reduced precision.
If rounding alone puts the target out of reach, everything starts again without it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from obeql.executor.adaptive.audit_growth import cheapest_growth
from obeql.executor.adaptive.budget import Budget
from obeql.executor.adaptive.estimator import Estimate, Estimator, Found, Sample, is_sequential
from obeql.executor.adaptive.gaussian_process import n_extended, select_spread, work_of
from obeql.executor.adaptive.observations import Observations
from obeql.executor.adaptive.problem import NOTHING, Problem, Request
from obeql.planner.physical.plan import LEVEL_SHARE
from obeql.planner.physical.proxies import PROXY_TRIAL
from obeql.planner.physical.refinement import AUDIT_TIMES, LATTICE_SHARE, MOST_WASTE, audit_size

__all__ = ["Sampler"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Share of all cells that one level adds: at least and at most, in general and where cells cost little more than what
#: a level costs beside them; between them, so many times that.
_LEAST_LEVEL, _MOST_LEVEL = (0.03, 0.12), (0.10, 0.25)
_LEAST_TIMES, _MOST_TIMES = 2.0, 6.0
#: Where the target is expected beyond this share of cells, all are computed.
_GIVE_UP_SHARE = 0.7
#: Cells of the audit, and of the lattice, where there is time for hardly any.
_TINY_AUDIT = 12
#: Cells that a reduced precision is tried on.
_TRIAL = 24
#: Quality that a reduced precision must allow where no target is asked for.
_LEAST_REDUCED = 0.5
#: How much larger the last level is that may be afforded than should be needed for the target.
_LAST_MARGIN = 2.0
#: Share of the loss that the target allows up to which the loss by the cells computed both ways is of no concern.
_SURELY = 0.125
#: The same share by the first look at maps of the reduced precision, beyond which it is given up.
_NARROWLY = 0.8
#: Where about so small a share of all cells is missing, as much may be wasted, as a share of computing all exactly.
_NEARLY_DONE, _MOST_NEARLY_DONE = 0.1, 0.12
#: How much more rounding is taken out than should be needed for the target.
_ROUNDING_MARGIN = 1.2
#: Share of all cells that the lattice has where a proxy guesses them.
_GUESSED_LATTICE = 0.005
#: How many times as many cells the audit has as are computed both ways, at the first look, at least.
_FEWEST_TIMES = 2


class Sampler:
    """Cells of one `problem` computed so far, which come next, and the maps as estimated from them.

    `most`, where a method takes it, is what may be spent, in exact cells; None: as much as it takes.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.shape = problem.grid.shape
        self.goal = problem.goal
        self.cells = Observations(self.shape, problem.n_classes)
        #: whether most cells are computed in the reduced precision
        self.has_reduced = problem.prices.has_reduced
        self.estimates: list[Estimate] = []
        #: share of cells seen and the worst bound, level by level
        self.history: list[tuple[float, float]] = []
        self._spending = self._nothing_spent()
        self._estimator = Estimator(problem)
        self._sample = Sample.none(self.shape)
        costs = problem.cell_costs
        self._costs = np.ones(self.shape) if costs is None else costs / costs.mean()
        #: all cells in random order, drawn before anything else: the audit's come first
        self._order: Ints = np.random.default_rng([problem.seed, 0]).permutation(self.cells.exact.size)
        #: what the last look found of the class that is furthest from its target
        self._worst: Found | None = None
        #: whether only cells that try the reduced precision were asked for so far
        self._is_trial = False
        #: the best that the reduced precision allows by those cells, of the worst class
        self._paired = 0.0
        #: whether some map has not varied at all so far
        self._is_flat = False
        #: share of all cells that should be chosen beside what the audit grows by
        self._lacking = 0.0
        #: cells that the audit is to have from the second look on
        self._n_audit = 0

    def trial(self, n: int) -> Ints:
        """Return n cells that proxies are tried on, flat numbers: those that the audit begins with."""
        return np.sort(self._order[:n])

    def guess(self, logit: Floats, others: Floats, n_tried: int = 1) -> None:
        """Estimate the maps about a proxy's guesses from now on, `logit` and `others` (cells, classes); before `first`.

        It was chosen among `n_tried` by cells of the audit. All cells are computed in the run's precision then. Raises
        ValueError where a guess is not finite.
        """
        self.cells.guess(logit, others, n_tried)
        self.has_reduced = False

    # ---- windows to compute ----------------------------------------------------------------------------------

    def first(self, most: int | None = None) -> Request:
        """Return the first windows: the audit and a lattice, about `most` if it is few.

        Where a reduced precision is tried, cells to compute both ways.
        """
        self._spending = self._nothing_spent()
        return self._taken(self._beginning(most))

    def _nothing_spent(self) -> Budget:
        return Budget(self.problem.prices, int((~self.cells.exact).sum()), self.cells.exact.size)

    def _beginning(self, most: int | None) -> Request:
        """Return what `first` asks for; after a trial of the reduced precision, what goes on from there."""
        self._choose_first(most)
        self._is_trial = self.has_reduced and most is None and not self.cells.reduced.any()
        if not self._is_trial:
            return self._request(self._sample.chosen | self._sample.audit)
        few = np.zeros(self.shape, bool)
        few.flat[self._order[:_TRIAL]] = True
        return self._request(few & self._sample.pairs)

    def _choose_first(self, most: int | None) -> None:
        """Draw the audit and lay the lattice."""
        n, sample = self.cells.exact.size, self._sample
        share, n_pairs, times = LATTICE_SHARE, audit_size(n), self._audit_times
        if self._is_sequential:
            share, times = _GUESSED_LATTICE, 1
        if most is not None and most < self._price * (share * n + times * n_pairs) + n_pairs * self.has_reduced:
            n_pairs = min(n_pairs, max(_TINY_AUDIT, most // 4))
            times = times if self.has_reduced else 1
            share = max((most - n_pairs) / self._price, _TINY_AUDIT) / n
        sample.pairs[:] = False
        sample.pairs.flat[self._order[:n_pairs]] = True
        self._n_audit = max(times * n_pairs, self._n_tried)
        self._draw_audit(self._n_audit)
        # Cells that are known already are as good as chosen: they were not picked by their values.
        sample.chosen[:] |= self.cells.exact & ~sample.audit
        step = _lattice_step(share, n_extended(self.shape))
        sample.chosen[np.ix_(*(_lattice(size, step) for size in self.shape))] = True
        if most is None and self.has_reduced and self.goal.target is not None:
            while times > _FEWEST_TIMES and not self._allows(self._request(sample.chosen | sample.audit)):
                times -= 1
                self._draw_audit(times * n_pairs)

    @property
    def _n_tried(self) -> int:
        """Cells that a proxy was tried on, and which are the beginning of a sequential audit."""
        missing = np.flatnonzero(~self.cells.exact.reshape(-1)[self._order[:PROXY_TRIAL]])
        n_known = int(missing[0]) if len(missing) else min(PROXY_TRIAL, self._order.size)
        return n_known if self._is_sequential else 0

    def _draw_audit(self, n: int) -> Ints:
        """Let the audit have the first n cells that were drawn; returns those that are not computed yet."""
        self._sample.audit[:] = False
        self._sample.audit.flat[self._order[:n]] = True
        return np.flatnonzero(self._sample.audit & ~self.cells.seen)

    def next(self, most: int | None = None) -> Request:
        """Return the windows of the next level, for at most `most`; none when the map is done."""
        if self.done or (most is not None and most <= 0 and self.estimates):
            return Request(NOTHING, NOTHING)
        affordable = None if most is None else int(most / self._price)
        if self._worst is None:  # the lattice is still to come, or all begins again
            request = self._beginning(most)
        else:
            if self._is_sequential and self.goal.target is not None:
                self._enlarge_audit(self._worst, self.goal.target)
            request = self._level(self._worst, affordable, self._draw_audit(self._n_audit))
        if self.goal.target is not None and not self._is_assured and not self._allows(request):
            if self._worst is None and self.has_reduced:
                # Only a trial so far: a look at maps in the reduced precision would cost too much, should it fail.
                self.drop_proxy()
                request = self._beginning(most)
            if not self._allows(request):
                request = self._rest(affordable) or request
        return self._taken(request)

    def _enlarge_audit(self, worst: Found, target: float) -> None:
        """Let the audit have more cells, where they are what a target lacks, and note how many others it lacks."""
        bound, usual = worst.estimate.bound, worst.audited
        if bound >= target:
            self._lacking = 0.0
            return
        growth, self._lacking = cheapest_growth(
            1.0 - usual, usual - bound, 1.0 - target, self._n_audit, self.cells.exact.size
        )
        self._n_audit = min(math.ceil(growth * self._n_audit), self.cells.exact.size)

    def _level(self, worst: Found, affordable: int | None, late: Ints) -> Request:
        """Return what a further level computes, whatever it may waste; `late` are cells of the audit that come now."""
        share, wanted = self._share(), self._wanted_share()
        if self._needs_all:
            whole = self._all_reduced(affordable) if self._is_assured else self._rest(affordable)
            if whole is not None:
                return whole
        if self._is_flat and (rest := self._rest(affordable)) is not None:
            return rest
        if self.cells.seen.all():  # rounding is all that is left
            return self._mending(worst, affordable)
        if share > _GIVE_UP_SHARE or (self.goal.target is not None and wanted > _GIVE_UP_SHARE):
            rest = self._all_reduced(affordable) if self._is_assured else self._rest(affordable)
            if rest is not None:
                return rest
        if self.has_reduced and self.problem.in_one_step:
            return self._all_reduced(affordable) or self._spread(worst, wanted, affordable, late)
        return self._spread(worst, wanted, affordable, late)

    def _spread(self, worst: Found, wanted: float, affordable: int | None, late: Ints) -> Request:
        """Return the cells of large gain, spread out, towards the share that is `wanted`, and those of the audit."""
        n, share = self.cells.exact.size, self._share()
        least = float(np.clip(_LEAST_TIMES * self._level_price, *_LEAST_LEVEL))
        largest = float(np.clip(_MOST_TIMES * self._level_price, *_MOST_LEVEL))
        add = round(n * float(np.clip(wanted - share, least, largest)))
        is_first = self._is_sequential and len(self.history) == 1
        if not self._is_assured and not is_first and self._spending.is_last(round(n * share) + add, MOST_WASTE):
            add = max(add, round(n * min(_LAST_MARGIN * (wanted - share), _GIVE_UP_SHARE - share)))
        if self._is_sequential:
            add = min(round(n * self._lacking), round(n * largest))
        add = add if affordable is None else min(add, affordable)
        if not self._is_sequential:
            add -= len(late)
        add = max(add, 0 if self._is_sequential and len(late) else 1)
        chosen = self._sample.chosen
        # A cell of the audit that is chosen is fitted to from now on, and audits no more.
        chosen.flat[select_spread(worst.gain / self._costs, chosen, add, worst.field)] = True
        request = self._request(chosen | self._sample.audit)
        return request if not request.empty else self._request(np.ones(self.shape, bool))

    def _mending(self, worst: Found, affordable: int | None) -> Request:
        """Return, with every cell seen, those to compute exactly whose rounding costs most, for the target.

        All of them where that is not enough.
        """
        target, bound = self.goal.target, worst.estimate.bound
        left = np.flatnonzero(~self.cells.exact)
        order = left[np.argsort(-(worst.rounding / self._costs).flat[left], kind="stable")]
        total = np.cumsum(worst.rounding.flat[order])
        n = len(left)
        if target is not None and total[-1] > 0:
            needed = _ROUNDING_MARGIN * (1.0 - (1.0 - target) / max(1e-9, 1.0 - bound))
            few = 1 + int(np.searchsorted(total, needed * total[-1]))
            n = few if few < _GIVE_UP_SHARE * len(left) else n
        return Request(np.sort(order[: n if affordable is None else min(n, affordable)]), NOTHING)

    def _all_reduced(self, affordable: int | None) -> Request | None:
        """Return all cells that were not seen, in the reduced precision where there is one.

        Return None if that is too many.
        """
        if affordable is not None and affordable < int((~self.cells.seen).sum()):
            return None
        return self._request(np.ones(self.shape, bool))

    def _rest(self, affordable: int | None) -> Request | None:
        """Return all cells that are not exact, to be computed exactly; None if that is too many."""
        left = np.flatnonzero(~self.cells.exact)
        if affordable is not None and affordable * self._price < len(left):
            return None
        return Request(left, NOTHING)

    def _request(self, wanted: Flags) -> Request:
        """Return the cells of `wanted` that are not known well enough: pairs both ways, the others as is cheaper."""
        exact, pairs = wanted & ~self.cells.exact, self._sample.pairs
        if not self.has_reduced:
            return Request(np.flatnonzero(exact), NOTHING)
        reduced = wanted & ~self.cells.reduced & (~self.cells.exact | pairs)
        return Request(np.flatnonzero(exact & pairs), np.flatnonzero(reduced))

    def _taken(self, request: Request) -> Request:
        self._spending.take(request, self._n_known(request))
        return request

    def _allows(self, request: Request) -> bool:
        return self._spending.allows(request, self._n_known(request), self._most_waste)

    def _n_known(self, request: Request) -> int:
        """Return the cells that are seen when a request is answered."""
        seen = self.cells.seen.reshape(-1)
        return int(seen.sum()) + len(np.setdiff1d(np.union1d(request.exact, request.reduced), np.flatnonzero(seen)))

    # ---- where it stands -------------------------------------------------------------------------------------

    @property
    def _price(self) -> float:
        """Return what a cell of a level costs, in exact ones."""
        return self.problem.prices.reduced if self.has_reduced else 1.0

    @property
    def _level_price(self) -> float:
        """Return what a level costs beside its cells, in shares of all cells in the precision of levels."""
        prices, share = self.problem.prices, LATTICE_SHARE + 2 * LEVEL_SHARE
        look = prices.look * work_of(round(share * self.cells.exact.size), self.cells.exact.size)
        return look / self._price if self.has_reduced else look + prices.level

    @property
    def _is_sequential(self) -> bool:
        """Return whether the audit begins small, and grows where it is what the target lacks."""
        return is_sequential(self.goal, self.cells.guesses is not None)

    @property
    def _is_assured(self) -> bool:
        """Return whether the target is as good as reached: at the latest with all cells in the reduced precision."""
        if self._worst is None:
            return self.has_reduced and 1 - self._paired < _SURELY * (1 - self._least_paired)
        return self.has_reduced and self._worst.reachable >= self._least_reachable

    @property
    def _least_reachable(self) -> float:
        return _LEAST_REDUCED if self.goal.target is None else self.goal.target

    @property
    def _audit_times(self) -> int:
        """Return by how much the audit is larger than what is computed both ways where there is a reduced precision."""
        return AUDIT_TIMES

    @property
    def _most_waste(self) -> float:
        """Return what may be wasted now, in shares of computing all exactly: more where the target is near."""
        is_near = bool(self.history) and self._wanted_share() - self._share() <= _NEARLY_DONE
        return _MOST_NEARLY_DONE if is_near else MOST_WASTE

    @property
    def _least_paired(self) -> float:
        """Return the quality that cells computed both ways must allow for the reduced precision to be tried at all."""
        return self._least_reachable

    @property
    def n_audit(self) -> int:
        """Cells drawn at random that measure the quality: those that were not chosen for other reasons."""
        return int((self._sample.audit & ~self._sample.chosen).sum())

    def _share(self) -> float:
        return float(self.cells.seen.mean())

    @property
    def worst(self) -> float:
        """Return the least bound of all maps."""
        return min((each.bound for each in self.estimates), default=-np.inf)

    @property
    def done(self) -> bool:
        """Return whether nothing is left to compute for the goal."""
        if self.cells.exact.all():
            return True
        return self._reaches and not self._needs_all and int(self._sample.audit.sum()) >= self._n_audit

    @property
    def _reaches(self) -> bool:
        """Return whether the bounds are what the goal asks for."""
        return bool(self.history) and self.goal.target is not None and self.worst >= self.goal.target

    @property
    def _needs_all(self) -> bool:
        """Return whether the target needs cells that are left: one decides about `maxerr`, and no audit finds it."""
        return self.goal.metric == "maxerr" and self.goal.target is not None and not self.cells.seen.all()

    def _wanted_share(self) -> float:
        """Return the share of cells at which the bound should reach the target, by how fast it rose so far."""
        target = self.goal.target
        share, bound = self.history[-1]
        if self._worst is not None and self._is_sequential:
            bound = self._worst.audited  # what a small audit takes off is no lack of cells
        if target is None or target >= 1:
            return share + _MOST_LEVEL[1] if target is None else 1.0
        # 1 - bound falls about exponentially with the share of cells computed.
        slope = 4.5
        if len(self.history) > 1:
            first_share, first_bound = self.history[max(0, len(self.history) - 3)]
            fallen = np.log(max(1e-9, 1 - first_bound) / max(1e-9, 1 - bound))
            slope = 0.5 * slope + 0.5 * max(0.1, float(fallen) / max(1e-9, share - first_share))
        return share + float(np.log(max(1e-9, 1 - bound) / (1 - target))) / slope

    # ---- what follows ----------------------------------------------------------------------------------------

    def update(self) -> None:
        """Estimate every map from the cells seen and bound its quality; before the lattice, only try the precision."""
        cells = self.cells
        if cells.exact.all():
            self.estimates = [Estimate(*cells.planes(k), 1.0) for k in range(cells.n_classes)]
            self.history.append((1.0, 1.0))
            return
        if self._is_trial:
            classes = range(cells.n_classes)
            self._paired = min(self._estimator.quality_of_pairs(cells, self._sample, k) for k in classes)
            if self._paired < self._least_paired:
                self.drop_proxy()
            return
        found = [self._found(k) for k in range(cells.n_classes)]
        reachable = min(each.reachable for each in found)
        if self.has_reduced and not self.history and 1 - reachable > _NARROWLY * (1 - self._least_reachable):
            self.drop_proxy()
            return
        self.estimates = [each.estimate for each in found]
        self._is_flat = any(each.is_flat for each in found)
        self._look_at(found)
        self.history.append((self._share(), self.worst))

    def _found(self, k: int) -> Found:
        return self._estimator.found(self.cells, self._sample, k, self.has_reduced)

    def _look_at(self, found: list[Found]) -> None:
        """Note which class is furthest from its target: it says which cells come next."""
        self._worst = min(found, key=lambda each: (each.reachable >= self._least_reachable, each.estimate.bound))

    def stated(self, k: int) -> dict[str, Any]:
        """Return what is stated of the map of class k beside its bound."""
        return {}

    def urgent(self, request: Request) -> tuple[Request, Request]:
        """Divide a request for which the time may not suffice: what the bound cannot do without, and the rest."""
        seen = self.cells.seen.reshape(-1)
        few = self._order[:_TINY_AUDIT]
        few = few[~seen[few] | (self.has_reduced & ~self.cells.exact.reshape(-1)[few])]
        parts = [(np.intersect1d(all_, few), np.setdiff1d(all_, few)) for all_ in (request.exact, request.reduced)]
        return Request(parts[0][0], parts[1][0]), Request(parts[0][1], parts[1][1])

    def cut_short(self) -> None:
        """Go on with the cells that are there, where a request was not answered in full.

        The audit stays a random sample: as many of the cells drawn first as are there without a gap. All others count
        as chosen.
        """
        seen, sample = self.cells.seen, self._sample
        missing = np.flatnonzero(~seen.reshape(-1)[self._order])
        n_audit = min(self._n_audit, int(missing[0]) if len(missing) else self._order.size)
        if n_audit >= int(seen.sum()):  # nothing else is there to fit the field to
            n_audit //= 2
        sample.audit[:] = False
        sample.audit.flat[self._order[:n_audit]] = True
        sample.pairs[:] &= self.cells.exact & self.cells.reduced
        sample.chosen[:] = (sample.chosen & seen) | (seen & ~sample.audit)
        self._n_audit = n_audit

    def drop_proxy(self) -> None:
        """Begin again without the reduced precision: its errors are too large for the goal."""
        self.has_reduced = False
        self.cells.forget_reduced()
        self._sample.chosen[:] = False
        self._worst = None
        self._is_trial = False
        self.history.clear()
        self.estimates = []


def _lattice_step(share: float, n_axes: int) -> float:
    """Return how far apart the cells of a lattice lie that has about so large a share of a grid.

    On one axis as on two: neighbors on a line tell less than those around a cell. On three, whole steps are too coarse.
    """
    return max(2.0, round(share**-0.5)) if n_axes < 3 else float(share ** (-1 / n_axes))


def _lattice(size: int, step: float) -> Ints:
    """Return the places along one axis about `step` apart, the first and the last included."""
    n = max(2, round((size - 1) / step) + 1) if size > 1 else 1
    return np.unique(np.round(np.linspace(0, size - 1, n)).astype(np.int64))
