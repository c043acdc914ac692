"""Where two images differ: few boxes that hold all pixels which do.

Used by `frame_update`. A frame of a camera that stands still differs from the last one where something moves, often in
several places far apart: one box around all of them would hold most of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from obeql.planner.physical.frames import Box

__all__ = ["changed_boxes", "joined_boxes"]

#: Pixels without a change that part two boxes, at first; the most boxes there are.
_GAP = 4
_MOST = 12


def changed_boxes(differs: npt.NDArray[np.bool_]) -> list[Box]:
    """Return at most a dozen boxes that hold every True of an array of any number of axes; none if there is none.

    The recursive cut at empty lines (the X-Y cut of Nagy and Seth, 1984), with a gap that grows until boxes are few.
    """
    gap = _GAP
    while len(boxes := _cut(differs, (0,) * differs.ndim, gap)) > _MOST:
        gap *= 2
    return boxes


def _cut(differs: npt.NDArray[np.bool_], origin: tuple[int, ...], gap: int) -> list[Box]:
    """Cut a part of the array that begins at `origin`, until no axis has a gap any more."""
    axes = range(differs.ndim)
    lines = (np.asarray(differs.any(axis=tuple(a for a in axes if a != axis))) for axis in axes)
    runs = [_runs(line, gap) for line in lines]
    if not all(runs):
        return []
    axis = max(axes, key=lambda a: len(runs[a]))
    if len(runs[axis]) == 1:
        if all(run[0] == (0, size) for run, size in zip(runs, differs.shape, strict=True)):
            return [tuple((first, first + size) for first, size in zip(origin, differs.shape, strict=True))]
        inner = tuple(slice(*run[0]) for run in runs)
        return _cut(differs[inner], tuple(o + run[0][0] for o, run in zip(origin, runs, strict=True)), gap)
    found: list[Box] = []
    for start, stop in runs[axis]:
        part = tuple(slice(start, stop) if a == axis else slice(None) for a in axes)
        found += _cut(differs[part], tuple(o + start if a == axis else o for a, o in enumerate(origin)), gap)
    return found


def _runs(line: npt.NDArray[np.bool_], gap: int) -> list[tuple[int, int]]:
    """Return the runs [start, stop) of True in a line; those less than `gap` apart are one."""
    places = np.flatnonzero(line)
    if not len(places):
        return []
    breaks = np.flatnonzero(np.diff(places) > gap)
    starts, stops = places[np.r_[0, breaks + 1]], places[np.r_[breaks, len(places) - 1]] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def joined_boxes(boxes: Sequence[Box], cost: Callable[[Sequence[Box]], float]) -> list[Box]:
    """Return the boxes with those put together that cost less so, two at a time, the greatest saving first."""
    found = list(boxes)
    alone = {box: cost([box]) for box in found} if len(found) > 1 else {}
    while len(found) > 1:
        savings = {}
        for a, b in combinations(found, 2):
            union = tuple((min(p[0], q[0]), max(p[1], q[1])) for p, q in zip(a, b, strict=True))
            alone.setdefault(union, cost([union]))
            savings[a, b] = alone[a] + alone[b] - alone[union], union
        (a, b), (saving, union) = max(savings.items(), key=lambda each: each[1][0])
        if saving < 0:
            break
        found = [box for box in found if box not in (a, b)] + [union]
    return found
