"""Which of the windows that a query lists go together: those whose boxes are of like size.

Called by `box_groups`. The windows of a grid are grouped on each axis by itself; those of a list have an
extent of their own on every axis, so that they are divided by all at once, again and again, where that saves most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["split_groups"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def split_groups(sizes: Ints, weights: Floats, n_groups: Sequence[int]) -> dict[int, list[Ints]]:
    """Return, for each wanted number of groups, the windows of at most so many groups.

    `sizes` (axes, layers, windows) are the windows' boxes, `weights` (layers,) what a position costs at each layer.
    All windows of a group are computed at its largest size on every axis; the group is divided next whose division
    saves most, at the size on the axis where it does.
    """
    n_windows = sizes.shape[2]
    groups = [np.arange(n_windows)]
    splits = [_best_split(sizes, weights, groups[0])]
    found: dict[int, list[Ints]] = {}
    for wanted in sorted(set(n_groups)):
        while len(groups) < wanted:
            number = int(np.argmax([saved for saved, _, _ in splits]))
            saved, one, other = splits[number]
            if saved <= 0:
                break
            groups[number : number + 1] = [one, other]
            splits[number : number + 1] = [_best_split(sizes, weights, part) for part in (one, other)]
        found[wanted] = list(groups)
    return found


def _best_split(sizes: Ints, weights: Floats, windows: Ints) -> tuple[float, Ints, Ints]:
    """Return what dividing a group saves at most, and the two groups; 0 and nothing where it saves nothing."""
    best = 0.0, windows[:0], windows[:0]
    own = sizes[:, :, windows]
    counts = np.arange(1, len(windows) + 1)
    for along in own:
        order = np.argsort(weights @ along, kind="stable")
        lower = counts * _cost(own[:, :, order], weights)
        upper = counts * _cost(own[:, :, order[::-1]], weights)
        both = lower[:-1] + upper[::-1][1:]
        if not len(both):
            continue
        at = int(np.argmin(both))
        saved = float(lower[-1] - both[at])
        if saved > best[0]:
            best = saved, windows[order[: at + 1]], windows[order[at + 1 :]]
    return best


def _cost(sizes: Ints, weights: Floats) -> Floats:
    """Return what one window costs in a group of the first n windows, for every n."""
    cost: Floats = weights @ np.maximum.accumulate(sizes, axis=2).prod(axis=0)
    return cost
