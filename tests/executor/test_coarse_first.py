"""The order of windows: few of them are a preview of the whole map, and it costs nothing."""

from __future__ import annotations

import numpy as np
import pytest

from obeql.executor.operators.coarse_first import coarse_levels, coarse_order
from obeql.planner.grid import WindowGrid


def farthest(grid: WindowGrid, known: np.ndarray) -> int:
    """The largest distance, in cells, of a cell from the nearest known one."""
    places = np.argwhere(known.reshape(grid.shape))
    cells = np.argwhere(np.ones(grid.shape, bool))
    return int(np.abs(cells[:, None] - places[None]).max(axis=-1).min(axis=1).max())


@pytest.mark.parametrize("size", [40, 97])
def test_levels_of_windows_are_lattices(size: int) -> None:
    grid = WindowGrid.over((size, size), (8, 8), (2, 2))
    levels = coarse_levels(grid)
    reach = [farthest(grid, levels <= level) for level in range(4)]
    assert reach[0] <= 8 and reach[1] <= 4 and reach[3] == 0
    assert np.mean(levels == 0) < 0.06


def test_batches_that_reach_all_of_the_map_come_first() -> None:
    grid = WindowGrid.over((232, 232), (8, 8), (4, 4))  # 57 x 57
    # As of an operator on boxes: windows as far from the border as each other, from the outside inward.
    rings = [np.array([i, 56 - i]) for i in range(28)] + [np.array([28])]
    batches = [(rows[:, None] * 57 + cols).reshape(-1) for rows in rings for cols in rings]
    order = coarse_order(grid, batches)
    assert sorted(order.tolist()) == list(range(len(batches)))

    def after(sequence: object, share: float) -> int:
        known = np.zeros(grid.n_windows, bool)
        for number in np.asarray(sequence):
            known[batches[number]] = True
            if known.mean() >= share:
                break
        return farthest(grid, known)

    assert after(range(len(batches)), 0.05) > 20
    assert after(order, 0.05) <= 8


def test_few_windows_have_an_order_too() -> None:
    grid = WindowGrid.over((16, 16), (8, 8), (8, 8))
    assert coarse_order(grid, [np.array([0]), np.array([1, 2]), np.array([3])]).tolist() == [0, 1, 2]
    assert coarse_levels(WindowGrid.over((8, 8), (8, 8), (8, 8))).shape == (1,)
