"""Cells: the values of windows, as they pass between operators and the store.

The planner declares what reads and writes cells; the session passes the DuckDB implementations in, so that the
executor never imports the store. A window's value depends on image, model, preprocessing, patch, fill and
precision (the `CellKey`), the channels that are hidden among it, and on where the window lies, not on stride, border
rule or region.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from obeql.planner.grid import AxisGrid, WindowGrid
from obeql.planner.regions import RegionGrid, RegionList

__all__ = [
    "CellKey",
    "CellSource",
    "FailedImage",
    "FloatPlane",
    "ImageHashes",
    "MapCells",
    "axis_places",
    "others_of",
    "shared_windows",
]

FloatPlane = npt.NDArray[np.float32]

#: logit, others and arg-max class of a cell
_CELL_BYTES = 16


@dataclass(frozen=True, slots=True)
class CellKey:
    """What, besides its position, decides a window's value. `channels` are those that windows hide; None: all."""

    image_hash: str
    model_hash: str
    preprocessing_hash: str
    patch: tuple[int, ...]
    fill: str
    precision: str
    channels: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MapCells:
    """The cells of one image, model and class on a grid of windows.

    `starts` and `lengths`: for each axis of the grid, the slowest first, int32 (windows along it,), in pixels of the
    model's input; the window of cell (r, c) of an image begins at (starts[0][r], starts[1][c]). Windows that are listed
    one by one have a row alone, every axis has all of them, and `listed` says which pixels of its box each hides.
    `logit` is float32 of the grid's shape, (rows, cols) of an image, the class's logit z; `others`, float64, is the
    logsumexp of all other classes' logits (0 for sigmoid outputs), such that z - others is the log-odds rounded to
    float32: beside logits of a million a float32 would hold no digit of it.
    `top_class` int32 of that shape: arg-max class with the window hidden. `exact` bool, or None when every cell is
    exact. NaN marks cells that were not computed.
    `clean_logit`, `clean_others`: the same two numbers of the unoccluded image.
    """

    key: CellKey
    class_id: int
    starts: tuple[npt.NDArray[np.int32], ...]
    lengths: tuple[npt.NDArray[np.int32], ...]
    logit: FloatPlane
    others: npt.NDArray[np.float64]
    top_class: npt.NDArray[np.int32]
    clean_logit: float
    clean_others: float
    clean_top_class: int
    exact: npt.NDArray[np.bool_] | None = None
    #: quality of the map: approx, metric, target, confidence, bound, n_exact, n_audit, seed
    quality: dict[str, Any] = field(default_factory=dict)
    #: names and masks of windows that are listed one by one, None of a grid
    listed: RegionList | None = None

    @property
    def tops(self) -> npt.NDArray[np.int32]:
        """Return where windows start on the last axis but one: the first row of each."""
        return self.starts[-2]

    @property
    def lefts(self) -> npt.NDArray[np.int32]:
        """Return where windows start on the last axis: the first column of each."""
        return self.starts[-1]

    @property
    def heights(self) -> npt.NDArray[np.int32]:
        return self.lengths[-2]

    @property
    def widths(self) -> npt.NDArray[np.int32]:
        return self.lengths[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the grid, (rows, cols) of an image; of windows that are listed, one row of them all."""
        return tuple(map(len, self.starts)) if self.listed is None else (1, len(self.starts[-1]))

    @property
    def plane_bytes(self) -> int:
        """Bytes of logit, others and arg-max class, which may be in the store while this map is without them."""
        return math.prod(self.shape) * _CELL_BYTES


def others_of(logit: FloatPlane, log_odds: FloatPlane) -> npt.NDArray[np.float64]:
    """Return `MapCells.others` of logits and log-odds, both float32."""
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, as it should be
        return np.asarray(logit.astype(np.float64) - log_odds.astype(np.float64))


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image of a set that could not be explained, and why."""

    image_id: int
    shown: str
    error: str


class ImageHashes:
    """Hashes of images, as a set that takes 16 bytes an image and can be sent to a worker.

    Only the first 16 characters of a hash count, so that another one may seem to be in it, once in 2**64 times.
    """

    def __init__(self, hashes: Iterable[str] = ()) -> None:
        self._sorted = np.unique(np.array([each[:16].encode() for each in hashes], dtype="S16"))
        self._added: set[str] = set()

    def __contains__(self, image_hash: str) -> bool:
        wanted = np.bytes_(image_hash[:16].encode())
        at = int(np.searchsorted(self._sorted, wanted))
        return (at < len(self._sorted) and self._sorted[at] == wanted) or image_hash in self._added

    def add(self, image_hash: str) -> None:
        self._added.add(image_hash)


class CellSource(Protocol):
    """Reads exact cells that are already stored."""

    def images_with_cells(self, model_hash: str, preprocessing_hash: str) -> ImageHashes:
        """Return the images of which any cells of a model are stored at this moment."""
        ...

    def stored(self, key: CellKey, class_ids: Sequence[int]) -> Sequence[MapCells]:
        """Return all maps that hold exact cells of this content, on whatever grid; cells that are not exact are NaN."""
        ...

    def stored_top_class(self, key: CellKey) -> int | None:
        """Return the class that the unoccluded image ranks first, if a map of it is stored, whatever its patch."""
        ...


def axis_places(
    axis: AxisGrid, starts: Sequence[int] | npt.NDArray[np.int32], lengths: Sequence[int] | npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return where windows of a stored map are windows of a grid, on one axis: places in the grid, places in the map.

    Two windows are the same when they start together and end together, whatever stride put them there.
    """
    place_of = {extent: place for place, extent in enumerate(zip(map(int, starts), map(int, lengths), strict=True))}
    pairs = [
        (here, place_of[extent])
        for here, extent in enumerate(zip(axis.starts, axis.lengths, strict=True))
        if extent in place_of
    ]
    found = np.array(pairs, np.intp).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def shared_windows(grid: WindowGrid, cells: MapCells) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return where windows of a stored map are windows of a grid: an index into planes of the grid, and of the map.

    Windows that are listed are the same where they have one box and hide the same pixels of it, whatever their names.
    """
    if not isinstance(grid, RegionGrid) or cells.listed is None:
        if isinstance(grid, RegionGrid) or cells.listed is not None:
            nothing = np.zeros(0, np.intp)
            return (nothing, nothing), (nothing, nothing)
        extents = zip(grid.axes, cells.starts, cells.lengths, strict=True)
        places = [axis_places(axis, starts, lengths) for axis, starts, lengths in extents]
        return np.ix_(*(here for here, _ in places)), np.ix_(*(there for _, there in places))
    boxes = (each.tolist() for each in (*cells.starts, *cells.lengths))
    place_of = {each: place for place, each in enumerate(zip(*boxes, cells.listed.digests, strict=True))}
    asked = (*(axis.starts for axis in grid.axes), *(axis.lengths for axis in grid.axes))
    wanted = zip(*asked, grid.listed.digests, strict=True)
    pairs = [(here, place_of[each]) for here, each in enumerate(wanted) if each in place_of]
    found = np.array(pairs, np.intp).reshape(-1, 2)
    row = np.zeros(len(found), np.intp)
    return (row, found[:, 0]), (row, found[:, 1])
