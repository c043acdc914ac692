"""ProgressiveRefine and PrunedTop: compute only the windows a statement needs, level by level.

Between `executor` and a `GridScan`: this operator asks a `Sampler` which windows come next, has the grid's engine
compute them, and after each level hands on the maps as they stand. Windows that are stored count as computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from obeql.executor.adaptive.problem import Request
from obeql.executor.adaptive.sampler import Sampler
from obeql.executor.devices import DTYPES
from obeql.executor.operators.cached_cells import KnownCells
from obeql.executor.operators.clean_pass import CleanPass, materialise
from obeql.executor.operators.grid_scan import GridScan, Planes, Windows
from obeql.executor.operators.measured_windows import AskColumns
from obeql.executor.operators.proxy_forward import Guess, ProxyRun
from obeql.executor.operators.refined_maps import first_picture, refined_planes, what_is_stated
from obeql.executor.operators.samplers import Samplers
from obeql.executor.operators.window_fill import Fill
from obeql.planner.catalog import Activation
from obeql.planner.physical.plan import (
    Engine,
    PrunedTop,
    Refinement,
)
from obeql.planner.physical.proxies import PROXY_TRIAL
from obeql.planner.physical.refinement import (
    LOOK_WINDOW_S,
    share_with_proxy,
    share_within,
    top_share_with_proxy,
)
from obeql.planner.scores import OF_LOGIT, ScoreKind

__all__ = ["OnLevel", "RefineRun"]

Floats = npt.NDArray[np.float64]


class _TimeUpError(Exception):
    """Raised between batches of a level once the deadline has passed."""


#: called after each level with its number, counted from 1, the worst bound, and the maps as they stand; and, with 0
#: and no bound, with maps as a proxy guesses them
OnLevel = Callable[[int, float | None, Planes], None]

#: Share of the time left that a level may be expected to take; the rest is for estimating and storing.
_LEVEL_SHARE = 0.7
#: Windows that a time limit must allow, in those that proxies are tried on, for any to be tried.
_TRIALS_IN_TIME = 3
#: Seconds beyond the time allowed that are worth a word.
_LATE_S = 0.5


class RefineRun:
    """One grid of a plan that is refined, image after image, with the engine of `run`.

    `reduced` computes most windows where the refinement has an engine in a reduced precision, `proxies` guess all where
    it has any. `prepare` makes an operator of an engine that computes many windows at once, when one is needed.
    """

    def __init__(
        self,
        run: GridScan,
        refinement: Refinement,
        kind: ScoreKind,
        seed: int,
        prepare: Callable[[Engine], GridScan],
        reduced: GridScan | None = None,
        ask_columns: AskColumns | None = None,
        proxies: ProxyRun | None = None,
    ) -> None:
        self.run = run
        self.refinement = refinement
        self.kind = kind
        self._prepare = prepare
        self._larger: dict[float, GridScan] = {}
        self._reduced = reduced
        self._proxies = proxies
        #: the guesses that the map at work is estimated about
        self._guess: Guess | None = None
        #: why there is none, where one was tried
        self._proxy_dropped = ""
        #: whether proxies are tried: what is computed of the map at work is no picture of it yet
        self.is_trying = False
        #: cells of the image at work that are computed in the run's precision, and what computes windows in it now
        self._planes = Planes.empty(0, 0)
        self._under_way: tuple[GridScan, Windows] | None = None
        self._samplers = Samplers(run, refinement, kind, seed, ask_columns)
        if refinement.reduced is not None:
            self._dtype = DTYPES[refinement.reduced.precision]
        #: seconds of a window in the run's precision, estimated until measured
        self._window_s = run.engine.cost.seconds / max(1.0, run.grid.n_windows * refinement.expected_share)

    def compute(
        self,
        clean: CleanPass,
        fill: Fill,
        classes: Sequence[int],
        activation: Activation,
        tell: Callable[[int], None],
        known: KnownCells | None,
        on_level: OnLevel,
        deadline: float | None = None,
        limit: float | None = None,
    ) -> Planes:
        """Compute levels until the goal or the `deadline` (of time.perf_counter) is reached.

        What is found says how long after the `limit`, the end of the statement's time, that is. A level is stopped in
        the middle then, but for the few cells that a bound cannot do without.
        Arguments as of `GridScan.compute`. The planes returned hold values for every window, NaN where TOP .. CELLS
        needs none; `exact` says which were computed, `quality` what is stated of each map.
        """
        self._planes, self._under_way = Planes.empty(self.run.grid.n_windows, len(classes)), None
        self._guess, self._proxy_dropped, self.is_trying = None, "", False
        refiner = self._samplers.of(clean, classes, activation)
        levels = _Levels(self, refiner, clean, fill, classes, activation, tell, deadline, limit)
        if known is not None:
            levels.take_known(known)
        return levels.run(on_level)

    def _run_for(self, n_windows: int) -> GridScan:
        """Return the operator planned for about so many windows at once."""
        chosen = self.run
        for share, engine in self.refinement.larger:
            if n_windows >= share * self.run.grid.n_windows and engine != self.run.engine:
                chosen = self._larger[share] = self._larger.get(share) or self._prepare(engine)
        return chosen

    def computed(self) -> Planes | None:
        """Return all cells of the image at work that are computed by now, as `GridScan.computed` gives them.

        Estimates, and what was computed in a reduced precision, are not among them.
        """
        planes = self._planes
        if self._under_way is not None:
            run, windows = self._under_way
            fresh = run.computed(0, None)
            planes = planes if fresh is None else _where(windows, fresh, planes)
        return planes.only_computed()

    def _affordable(self, deadline: float | None) -> int | None:
        """Return the windows of the run's precision that the time left allows; None for any number."""
        if deadline is None:
            return None
        return max(0, int(_LEVEL_SHARE * (deadline - time.perf_counter()) / max(self._window_s, 1e-9)))

    def _timed(
        self,
        run: GridScan,
        windows: Windows,
        clean: CleanPass,
        fill: Fill,
        classes: Sequence[int],
        activation: Activation,
        count: Callable[[int], None],
    ) -> tuple[Planes, float]:
        """Compute windows; returns planes that hold them, and the seconds of one."""
        wanted = np.zeros((1, run.grid.n_windows), bool)
        wanted[0, windows] = True
        n_others = run.grid.n_windows - len(windows)
        started = time.perf_counter()
        (fresh,) = run.compute(clean, fill, [classes], activation, lambda n: count(n - n_others), wanted)
        return fresh, (time.perf_counter() - started) / len(windows)

    def _found(self, refiner: Sampler, planes: Planes, limit: float | None = None) -> Planes:
        """Return the maps as they stand: computed cells as they were computed, the others as estimated."""
        stated = self._stated(refiner)
        if limit is not None and (late_s := time.perf_counter() - limit) > _LATE_S:
            stated["late_s"] = round(late_s, 1)
        return refined_planes(refiner, planes, stated)

    def _first_picture(self, refiner: Sampler, planes: Planes) -> Planes:
        """Return the maps as the proxy guesses them, of which nothing is stated."""
        return first_picture(refiner, planes, self.kind, self._stated(refiner))

    def _stated(self, refiner: Sampler) -> dict[str, Any]:
        guess = None if self._guess is None else self._guess.name
        return what_is_stated(self.refinement, refiner, guess, self._proxy_dropped)


@dataclass(slots=True, eq=False)
class _Levels:
    """One image at work: the levels of its map, one after the other, until the goal or the deadline."""

    owner: RefineRun
    refiner: Sampler
    clean: CleanPass
    fill: Fill
    classes: Sequence[int]
    activation: Activation
    tell: Callable[[int], None]
    deadline: float | None
    #: when the time of the statement is over, of which the deadline leaves some for other maps
    limit: float | None
    reduced_clean: CleanPass | None = None
    #: whether what is computed now is needed whatever the time
    is_urgent: bool = False
    #: seconds that estimating the maps took the last time, for which there has to be time after a level
    look_s: float = 0.0

    def take_known(self, known: KnownCells) -> None:
        self.owner._planes = self.owner._planes.over(known)
        stored = np.flatnonzero(~known.left)
        self.refiner.cells.add(stored, known.logit[stored].astype(float), known.others[stored].astype(float))

    def run(self, on_level: OnLevel) -> Planes:
        owner, refiner = self.owner, self.refiner
        self.look_s = LOOK_WINDOW_S * owner.run.grid.n_windows * len(self.classes)
        if owner._proxies is not None:
            owner.is_trying = True
            are_numbers = self._guessed(owner._proxies)
            owner.is_trying = False
            if not are_numbers:
                return replace(owner._planes, exact=refiner.cells.exact.reshape(-1))
            if owner._guess is not None:
                on_level(0, None, owner._first_picture(refiner, owner._planes))
        request = refiner.first(owner._affordable(self.deadline))
        while True:
            in_time = self._compute(request)
            planes, exact = owner._planes, refiner.cells.exact.reshape(-1)
            if not bool(planes.logit[exact].isfinite().all()):
                return replace(planes, exact=exact)  # the network's outputs are not numbers, which the caller words
            if not in_time:
                self._end_here()
                return owner._found(refiner, planes, self.limit)
            if refiner.has_reduced or not len(request.reduced):
                started = time.perf_counter()
                refiner.update()
                self.look_s = time.perf_counter() - started
            request = refiner.next(owner._affordable(self.deadline))
            if request.empty:
                return owner._found(refiner, planes, self.limit)
            if refiner.history:
                on_level(len(refiner.history), refiner.worst, owner._found(refiner, planes))

    def _guessed(self, proxies: ProxyRun) -> bool:
        """Let a proxy guess all cells, where one tells enough of the windows that are computed here, if any are left.

        Returns whether these were all numbers.
        """
        cells, owner = self.refiner.cells, self.owner
        tried = self.refiner.trial(PROXY_TRIAL)
        missing = tried[~cells.exact.reshape(-1)[tried]]
        share = self._share_of_goal()
        try:
            if share is None:
                raise _TimeUpError
            if len(missing):
                self._compute_exact(missing)
            logit, others = (
                np.stack([cells.planes(k)[which].reshape(-1) for k in range(cells.n_classes)], axis=1)
                for which in (0, 1)
            )
            if not bool(np.isfinite(logit[tried]).all()):
                return False
            values = logit if owner.kind in OF_LOGIT else logit - others
            guess = proxies.guess(self.clean, self.fill, self.classes, tried, values[tried], share, self._require_time)
        except _TimeUpError:
            guess = "there was too little time"
        if isinstance(guess, str):
            owner._proxy_dropped = guess
        else:
            self.refiner.guess(guess.changes, np.zeros_like(guess.changes), guess.n_tried)
            owner._guess = guess
        return True

    def _share_of_goal(self) -> Callable[[float], float] | None:
        """Return what says which share of the windows the goal should need where a proxy leaves so much unexplained.

        None where there is no time to try one.
        """
        n, refinement, target = self.refiner.cells.exact.size, self.owner.refinement, self.refiner.goal.target
        affordable = self.owner._affordable(self.deadline)
        if affordable is not None:
            return partial(share_within, affordable / n) if affordable >= _TRIALS_IN_TIME * PROXY_TRIAL else None
        if isinstance(refinement, PrunedTop):
            return partial(top_share_with_proxy, refinement.k, n_windows=n)
        assert target is not None
        return partial(share_with_proxy, target, n_windows=n)

    def _compute(self, request: Request) -> bool:
        """Compute what is asked for; returns whether there was time for all of it."""
        parts = (request,) if self.deadline is None else self.refiner.urgent(request)
        for number, part in enumerate(parts):
            self.is_urgent = self.deadline is not None and number == 0
            try:
                if len(part.exact):
                    self._compute_exact(part.exact)
                if len(part.reduced) and self.refiner.has_reduced:
                    self._compute_reduced(part.reduced)
            except _TimeUpError:
                return False
        return True

    def _end_here(self) -> None:
        """Estimate the map from what is there of a level that was stopped."""
        for _ in range(2):  # a second time where the first look gives the reduced precision up
            self.refiner.cut_short()
            self.refiner.update()
            if self.refiner.estimates:
                return

    def _compute_exact(self, windows: Windows) -> None:
        owner, cells = self.owner, self.refiner.cells
        run = owner._run_for(len(windows))
        has_views = set(run.needed) <= set(owner.run.needed)
        clean = self.clean if has_views else materialise(run.graph, self.clean.image, run.needed)
        owner._under_way = run, windows
        windows, fresh, window_s, late = self._computed(run, windows, clean, self.fill)
        owner._under_way = None
        owner._window_s = window_s or owner._window_s
        owner._planes = _where(windows, fresh, owner._planes)
        cells.add(windows, fresh.logit[windows].double().numpy(), fresh.others[windows].double().numpy())
        if late is not None:
            raise late

    def _compute_reduced(self, windows: Windows) -> None:
        owner, run = self.owner, self.owner._reduced
        assert run is not None
        if self.reduced_clean is None:
            self.reduced_clean = materialise(run.graph, self.clean.image.to(owner._dtype), run.needed)
        rounded = self.fill.to(owner._dtype)
        windows, fresh, _, late = self._computed(run, windows, self.reduced_clean, rounded)
        logit, others = fresh.logit[windows].double().numpy(), fresh.others[windows].double().numpy()
        try:
            self.refiner.cells.add_reduced(windows, logit, others)
        except ValueError:  # beyond what the reduced precision can hold
            self.refiner.drop_proxy()
        if late is not None:
            raise late

    def _computed(
        self, run: GridScan, windows: Windows, clean: CleanPass, fill: Fill
    ) -> tuple[Windows, Planes, float, _TimeUpError | None]:
        """Compute windows; returns those for which there was time, planes that hold them, and the seconds of one."""
        self._require_time()
        try:
            fresh, window_s = self.owner._timed(
                run, windows, clean, fill, self.classes, self.activation, self._counting(windows)
            )
        except _TimeUpError as late:
            partial = run.computed(0, None)
            if partial is None:
                raise
            assert partial.exact is not None
            return windows[partial.exact[windows]], partial, 0.0, late
        return windows, fresh, window_s, None

    def _counting(self, windows: Windows) -> Callable[[int], None]:
        """Return what is called between batches with the windows done: it tells of them, and stops when time is up."""
        seen = self.refiner.cells.seen.reshape(-1)
        before, n_new = int(seen.sum()), int((~seen[windows]).sum())  # some are computed in both precisions

        def count(n: int) -> None:
            self.tell(before + min(n, n_new))
            self._require_time()

        return count

    def _require_time(self) -> None:
        if self.deadline is not None and not self.is_urgent and time.perf_counter() > self.deadline - self.look_s:
            raise _TimeUpError


def _where(windows: Windows, fresh: Planes, planes: Planes) -> Planes:
    """Return the planes with the windows (n,) as they are in `fresh`."""
    at = torch.zeros(len(planes.top), dtype=torch.bool)
    at[torch.from_numpy(windows)] = True
    return Planes(
        torch.where(at[:, None], fresh.logit, planes.logit),
        torch.where(at[:, None], fresh.others, planes.others),
        torch.where(at, fresh.top, planes.top),
    )
