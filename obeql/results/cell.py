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
    A window of a signal lies in row 0, one pixel high: `left` is its first sample, `width` how many it has. A window of
    a volume has a `plane` on the grid, and begins at `front`, `depth` planes deep.
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
    #: axes of the model's input: 1 of signals, 2 of images, 3 of volumes
    n_axes: int = 2
    plane: int = 0
    front: int = 0
    depth: int = 1

    @property
    def place(self) -> tuple[int, ...]:
        """Return the place on the grid: a number an axis, the slowest first."""
        return (self.plane, self.row, self.col)[-self.n_axes :]

    @property
    def starts(self) -> tuple[int, ...]:
        """Return where the window starts on each axis of the model's input."""
        return (self.front, self.top, self.left)[-self.n_axes :]

    @property
    def extents(self) -> tuple[int, ...]:
        """Return how far the window reaches along each axis."""
        return (self.depth, self.height, self.width)[-self.n_axes :]

    @property
    def place_text(self) -> str:
        """Return what lists call the window: its place on the grid, or the name that a query gave it."""
        return ", ".join(map(str, self.place)) if self.name is None else self.name

    @property
    def box_text(self) -> str:
        """Return the window's box as lists show it: where it starts, then its extents: top, left, height, width."""
        return ", ".join(map(str, (*self.starts, *self.extents)))

    @property
    def importance_text(self) -> str:
        """Return the importance as lists show it, marked with `~` where it is estimated."""
        return importance_text(self.importance, self.exact)
