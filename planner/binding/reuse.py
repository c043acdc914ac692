"""Answering queries from stored cells: which windows of a statement's grids the store holds already.

Comes after `bind`, for a statement that is to be planned: asks the catalog what is stored of its images; the rule
`reuse_stored_cells` turns the answer into a `ReuseCells` node, `lower` shrinks the estimates by it. These are counts
for the plan. What is taken in the end is decided by content, image by image, when the statement runs (`cached_cells`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from obeql.errors import QueryError
from obeql.planner.binding.bound import BoundExplain
from obeql.planner.binding.labels import labelled_classes, labels_of
from obeql.planner.catalog import Catalog, ImageRecord, ModelRecord, StoredGrid, StoredMaps
from obeql.planner.cells import axis_places
from obeql.planner.class_selector import ClassSelector
from obeql.planner.grid import WindowGrid
from obeql.planner.logical.plan import (
    CachedCells,
    LogicalNode,
    ScanImages,
    ScoreCells,
    find,
    grids_of,
    rewrite,
)
from obeql.planner.regions import RegionGrid

__all__ = ["held_cells", "with_stored_cells"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Where a stored map meets a grid: an index into planes of the grid, and of the map."""

    here: tuple[npt.NDArray[np.intp], ...]
    there: tuple[npt.NDArray[np.intp], ...]


def with_stored_cells(bound: BoundExplain, catalog: Catalog) -> BoundExplain:
    """Return a bound statement that knows which of its cells are stored, where these may answer."""
    options, grids = bound.options, grids_of(bound.logical)
    if any(isinstance(grid, RegionGrid) for grid in grids):  # which are looked up when they are computed
        return bound
    stored = (
        catalog.stored_grids(bound.images, bound.model, options["fill"], options["precision"]) if bound.reuse else ()
    )
    if not stored:
        return bound
    classes = next(find(bound.logical, ScoreCells)).classes
    held = held_cells(bound.images, bound.model, classes, grids, stored)

    def known(node: LogicalNode) -> LogicalNode:
        return replace(node, held=held) if isinstance(node, ScanImages) else node

    complete = all(each.n_cells == each.grid.n_windows * len(bound.images) for each in held)
    return replace(bound, logical=rewrite(bound.logical, known), complete=complete)


def held_cells(
    images: Sequence[ImageRecord],
    model: ModelRecord,
    classes: ClassSelector,
    grids: Sequence[WindowGrid],
    stored: Sequence[StoredMaps],
) -> tuple[CachedCells, ...]:
    """Return, for each grid, how many of its windows over all images are stored for every asked class, and where.

    Classes that only the network can tell (FOR TOP, or FOR PREDICTED of an image without a stored map) count as not
    stored. A window that several runs hold counts for the oldest.
    """
    parts: dict[tuple[int, ...], _Part] = {}
    counts: list[dict[str, int]] = [{} for _ in grids]
    for alike in stored:
        for asked, n_images in _asked(classes, model, images, alike).items():
            for number, grid in enumerate(grids):
                maps = [each for each in alike.maps if (each.patch, each.channels) == (grid.patch, grid.channels)]
                for run, n_cells in _by_run(grid, number, asked, maps, parts).items():
                    counts[number][run] = counts[number].get(run, 0) + n_cells * n_images
    return tuple(
        CachedCells(grid, sum(runs.values()), tuple(sorted(runs.items(), key=lambda item: -item[1])))
        for grid, runs in zip(grids, counts, strict=True)
    )


def _asked(
    classes: ClassSelector, model: ModelRecord, images: Sequence[ImageRecord], alike: StoredMaps
) -> dict[tuple[int, ...], int]:
    """Return classes asked of images with the same maps, and of how many of them.

    There are none where only the network can tell.
    """
    n_images = len(alike.images)
    if (known := classes.known(model.n_classes)) is not None:
        return {tuple(known): n_images}
    match classes.kind:
        case "label":
            found: dict[tuple[int, ...], int] = {}
            for labels, count in Counter(labels_of(images[place]) for place in alike.images).items():
                with suppress(QueryError):
                    asked = tuple(labelled_classes(model, labels))
                    found[asked] = found.get(asked, 0) + count
            return found
        case "predicted":
            return {(0,) if model.n_classes == 1 else (alike.maps[0].clean_top_class,): n_images}
    return {}


def _by_run(
    grid: WindowGrid,
    number: int,
    asked: Sequence[int],
    maps: Sequence[StoredGrid],
    parts: dict[tuple[int, ...], _Part],
) -> dict[str, int]:
    """Return windows of one grid and image held for every asked class, by the run that holds them for the first one."""
    counts: dict[str, int] = {}
    if not set(asked) <= {each.class_id for each in maps}:
        return counts
    held = np.ones(grid.shape, bool)
    holders: list[tuple[str, Mask]] = []
    for class_id in dict.fromkeys(asked):
        union = np.zeros(grid.shape, bool)
        for each in maps:
            if each.class_id != class_id:
                continue
            mask = _mask(grid, each, number, parts)
            if class_id == asked[0]:
                holders.append((each.run, mask & ~union))
            union |= mask
        held &= union
    for run, mask in holders:
        if n_cells := int((mask & held).sum()):
            counts[run] = counts.get(run, 0) + n_cells
    return counts


def _mask(grid: WindowGrid, each: StoredGrid, number: int, parts: dict[tuple[int, ...], _Part]) -> Mask:
    # Maps of one run share their axes, so that each pair of grids is compared once.
    key = number, *map(id, each.axes)
    if key not in parts:
        places = [axis_places(axis, *stored) for axis, stored in zip(grid.axes, each.axes, strict=True)]
        parts[key] = _Part(np.ix_(*(here for here, _ in places)), np.ix_(*(there for _, there in places)))
    part = parts[key]
    mask = np.zeros(grid.shape, bool)
    mask[part.here] = True if each.exact is None else each.exact[part.there]
    return mask
