"""Aggregates over totals: values, how they change with the totals, what their errors are measured by, who is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from obeql.planner.aggregates import Arithmetic, Count, Expression, Mean, Number, Sum, draw_sample, linear, scale_of

SHARE = Arithmetic("/", Sum(0), Sum(1))
EXPRESSIONS = [
    Number(3.0),
    Sum(1),
    Count(0),
    Mean(1),
    SHARE,
    Arithmetic("-", Arithmetic("*", Number(100.0), SHARE), Mean(0)),
    Arithmetic("/", Count(0), Arithmetic("+", Count(0), Count(1))),
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
def test_how_an_expression_changes_with_its_totals(expression: Expression) -> None:
    counts, sums = np.array([40.0, 70.0]), np.array([3.0, 12.0])
    value, by_count, by_sum = linear(expression, counts, sums)
    for totals, slopes in ((counts, by_count), (sums, by_sum)):
        for place in range(2):
            totals[place] += 1e-6
            moved = linear(expression, counts, sums)[0]
            totals[place] -= 1e-6
            assert (moved - value) / 1e-6 == pytest.approx(slopes[place], abs=1e-4, rel=1e-4)


def test_a_quotient_of_nothing_has_no_value() -> None:
    assert np.isnan(linear(SHARE, np.zeros(2), np.zeros(2))[0])


@pytest.mark.parametrize(
    ("expression", "scale"),
    [
        (Mean(1), 5.0),
        (Sum(1), 500.0),
        (Count(1), 100.0),
        (SHARE, 1.0),
        (Arithmetic("*", Number(-100.0), SHARE), 100.0),
        (Arithmetic("/", Mean(1), Number(10.0)), 0.5),
        (Arithmetic("+", Mean(0), Mean(1)), 7.0),
    ],
    ids=str,
)
def test_what_errors_are_measured_by(expression: Expression, scale: float) -> None:
    assert scale_of(expression, 100, np.array([2.0, 5.0]), 0.4) == pytest.approx(scale)


@pytest.mark.parametrize("shape", [(57, 57), (13, 40), (1, 9)])
def test_each_sample_is_part_of_the_next_and_stands_for_all_windows(shape: tuple[int, int]) -> None:
    before = np.zeros(shape, bool)
    for level in range(8):
        strata = draw_sample(shape, 7, level)
        n_drawn = np.bincount(strata.stratum.ravel(), weights=strata.drawn.ravel())
        n_all = np.bincount(strata.stratum.ravel())
        assert (n_drawn == np.minimum(n_all, 2)).all()
        assert strata.weights.sum() == pytest.approx(shape[0] * shape[1])
        assert (before <= strata.drawn).all()
        before = strata.drawn


def test_every_window_is_drawn_equally_often() -> None:
    drawn = sum(draw_sample((6, 6), seed, 1).drawn.astype(int) for seed in range(600))
    assert abs(drawn - 600 * 4 / 36).max() < 5 * np.sqrt(600 * 4 / 36)
