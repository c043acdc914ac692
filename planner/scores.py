"""Scores of a class and the importance of a window, from the two numbers that are stored for each cell.

With z the class's logit and o the logsumexp of the other classes' logits (0 for sigmoid outputs) every score is a
view: logit = z, log-odds = z - o, probability = sigmoid(z - o), log-probability = log sigmoid(z - o). Of outputs
that are no classes z is the value itself, and the only score. Importance is f(clean) - f(occluded). The formulas are
those of the store's views (`views.sql`), which say why they are safe: what Python and SQL say of a cell agrees, in
value and in rank.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from obeql.errors import InternalError, QueryTypeError, nearest

__all__ = [
    "AS_IT_IS",
    "SCORE_KINDS",
    "SCORE_NAMES",
    "ScoreKind",
    "importance_of",
    "is_constant",
    "other_score",
    "score_kind",
    "score_of",
]

ScoreKind = Literal["probability", "log_odds", "log_probability", "logit", "value"]
SCORE_KINDS: tuple[ScoreKind, ...] = get_args(ScoreKind)
#: What people read of a score, and its unit.
SCORE_NAMES: dict[ScoreKind, tuple[str, str]] = {
    "probability": ("probability", ""),
    "log_odds": ("log-odds", "nats"),
    "log_probability": ("log-probability", "nats"),
    "logit": ("logit", ""),
    "value": ("value", "in its own unit"),
}
#: Scores that are the network's output itself.
AS_IT_IS: frozenset[ScoreKind] = frozenset({"logit", "value"})

Floats = npt.NDArray[np.float64]


def score_kind(name: str) -> ScoreKind:
    """Return `name` as a score kind; raises QueryTypeError for any other name."""
    for kind in SCORE_KINDS:
        if name == kind:
            return kind
    allowed = ", ".join(SCORE_KINDS)
    raise QueryTypeError(f"score '{name}' is unknown; allowed are {allowed}.{nearest(name, SCORE_KINDS)}")


def other_score(kind: ScoreKind, wanted: str) -> ScoreKind:
    """Return the score that a map of score `kind` is to be seen as; raises QueryTypeError where it has none such."""
    found = score_kind(wanted)
    if (found == "value") != (kind == "value"):
        raise QueryTypeError(
            f"score '{wanted}' does not fit a map of values; its only score is value."
            if kind == "value"
            else "score 'value' is for models with outputs=value; the score that a classifier returns is logit."
        )
    return found


def score_of(kind: ScoreKind, logit: npt.ArrayLike, others: npt.ArrayLike) -> Floats:
    """Return the score as float64 of the inputs' shape; NaN where an input is NaN.

    Log-odds are rounded to the precision of the logits: of float32 planes, as stored ones are, to float32.
    """
    z = _ranked(kind, logit, others)
    if kind in ("log_odds", *AS_IT_IS):
        return z
    if kind == "log_probability":
        return _log_sigmoid(z)
    if kind == "probability":
        return _sigmoid(z)
    raise InternalError(f"score {kind!r} has no formula")


def importance_of(
    kind: ScoreKind,
    clean: tuple[float, float],
    logit: npt.ArrayLike,
    others: npt.ArrayLike,
) -> Floats:
    """Return f(clean) - f(occluded) as float64; `clean` is (logit, others) of the unoccluded image.

    Positive is evidence for the class. Differences of probabilities keep their relative precision where both are
    close to 1 (1e-20 is not rounded to 0). `clean` is rounded as the cells are: where nothing changes, 0 is exact.
    """
    precision = np.asarray(logit).dtype
    before, after = _ranked(kind, np.asarray(clean[0], precision), clean[1]), _ranked(kind, logit, others)
    with np.errstate(invalid="ignore"):
        if kind in ("log_odds", *AS_IT_IS):
            return np.asarray(before - after)
        if kind == "log_probability":
            return np.asarray(_log_sigmoid(before) - _log_sigmoid(after))
        if kind != "probability":
            raise InternalError(f"importance in {kind!r} has no formula")
        # Near 1 the digits are in what is missing to 1, which is the sigmoid of -z.
        if before > 0:
            return np.asarray(_sigmoid(-after) - _sigmoid(-before))
        return np.asarray(_sigmoid(before) - _sigmoid(after))


def is_constant(scores: npt.NDArray[Any]) -> bool:
    """True when the finite scores vary by less than 1e-6 max(1, max|score|), the limit of what float32 carries."""
    finite = scores[np.isfinite(scores)]
    if finite.size == 0:
        return False
    return bool(np.ptp(finite) < 1e-6 * max(1.0, float(np.abs(finite).max())))


def _ranked(kind: ScoreKind, logit: npt.ArrayLike, others: npt.ArrayLike) -> Floats:
    """What the score is made of: the logit, or the log-odds in the precision of the logits, as they are stored."""
    if kind in AS_IT_IS:
        return np.array(logit, np.float64)
    # numpy flags NaN here, which is no more than a cell that was not computed.
    with np.errstate(invalid="ignore", over="ignore"):
        odds = np.asarray(logit, np.float64) - np.asarray(others, np.float64)
        return np.asarray(odds.astype(np.asarray(logit).dtype), np.float64)


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _log_sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.minimum(x, 0.0) - 2.0 * np.arctanh(1.0 / (1.0 + 2.0 * np.exp(np.abs(x)))))
