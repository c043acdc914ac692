"""Limits of errors by a sample of them."""

from __future__ import annotations

import numpy as np
import pytest

from obeql.executor.adaptive.audit import tail_ratio, upper_ratio


def test_largest_of_normal_errors_is_as_large_as_expected() -> None:
    squares = np.random.default_rng(0).standard_normal(2000) ** 2
    assert tail_ratio(squares, 2000) == pytest.approx(1.0, abs=0.25)


def test_heavy_tails_and_more_cells_widen() -> None:
    samples = [np.random.default_rng(seed).standard_t(3, 500) ** 2 for seed in range(20)]
    assert np.median([tail_ratio(squares, 500) for squares in samples]) > 1.5
    heavy = samples[0]
    assert tail_ratio(heavy, 4000) == pytest.approx(2 * tail_ratio(heavy, 500))
    assert tail_ratio(np.zeros(5), 9) == tail_ratio(np.empty(0), 9) == 1.0


def test_upper_ratio_is_exceeded_as_rarely_as_stated() -> None:
    random, expected = np.random.default_rng(1), np.ones(60)
    limits = [upper_ratio(expected, random.standard_normal(60) ** 2, 0.05) for _ in range(400)]
    assert np.mean(np.array(limits) < 1.0) < 0.09
    assert upper_ratio(np.zeros(3), np.ones(3), 0.05) == 1.0
