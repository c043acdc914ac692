"""What a computed window adds to the aggregates that SQL asks for: its columns, put to who reads SQL.

Between `progressive_refine`, which has the numbers of windows, and `executor.adaptive.aggregate_sampler`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from obeql.planner.aggregates import AggregateAim
from obeql.planner.grid import WindowGrid
from obeql.planner.scores import ScoreKind, importance_of, score_of

__all__ = ["AskColumns", "MeasuredWindows"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Returns the columns of an aim (columns, n), NaN for NULL, of windows with these columns of the view `windows` (n,).
AskColumns = Callable[[AggregateAim, Mapping[str, npt.NDArray[Any]]], Floats]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredWindows:
    """The windows of a grid over one image; `clean` has (logit, others) of the image itself, of each class."""

    aim: AggregateAim
    ask: AskColumns
    grid: WindowGrid
    kind: ScoreKind
    clean: Sequence[tuple[float, float]]

    def __call__(self, k: int, windows: Ints, logit: Floats, others: Floats) -> Floats:
        """Return what windows add to each column of the aim, and their importance: (columns + 1, n)."""
        *_, rows, cols = self.grid.places(windows)
        by_row, by_col = self.grid.rows, self.grid.cols
        z, rest = logit.astype(np.float32), others
        importance = importance_of(self.kind, self.clean[k], z, rest)
        clean_score = score_of(self.kind, *(np.array(each) for each in self.clean[k]))
        columns: dict[str, npt.NDArray[Any]] = {
            "row": rows,
            "col": cols,
            "top_px": np.asarray(by_row.starts, np.int64)[rows],
            "left_px": np.asarray(by_col.starts, np.int64)[cols],
            "height_px": np.asarray(by_row.lengths, np.int64)[rows],
            "width_px": np.asarray(by_col.lengths, np.int64)[cols],
            "patch": np.full(len(windows), f"{self.grid.patch[0]}x{self.grid.patch[1]}"),
            "importance": importance,
            "score": score_of(self.kind, z, rest),
            "clean_score": np.full(len(windows), float(clean_score)),
        }
        return np.concatenate([self.ask(self.aim, columns), importance[None]])
