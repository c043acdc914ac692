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
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.executor.grid_run import GridRun, Planes
from obeql.executor.materialise import CleanPass
from obeql.executor.refine.refiner import Goal, Refiner
from obeql.executor.refine.top_search import TopSearch
from obeql.executor.reuse import KnownCells
from obeql.planner.catalog import Activation
from obeql.planner.physical import ProgressiveRefine, PrunedTop, Refinement
from obeql.planner.refinement import cell_costs
from obeql.planner.scores import ScoreKind

__all__ = ["OnLevel", "RefineRun"]

#: called after each level with its number, counted from 1, the worst bound, and the maps as they stand
OnLevel = Callable[[int, float, Planes], None]

#: Share of the time left that a level may be expected to take; the rest is for estimating and storing.
_LEVEL_SHARE = 0.7


class RefineRun:
    """One grid of a plan that is refined, image after image, with the engine of `run`."""

    def __init__(self, run: GridRun, refinement: Refinement, kind: ScoreKind, seed: int) -> None:
        self.run = run
        self.refinement = refinement
        self.kind = kind
        self.seed = seed
        self._costs = cell_costs(run.graph.network(), run.grid, run.engine)
        estimated = run.engine.cost.seconds / (run.grid.n_windows * max(refinement.expected_share, 1e-9))
        #: seconds a window, estimated until measured
        self._window_s = estimated

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
        planes = Planes(
            torch.full((grid.n_windows, len(classes)), float("nan")),
            torch.full((grid.n_windows, len(classes)), float("nan")),
            torch.full((grid.n_windows,), -1, dtype=torch.int32),
        )
        if known is not None:
            planes = planes.over(known)
            stored = np.flatnonzero(~known.left)
            refiner.add(stored, known.logit[stored].astype(float), known.others[stored].astype(float))
        windows = refiner.first(self._affordable(deadline))
        level = 0
        while True:
            if len(windows):
                planes = self._computed(windows, refiner, planes, clean, fill, classes, activation, tell)
                if not bool(planes.logit[refiner.known.reshape(-1)].isfinite().all()):
                    # The network's outputs are not numbers, which the caller words.
                    return replace(planes, exact=refiner.known.reshape(-1))
            refiner.update()
            level += 1
            most = self._affordable(deadline)
            windows = refiner.next(most) if most is None or most > 0 else windows[:0]
            found = self._found(refiner, planes)
            if not len(windows):
                return found
            on_level(level, refiner.worst, found)

    def _refiner(self, n_classes: int) -> Refiner:
        grid, refinement = self.run.grid, self.refinement
        if isinstance(refinement, PrunedTop):
            return TopSearch(grid, self.kind, n_classes, refinement.k, refinement.confidence, self.seed, self._costs)
        goal = Goal(refinement.metric, refinement.confidence, refinement.target)
        return Refiner(grid, self.kind, n_classes, goal, self.seed, self._costs)

    def _affordable(self, deadline: float | None) -> int | None:
        """Windows that the time left allows; None for any number."""
        if deadline is None:
            return None
        return max(0, int(_LEVEL_SHARE * (deadline - time.perf_counter()) / self._window_s))

    def _computed(
        self,
        windows: npt.NDArray[np.int64],
        refiner: Refiner,
        planes: Planes,
        clean: CleanPass,
        fill: Tensor,
        classes: Sequence[int],
        activation: Activation,
        tell: Callable[[int], None],
    ) -> Planes:
        """Compute windows; returns the planes with them, and gives them to the refiner."""
        wanted = np.zeros(self.run.grid.n_windows, bool)
        wanted[windows] = True
        n_before = int(refiner.known.sum())
        n_others = self.run.grid.n_windows - len(windows)
        started = time.perf_counter()
        fresh = self.run.compute_some(clean, fill, classes, activation, lambda n: tell(n_before + n - n_others), wanted)
        self._window_s = (time.perf_counter() - started) / len(windows)
        refiner.add(windows, fresh.logit[windows].double().numpy(), fresh.others[windows].double().numpy())
        at = torch.from_numpy(wanted)
        return Planes(
            torch.where(at[:, None], fresh.logit, planes.logit),
            torch.where(at[:, None], fresh.others, planes.others),
            torch.where(at, fresh.top, planes.top),
        )

    def _found(self, refiner: Refiner, planes: Planes) -> Planes:
        """The maps as they stand: computed cells as they were computed, the others as estimated."""
        exact = refiner.known.reshape(-1)
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
        refinement, whole = self.refinement, bool(refiner.known.all())
        stated: dict[str, Any] = {
            "approx": not whole,
            "metric": "top_cells" if isinstance(refinement, PrunedTop) else refinement.metric,
            "target": 1.0 if isinstance(refinement, PrunedTop) else refinement.target,
            "confidence": refinement.confidence,
            "n_exact": int(refiner.known.sum()),
            "n_audit": len(refiner.audit),
            "n_levels": len(refiner.history),
        }
        if isinstance(refinement, ProgressiveRefine) and refinement.within_s is not None:
            stated["within_s"] = refinement.within_s
        return stated
