"""ProgressiveRefine and PrunedTop: compute only the windows a statement needs, level by level.

Between `run` and a `GridRun`: this operator asks a `Refiner` which windows come next, has the grid's engine compute
them, and after each level hands on the maps as they stand. Windows that are stored count as computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from obeql.executor.devices import DTYPES
from obeql.executor.grid_run import GridRun, Planes, Windows
from obeql.executor.materialise import CleanPass, materialise
from obeql.executor.refine.problem import Goal, Problem
from obeql.executor.refine.refiner import Refiner
from obeql.executor.refine.top_search import TopSearch
from obeql.executor.reuse import KnownCells
from obeql.planner.catalog import Activation
from obeql.planner.physical import Engine, ProgressiveRefine, PrunedTop, Refinement
from obeql.planner.refinement import cell_costs
from obeql.planner.scores import ScoreKind

__all__ = ["OnLevel", "RefineRun"]

#: called after each level with its number, counted from 1, the worst bound, and the maps as they stand
OnLevel = Callable[[int, float, Planes], None]

#: Share of the time left that a level may be expected to take; the rest is for estimating and storing.
_LEVEL_SHARE = 0.7


class RefineRun:
    """One grid of a plan that is refined, image after image, with the engine of `run`.

    `reduced` computes most windows where the refinement has an engine in a reduced precision. `prepare` makes
    an operator of an engine that computes many windows at once, when one is needed.
    """

    def __init__(
        self,
        run: GridRun,
        refinement: Refinement,
        kind: ScoreKind,
        seed: int,
        prepare: Callable[[Engine], GridRun],
        reduced: GridRun | None = None,
    ) -> None:
        self.run = run
        self.refinement = refinement
        self.kind = kind
        self.seed = seed
        self._prepare = prepare
        self._larger: dict[float, GridRun] = {}
        self._reduced = reduced
        #: cells of the image at work that are computed in the run's precision, and what computes windows in it now
        self._planes = Planes.empty(0, 0)
        self._under_way: tuple[GridRun, Windows] | None = None
        self._costs = cell_costs(run.graph.network(), run.grid, run.engine)
        if refinement.reduced is not None:
            self._dtype = DTYPES[refinement.reduced.precision]
        #: seconds of a window in the run's precision, estimated until measured
        self._window_s = run.engine.cost.seconds / max(1.0, run.grid.n_windows * refinement.expected_share)

    def compute(
        self,
        clean: CleanPass,
        fill: Tensor,
        classes: Sequence[int],
        activation: Activation,
        tell: Callable[[int], None],
        known: KnownCells | None,
        on_level: OnLevel,
        deadline: float | None = None,
    ) -> Planes:
        """Compute levels until the goal or the `deadline` (of time.perf_counter) is reached; at least the first.

        Arguments as of `GridRun.compute`. The planes returned hold values for every window, NaN where TOP .. CELLS
        needs none; `exact` says which were computed, `quality` what is stated of each map.
        """
        grid = self.run.grid
        refiner = self._refiner(len(classes))
        self._planes, self._under_way = Planes.empty(grid.n_windows, len(classes)), None
        if known is not None:
            self._planes = self._planes.over(known)
            stored = np.flatnonzero(~known.left)
            refiner.cells.add(stored, known.logit[stored].astype(float), known.others[stored].astype(float))

        def compute_exact(windows: Windows) -> None:
            run = self._run_for(len(windows))
            has_views = set(run.needed) <= set(self.run.needed)
            its_clean = clean if has_views else materialise(run.graph, clean.image, run.needed)
            count = counting(windows)
            self._under_way = run, windows
            fresh, self._window_s = self._timed(run, windows, its_clean, fill, classes, activation, count)
            self._under_way = None
            self._planes = _where(windows, fresh, self._planes)
            refiner.cells.add(windows, fresh.logit[windows].double().numpy(), fresh.others[windows].double().numpy())

        def counting(windows: Windows) -> Callable[[int], None]:
            seen = refiner.cells.seen.reshape(-1)
            before, n_new = int(seen.sum()), int((~seen[windows]).sum())  # some are computed in both precisions
            return lambda n: tell(before + min(n, n_new))

        reduced_clean: CleanPass | None = None

        def compute_reduced(windows: Windows) -> None:
            nonlocal reduced_clean
            run = self._reduced
            assert run is not None
            if reduced_clean is None:
                reduced_clean = materialise(run.graph, clean.image.to(self._dtype), run.needed)
            rounded = fill.to(self._dtype)
            count = counting(windows)
            fresh, _ = self._timed(run, windows, reduced_clean, rounded, classes, activation, count)
            logit, others = fresh.logit[windows].double().numpy(), fresh.others[windows].double().numpy()
            try:
                refiner.cells.add_reduced(windows, logit, others)
            except ValueError:  # beyond what the reduced precision can hold
                refiner.forsake_reduced()

        request = refiner.first(self._affordable(deadline))
        while True:
            if len(request.exact):
                compute_exact(request.exact)
                planes = self._planes
                if not bool(planes.logit[refiner.cells.exact.reshape(-1)].isfinite().all()):
                    # The network's outputs are not numbers, which the caller words.
                    return replace(planes, exact=refiner.cells.exact.reshape(-1))
            if len(request.reduced):
                compute_reduced(request.reduced)
            if refiner.has_reduced or not len(request.reduced):
                refiner.update()
            request = refiner.next(self._affordable(deadline))
            if request.empty:
                return self._found(refiner, self._planes)
            if refiner.history:
                on_level(len(refiner.history), refiner.worst, self._found(refiner, self._planes))

    def _run_for(self, n_windows: int) -> GridRun:
        """The operator planned for about so many windows at once."""
        chosen = self.run
        for share, engine in self.refinement.larger:
            if n_windows >= share * self.run.grid.n_windows and engine != self.run.engine:
                chosen = self._larger[share] = self._larger.get(share) or self._prepare(engine)
        return chosen

    def computed(self) -> Planes | None:
        """All cells of the image at work that are computed by now, as `GridRun.computed` gives them.

        Estimates, and what was computed in a reduced precision, are not among them.
        """
        planes = self._planes
        if self._under_way is not None:
            run, windows = self._under_way
            fresh = run.computed(0, None)
            planes = planes if fresh is None else _where(windows, fresh, planes)
        return planes.only_computed()

    def _refiner(self, n_classes: int) -> Refiner:
        refinement = self.refinement
        if isinstance(refinement, PrunedTop):
            goal = Goal("top_cells", refinement.confidence, 1.0)
        else:
            goal = Goal(refinement.metric, refinement.confidence, refinement.target)
        in_one_step = refinement.reduced is not None and refinement.reduced.share >= 1
        problem = Problem(
            self.run.grid, self.kind, n_classes, goal, self.seed, refinement.prices, self._costs, in_one_step
        )
        return TopSearch(problem, refinement.k) if isinstance(refinement, PrunedTop) else Refiner(problem)

    def _affordable(self, deadline: float | None) -> int | None:
        """Windows of the run's precision that the time left allows; None for any number."""
        if deadline is None:
            return None
        return max(0, int(_LEVEL_SHARE * (deadline - time.perf_counter()) / max(self._window_s, 1e-9)))

    def _timed(
        self,
        run: GridRun,
        windows: Windows,
        clean: CleanPass,
        fill: Tensor,
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

    def _found(self, refiner: Refiner, planes: Planes) -> Planes:
        """The maps as they stand: computed cells as they were computed, the others as estimated."""
        exact = refiner.cells.exact.reshape(-1)
        at = torch.from_numpy(exact)[:, None]
        logit, others = (
            torch.from_numpy(np.stack([getattr(each, name).reshape(-1) for each in refiner.estimates], axis=1)).float()
            for name in ("logit", "others")
        )
        stated = self._stated(refiner)
        return Planes(
            torch.where(at, planes.logit, logit),
            torch.where(at, planes.others, others),
            planes.top,
            exact.copy(),
            tuple({**stated, "bound": each.bound} for each in refiner.estimates),
        )

    def _stated(self, refiner: Refiner) -> dict[str, Any]:
        refinement, cells = self.refinement, refiner.cells
        stated: dict[str, Any] = {
            "approx": not cells.exact.all(),
            "metric": "top_cells" if isinstance(refinement, PrunedTop) else refinement.metric,
            "target": 1.0 if isinstance(refinement, PrunedTop) else refinement.target,
            "confidence": refinement.confidence,
            "n_exact": int(cells.exact.sum()),
            "n_audit": refiner.n_audit,
            "n_levels": len(refiner.history),
        }
        if refinement.reduced is not None and cells.reduced.any():
            stated["reduced_precision"] = refinement.reduced.precision
            stated["n_reduced"] = int((cells.reduced & ~cells.exact).sum())
        if isinstance(refinement, ProgressiveRefine) and refinement.within_s is not None:
            stated["within_s"] = refinement.within_s
        return stated


def _where(windows: Windows, fresh: Planes, planes: Planes) -> Planes:
    """The planes with the windows (n,) as they are in `fresh`."""
    at = torch.zeros(len(planes.top), dtype=torch.bool)
    at[torch.from_numpy(windows)] = True
    return Planes(
        torch.where(at[:, None], fresh.logit, planes.logit),
        torch.where(at[:, None], fresh.others, planes.others),
        torch.where(at, fresh.top, planes.top),
    )
