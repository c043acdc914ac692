"""Groups of listed windows: every window once, and no more work than in one group."""

from __future__ import annotations

import numpy as np

from obeql.planner.physical.region_groups import split_groups


def work(groups: list, heights: np.ndarray, widths: np.ndarray, weights: np.ndarray) -> float:
    return sum(len(g) * float(weights @ (heights[:, g].max(axis=1) * widths[:, g].max(axis=1))) for g in groups)


def test_groups_hold_every_window_once_and_save_work() -> None:
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(1, 60, (4, 50)), rng.integers(1, 60, (4, 50))
    weights = rng.random(4)
    found = split_groups(np.stack([heights, widths]), weights, (1, 2, 5, 12))
    spent = []
    for wanted, groups in found.items():
        assert len(groups) <= wanted
        assert sorted(np.concatenate(groups).tolist()) == list(range(50))
        spent.append(work(groups, heights, widths, weights))
    assert spent == sorted(spent, reverse=True) and spent[-1] < 0.7 * spent[0]


def test_windows_of_one_size_stay_together() -> None:
    heights, widths = np.full((3, 9), 7), np.full((3, 9), 5)
    assert [len(g) for g in split_groups(np.stack([heights, widths]), np.ones(3), (8,))[8]] == [9]
    assert [len(g) for g in split_groups(np.stack([heights, widths])[:, :, :1], np.ones(3), (4,))[4]] == [1]
