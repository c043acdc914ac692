"""Scores and importances agree with plain float64 arithmetic, and keep their digits where that loses them."""

from __future__ import annotations

from decimal import Decimal, getcontext

import numpy as np
import pytest

from obeql.errors import QueryTypeError
from obeql.planner.scores import SCORE_KINDS, importance_of, is_constant, score_kind, score_of

RNG = np.random.default_rng(0)


def test_scores_are_those_of_a_softmax() -> None:
    logits = RNG.normal(size=(5, 7, 4))
    others = np.log(np.exp(logits[..., 1:]).sum(-1))
    probability = np.exp(logits[..., 0]) / np.exp(logits).sum(-1)
    got = {kind: score_of(kind, logits[..., 0], others) for kind in SCORE_KINDS}
    np.testing.assert_allclose(got["probability"], probability, rtol=1e-12)
    np.testing.assert_allclose(got["log_probability"], np.log(probability), rtol=1e-12)
    np.testing.assert_allclose(got["log_odds"], np.log(probability / (1 - probability)), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(got["logit"], logits[..., 0])


@pytest.mark.parametrize("kind", SCORE_KINDS)
def test_importance_is_clean_minus_occluded(kind: str) -> None:
    name = score_kind(kind)
    z, others = RNG.normal(size=(2, 6, 6)) * 4
    clean = (1.5, -0.5)
    wanted = score_of(name, *clean) - score_of(name, z, others)
    np.testing.assert_allclose(importance_of(name, clean, z, others), wanted, rtol=1e-9, atol=1e-14)


def test_saturated_probabilities_keep_their_difference() -> None:
    getcontext().prec = 60

    def sigmoid(x: float) -> Decimal:
        return 1 / (1 + (-Decimal(x)).exp())

    for before, after in ((45.0, 41.0), (41.0, 45.0), (-45.0, -41.0), (30.0, -30.0), (20.0, 20.0), (800.0, 750.0)):
        got = float(importance_of("probability", (before, 0.0), after, 0.0))
        assert got == pytest.approx(float(sigmoid(before) - sigmoid(after)), rel=1e-9)


def test_missing_cells_stay_missing_and_extremes_do_not_warn() -> None:
    z = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30])
    for kind in SCORE_KINDS:
        assert np.isnan(importance_of(kind, (0.0, 0.0), z, 0.0)[0])
        assert np.isnan(score_of(kind, z, 0.0)[0])
    assert list(score_of("probability", z[1:], 0.0)) == [1, 0, 1, 0]


def test_constant_maps() -> None:
    assert is_constant(np.array([1.0, 1 - 5e-7, np.nan])) and not is_constant(np.array([1.0, 1 - 2e-6]))
    assert is_constant(np.array([100.0, 100.00005])) and not is_constant(np.array([np.nan]))


def test_unknown_scores() -> None:
    with pytest.raises(QueryTypeError, match=r"score 'logodds' is unknown.*Did you mean 'log_odds'"):
        score_kind("logodds")
