"""The order in which windows are computed: coarse to fine, so that few of them already show the whole map.

Between an operator's batches, which are what they are, and their execution: batches change places, and the windows of
a large group are dealt out to its batches so that the first ones lie far apart. How many batches there are, of which
boxes and of how many windows, stays the same, and so does what they cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt

from obeql.planner.grid import WindowGrid

__all__ = ["coarse_levels", "coarse_order"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Every 8th window of an axis comes first, then every 4th and every 2nd.
_STEPS = (8, 4, 2)
#: Tiles along an axis of the map that should have a window each, first of few and then of more; and batches from which
#: on the finer ones take longer to look at than they are worth.
_TILES, _MOST_BATCHES = (8, 16), 1500


def coarse_levels(grid: WindowGrid) -> Ints:
    """Return (windows,): 0 for every 8th window along all axes, 1 for every 4th, 2 for every 2nd, 3 for the others."""
    axes = []
    for n in grid.shape:
        place, level = np.arange(n), np.full(n, len(_STEPS))
        for number, step in reversed(list(enumerate(_STEPS))):
            level[place % step == step // 2 if n > step else place % step == 0] = number
        axes.append(level)
    return np.asarray(reduce(np.maximum.outer, axes).reshape(-1), np.int64)


def coarse_order(grid: WindowGrid, batches: Sequence[Ints]) -> Ints:
    """Return the order of batches, each of flat window numbers (n,): those first that together reach all of the map.

    Of what is left the one comes next that reaches most new tiles of the map a window; once all are reached, the tiles
    are taken smaller. The rest keeps its order.
    """
    left = np.ones(len(batches), bool)
    order: list[int] = []
    sizes = np.array([len(batch) for batch in batches], np.float64)
    for n_tiles in _TILES:
        if n_tiles > _TILES[0] and len(batches) > _MOST_BATCHES:
            break
        reached = _reached(grid, batches, n_tiles)
        missing = np.ones(reached.shape[1], bool)
        for done in order:
            missing &= ~reached[done]
        while left.any():
            gain = (reached & missing).sum(axis=1) / sizes
            gain[~left] = 0
            best = int(np.argmax(gain))
            if gain[best] <= 0:
                break
            order.append(best)
            left[best] = False
            missing &= ~reached[best]
    return np.array([*order, *np.flatnonzero(left)], np.int64)


def _reached(grid: WindowGrid, batches: Sequence[Ints], n_tiles: int) -> Flags:
    """Return which tiles of the map each batch has a window in, (batches, tiles)."""
    n_tiles_of = [min(n_tiles, n) for n in grid.shape]
    found = np.zeros((len(batches), math.prod(n_tiles_of)), bool)
    for number, batch in enumerate(batches):
        places = zip(np.unravel_index(batch, grid.shape), n_tiles_of, grid.shape, strict=True)
        tiles = tuple(place * tiles // n for place, tiles, n in places)
        found[number, np.ravel_multi_index(tiles, n_tiles_of)] = True
    return found
