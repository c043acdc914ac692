"""A map while it is being computed: what a progress callback may look at between batches.

Made by `executor` beside each `Progress`; reading it costs a copy of the cells, so nobody pays who does not look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from obeql.planner.grid import WindowGrid
from obeql.planner.scores import ScoreKind, importance_of

__all__ = ["Preview"]


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """The map of one image, grid and class so far.

    `clean` is (logit, others) of the image; `cells` returns (logit, others) of its cells, (windows, classes) with the
    class asked about first, NaN where not computed yet, or None before the first batch. `picture` returns the model's
    input as RGB (H, W, 3) in 0..1.
    """

    grid: WindowGrid
    class_name: str
    score_kind: ScoreKind
    clean: tuple[Tensor, Tensor]
    cells: Callable[[], tuple[Tensor, Tensor] | None]
    picture: Callable[[], npt.NDArray[np.float32]] | None = None

    def importance(self) -> npt.NDArray[np.float32]:
        """Return clean score - score, float32 (rows, cols); NaN where not computed yet."""
        found = self.cells()
        if found is None:
            return np.full(self.grid.shape, np.nan, np.float32)
        logit, others = (plane[:, 0].cpu().numpy() for plane in found)
        clean = float(self.clean[0]), float(self.clean[1])
        importance = importance_of(self.score_kind, clean, logit, others)
        return np.asarray(importance, np.float32).reshape(self.grid.shape)
