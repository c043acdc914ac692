"""Scores of a class and the importance of a window, from the two numbers that are stored for each cell.

With z the class's logit and o the logsumexp of the other classes' logits (0 for sigmoid outputs) every score is a
view of z or of the log-odds z - o. `SCORES` declares each of them once: what is drawn and written of it, its formula in
Python and in SQL. From there come the values of `score=`, the views and macros of the store
(`obeql.store.score_sql`) and the tables of the documentation. Importance is f(clean) - f(occluded). What Python and SQL
say of a cell agrees, in value and in rank.

Formulas are those that keep their digits. sigmoid(z) = 1 / (1 + exp(-z)) is safe as it stands: exp overflows to
infinity and the quotient to 0. log sigmoid(z) = min(z, 0) - log(1 + exp(-|z|)), and 2 atanh(x) = log((1 + x) / (1 - x))
keeps the digits of a logarithm near log(1), where ln(1 + ..) loses them. Probabilities near 1 have their digits in what
they lack to 1, which is sigmoid(-z).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from obeql.errors import QueryTypeError, nearest

__all__ = [
    "AS_IT_IS",
    "OF_LOGIT",
    "SCORES",
    "SCORE_KINDS",
    "Score",
    "ScoreKind",
    "importance_of",
    "is_constant",
    "other_score",
    "score_kind",
    "score_of",
]

Floats = npt.NDArray[np.float64]


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _log_sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.minimum(x, 0.0) - 2.0 * np.arctanh(1.0 / (1.0 + 2.0 * np.exp(np.abs(x)))))


@dataclass(frozen=True, slots=True)
class Formula:
    """A function of one number, in Python and in SQL, where `{z}` stands for the number."""

    python: Callable[[Floats], Floats]
    sql: str


@dataclass(frozen=True, slots=True)
class Score:
    """A score: a function of the logit z of a class, or of its log-odds z - o, that does not fall where they rise.

    `name` and `unit` are what pictures write, `sql_unit` what the view `windows` does, `written` what the documentation
    does. Without a formula it is what it is made of. `short_of_one` is what it lacks to 1: where the image's own z is
    positive, importance is the difference of that, which keeps its digits. `inverse` is the z of a score in SQL,
    infinite outside of its range, by which a histogram of log-odds bounds counts of a score.
    """

    made_of: Literal["logit", "log_odds"]
    name: str
    written: str
    unit: str = ""
    sql_unit: str = "of the output"
    formula: Formula | None = None
    short_of_one: Formula | None = None
    inverse: str | None = None


ScoreKind = Literal["probability", "log_odds", "log_probability", "logit", "value"]

SCORES: dict[ScoreKind, Score] = {
    "probability": Score(
        "log_odds",
        "probability",
        "1 / (1 + exp(-(z - o)))",
        sql_unit="0 to 1",
        formula=Formula(_sigmoid, "1 / (1 + exp(-{z}))"),
        short_of_one=Formula(lambda z: _sigmoid(-z), "1 / (1 + exp({z}))"),
        inverse="CASE WHEN {z} <= 0 THEN '-inf' WHEN {z} >= 1 THEN 'inf' ELSE ln({z} / (1 - {z})) END",
    ),
    "log_odds": Score("log_odds", "log-odds", "z - o", "nats", "nats"),
    "log_probability": Score(
        "log_odds",
        "log-probability",
        "log of the probability",
        "nats",
        "nats",
        Formula(_log_sigmoid, "least({z}, 0) - 2 * atanh(1 / (1 + 2 * exp(abs({z}))))"),
        inverse="CASE WHEN {z} >= 0 THEN 'inf' ELSE {z} - ln(1 - exp({z})) END",
    ),
    "logit": Score("logit", "logit", "z"),
    "value": Score("logit", "value", "z, of outputs that are no classes; their only score", "in its own unit"),
}
SCORE_KINDS: tuple[ScoreKind, ...] = get_args(ScoreKind)
#: Scores that are made of the logit; the others are made of the log-odds.
OF_LOGIT: frozenset[ScoreKind] = frozenset(kind for kind, score in SCORES.items() if score.made_of == "logit")
#: Scores without a formula: the logit or the log-odds themselves.
AS_IT_IS: frozenset[ScoreKind] = frozenset(kind for kind, score in SCORES.items() if score.formula is None)


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
    z, formula = _ranked(kind, logit, others), SCORES[kind].formula
    return z if formula is None else formula.python(z)


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
        formula, short_of_one = SCORES[kind].formula, SCORES[kind].short_of_one
        if formula is None:
            return np.asarray(before - after)
        if short_of_one is not None and before > 0:
            return np.asarray(short_of_one.python(after) - short_of_one.python(before))
        return np.asarray(formula.python(before) - formula.python(after))


def is_constant(scores: npt.NDArray[Any]) -> bool:
    """Return whether the finite scores vary by less than 1e-6 max(1, max|score|), the limit of what float32 carries."""
    finite = scores[np.isfinite(scores)]
    if finite.size == 0:
        return False
    return bool(np.ptp(finite) < 1e-6 * max(1.0, float(np.abs(finite).max())))


def _ranked(kind: ScoreKind, logit: npt.ArrayLike, others: npt.ArrayLike) -> Floats:
    """Return what the score is made of; log-odds are in the precision of the logits, as they are stored."""
    if kind in OF_LOGIT:
        return np.array(logit, np.float64)
    # numpy flags NaN here, which is no more than a cell that was not computed.
    with np.errstate(invalid="ignore", over="ignore"):
        odds = np.asarray(logit, np.float64) - np.asarray(others, np.float64)
        return np.asarray(odds.astype(np.asarray(logit).dtype), np.float64)
