"""What is to be estimated, and what may be asked of an operator meanwhile: the words of `sampler` and `top_k`.

Built by an operator from a plan's refinement; plain data.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import CostShares
from obeql.planner.scores import ScoreKind

__all__ = ["NOTHING", "Goal", "Problem", "Request"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NOTHING: Ints = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Goal:
    """The quality asked for: `target` of `metric`, to be reached at `confidence`; None: as good as time allows."""

    metric: str
    confidence: float
    target: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One grid over one image: the maps of `n_classes` classes, refined together with the same cells.

    The same problem with the same cells leads to the same choices. `prices` say what computing and estimating cost,
    `cell_costs` (*shape) how the cells differ, in any unit; None: all alike. `in_one_step`: a reduced precision
    computes all cells at once when its first ones were good.
    """

    grid: WindowGrid
    kind: ScoreKind
    n_classes: int
    goal: Goal
    seed: int
    prices: CostShares = field(default_factory=CostShares)
    cell_costs: Floats | None = None
    in_one_step: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Windows to compute next, sorted flat numbers (n,): `exact` in the run's precision, `reduced` in the other."""

    exact: Ints
    reduced: Ints

    @property
    def empty(self) -> bool:
        return not len(self.exact) and not len(self.reduced)
