"""Cells that are stored already, laid out on the grid of a plan: what need not be computed.

Before a grid is computed, `executor` asks the plan's `CellSource`, through a `CellLookup`, for exact cells of the same
content; `GridScan` then computes the windows that are left. A stored map of any stride, border rule or region serves,
as far as its windows are windows of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from obeql.planner.cells import CellKey, CellSource, FloatPlane, MapCells, shared_windows
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import ExplainPlan

__all__ = ["CellLookup", "KnownCells", "known_cells"]


class CellLookup:
    """A source as a run sees it: asked only about images of which it had cells when the run began, or has since.

    A query costs milliseconds, which a network may need for a whole image.
    """

    def __init__(self, source: CellSource, plan: ExplainPlan) -> None:
        self._source = source
        self._images = source.images_with_cells(plan.model.model_hash, plan.model.preprocessing.digest())

    def stored(self, key: CellKey, class_ids: Sequence[int]) -> Sequence[MapCells]:
        return self._source.stored(key, class_ids) if key.image_hash in self._images else ()

    def stored_top_class(self, key: CellKey) -> int | None:
        return self._source.stored_top_class(key) if key.image_hash in self._images else None

    def note(self, image_hash: str) -> None:
        """Remember that the sink has cells of an image by now."""
        self._images.add(image_hash)


@dataclass(frozen=True, slots=True, eq=False)
class KnownCells:
    """The stored cells of one grid and image.

    `logit` (float32) and `others` (float64) are (windows, classes), NaN where nothing is stored; `top` is int32
    (windows,), -1 there. `clean` holds, for the classes of which a map is stored, the two numbers of the unoccluded
    image and the class that it ranks first.
    """

    logit: FloatPlane
    others: npt.NDArray[np.float64]
    top: npt.NDArray[np.int32]
    clean: dict[int, tuple[float, float, int]]

    @property
    def left(self) -> npt.NDArray[np.bool_]:
        """Windows to compute, (windows,): those of which the store lacks any class."""
        return np.asarray(np.isnan(self.logit).any(axis=1))


def known_cells(grid: WindowGrid, classes: Sequence[int], maps: Sequence[MapCells]) -> KnownCells:
    """Lay stored exact cells out on `grid`, for `classes` in their order.

    A map of this very grid goes first, so that a repeated statement finds its own map again bit by bit; then the
    older one.
    """
    shape = (*grid.shape, len(classes))
    logit = np.full(shape, np.nan, np.float32)
    others = np.full(shape, np.nan, np.float64)
    top = np.full(grid.shape, -1, np.int32)
    clean: dict[int, tuple[float, float, int]] = {}
    for cells in sorted(maps, key=lambda cells: not _covers(cells, grid)):
        clean.setdefault(cells.class_id, (cells.clean_logit, cells.clean_others, cells.clean_top_class))
        here, there = shared_windows(grid, cells)
        held = ~np.isnan(cells.logit[there]) & ~np.isnan(cells.others[there])
        top[here] = np.where(held & (top[here] < 0), cells.top_class[there], top[here])
        for k in (k for k, class_id in enumerate(classes) if class_id == cells.class_id):
            fresh = held & np.isnan(logit[..., k][here])
            for plane, stored in ((logit[..., k], cells.logit), (others[..., k], cells.others)):
                plane[here] = np.where(fresh, stored[there], plane[here])
    n_windows = grid.n_windows
    return KnownCells(logit.reshape(n_windows, -1), others.reshape(n_windows, -1), top.reshape(-1), clean)


def _covers(cells: MapCells, grid: WindowGrid) -> bool:
    """Return whether a map holds every window of the grid and no other."""
    return tuple(map(tuple, cells.starts)) == tuple(axis.starts for axis in grid.axes) and not bool(
        np.isnan(cells.logit).any()
    )
