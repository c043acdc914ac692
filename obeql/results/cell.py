"""One window of a heat map, as lists and users see it.

Before: a heat map has its numbers. After: `Heatmap.cell`, `top` and `regions` return it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from obeql.results.quality_text import importance_text

if TYPE_CHECKING:
    pass

__all__ = ["Cell"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One window: its place on the grid, its box in pixels of the model's input, and what hiding it does.

    Where it is not `exact`, the network did not compute it in the precision of the statement: it is estimated.
    A window of a signal lies in row 0, one pixel high: `left` is its first sample, `width` how many it has.
    """

    row: int
    col: int
    top: int
    left: int
    height: int
    width: int
    score: float
    importance: float
    top_class: int
    exact: bool
    #: of windows that a query listed, what it called this one, and which pixels of its box it hides; None: all of them
    name: str | None = None
    mask: npt.NDArray[np.bool_] | None = None
    #: axes of the model's input: 1 of signals, 2 of images
    n_axes: int = 2

    @property
    def place_text(self) -> str:
        """Return what lists call the window: its place on the grid, or the name that a query gave it."""
        place = f"{self.row}, {self.col}" if self.n_axes > 1 else str(self.col)
        return place if self.name is None else self.name

    @property
    def box_text(self) -> str:
        """Return the window's box as lists show it: top, left, height, width, or of signals start, length."""
        box = f"{self.left}, {self.width}"
        return box if self.n_axes == 1 else f"{self.top}, {self.left}, {self.height}, {self.width}"

    @property
    def importance_text(self) -> str:
        """Return the importance as lists show it, marked with `~` where it is estimated."""
        return importance_text(self.importance, self.exact)
