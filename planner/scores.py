"""Scores of a class and the importance of a window, from the two numbers that are stored for each cell.

With z the class's logit and o the logsumexp of the other classes' logits (0 for sigmoid outputs) every score is a
view: logit = z, log-odds = z - o, probability = sigmoid(z - o), log-probability = log sigmoid(z - o). Importance is
f(clean) - f(occluded), computed without the cancellation that subtracting two probabilities near 1 would suffer.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from obeql.errors import QueryTypeError, nearest

__all__ = ["SCORE_KINDS", "ScoreKind", "importance_of", "is_constant", "score_kind", "score_of"]

ScoreKind = Literal["probability", "log_odds", "log_probability", "logit"]
SCORE_KINDS: tuple[ScoreKind, ...] = get_args(ScoreKind)

Floats = npt.NDArray[np.float64]


def score_kind(name: str) -> ScoreKind:
    """Return `name` as a score kind; raises QueryTypeError for any other name."""
    for kind in SCORE_KINDS:
        if name == kind:
            return kind
    allowed = ", ".join(SCORE_KINDS)
    raise QueryTypeError(f"score '{name}' is unknown; allowed are {allowed}.{nearest(name, SCORE_KINDS)}")


def score_of(kind: ScoreKind, logit: npt.ArrayLike, others: npt.ArrayLike) -> Floats:
    """Return the score as float64 of the inputs' shape; NaN where an input is NaN."""
    z, o = np.asarray(logit, np.float64), np.asarray(others, np.float64)
    if kind == "logit":
        return z.copy()
    with np.errstate(invalid="ignore"):
        odds = z - o
    if kind == "log_odds":
        return odds
    log_probability = _log_sigmoid(odds)
    return log_probability if kind == "log_probability" else np.exp(log_probability)


def importance_of(
    kind: ScoreKind,
    clean: tuple[float, float],
    logit: npt.ArrayLike,
    others: npt.ArrayLike,
) -> Floats:
    """Return f(clean) - f(occluded) as float64; `clean` is (logit, others) of the unoccluded image.

    Positive is evidence for the class. Differences of probabilities keep their relative precision where both are
    close to 1 (1e-20 is not rounded to 0).
    """
    z, o = np.asarray(logit, np.float64), np.asarray(others, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if kind == "logit":
            return np.asarray(clean[0] - z)
        before, after = np.float64(clean[0]) - np.float64(clean[1]), z - o
        if kind == "log_odds":
            return np.asarray(before - after)
        if kind == "log_probability":
            return np.asarray(_log_sigmoid(before) - _log_sigmoid(after))
        # s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)) for a >= b, where s is the sigmoid.
        high, low = np.maximum(before, after), np.minimum(before, after)
        size = -np.expm1(low - high) * np.exp(_log_sigmoid(high) + _log_sigmoid(-low))
        return np.asarray(np.where(before >= after, size, -size))


def is_constant(scores: npt.NDArray[Any]) -> bool:
    """True when the finite scores vary by less than 1e-6 max(1, max|score|), the limit of what float32 carries."""
    finite = scores[np.isfinite(scores)]
    if finite.size == 0:
        return False
    return bool(np.ptp(finite) < 1e-6 * max(1.0, float(np.abs(finite).max())))


def _log_sigmoid(x: npt.ArrayLike) -> Floats:
    # numpy flags NaN here, which is no more than a cell that was not computed.
    with np.errstate(invalid="ignore"):
        return -np.logaddexp(0.0, -np.asarray(x, np.float64))
