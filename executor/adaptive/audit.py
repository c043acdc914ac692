"""How much larger errors may be than expected, by a sample of them: an upper confidence limit.

Used by `estimator` for the audit's errors and for those of rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["tail_ratio", "upper_loss", "upper_ratio"]

Floats = npt.NDArray[np.float64]

_NONE: Floats = np.empty(0)


def upper_ratio(expected: Floats, found: Floats, level: float, squares: Floats = _NONE) -> float:
    """Return a limit, at least 1/4, of how many times larger squared errors are than expected, on the whole.

    The limit is exceeded with probability `level`. `expected` and `found` (n,) are squared errors of the sample;
    `squares` (m,) are others over their variances, which tell with these how common large ones are.
    """
    total = float(expected.sum())
    if total <= 0.0:
        return 1.0
    ratio = float(found.sum()) / total
    share = expected / total
    squares = np.concatenate([squares, found[expected > 0] / expected[expected > 0]])
    # Relative variance of one squared error: 2 for a normal distribution, more where large errors are more common.
    tail = max(2.0, float(squares.var() / max(squares.mean() ** 2, 1e-30)))
    freedom = 2.0 / (float((share * share).sum()) * tail)
    return max(0.25, ratio / _lower_chi_square(freedom, level))


#: Draws of random counts: at least so many, and so many beyond the quantile that is read.
_DRAWN, _BEYOND = 400, 4


def upper_loss(n: int, losses: Callable[[Floats], Floats], level: float) -> tuple[float, float]:
    """Return a limit that a loss in [0, 1] exceeds with probability `level`, by a sample of n cells; and the loss.

    `losses(counts)` gives it where the cells count so many times, (draws, n) -> (draws,). The limit assumes nothing of
    how errors are distributed: the cells get random counts (Rubin, The Bayesian bootstrap, 1981), and a part, as large
    as the sample may have missed, counts as lost (Gaffke, Mathematical Methods of Statistics 14(4), 2005).
    """
    counts = np.random.default_rng(0).exponential(size=(max(_DRAWN, math.ceil(_BEYOND / level)), n + 1))
    missed = counts[:, -1] / counts.sum(axis=1)
    lost = missed + (1.0 - missed) * losses(counts[:, :-1])
    return float(np.quantile(lost, 1.0 - level, method="higher")), float(losses(np.ones((1, n)))[0])


#: How slowly large errors become rarer: their share falls with this power of their size.
_TAIL_POWER = 3.0


def tail_ratio(squares: Floats, n_others: int) -> float:
    """Return how many times larger the largest of `n_others` errors may be than if errors were normal; at least 1.

    `squares` (n,) are squared errors of a sample over their variances. The largest of them is compared with the largest
    of so many normal ones, and grows with the number of others as the largest of a heavy-tailed distribution does.
    """
    mean = float(squares.mean()) if len(squares) else 0.0
    if mean <= 0.0:
        return 1.0
    usual = NormalDist().inv_cdf(1.0 - 0.25 / len(squares))  # the median of the largest of n, by size
    more = float(max(1.0, n_others / len(squares)) ** (1.0 / _TAIL_POWER))
    return max(1.0, more * float(np.sqrt(squares.max() / mean)) / usual)


def _lower_chi_square(freedom: float, level: float) -> float:
    """Return a quantile of chi-square over its degrees of freedom (Wilson and Hilferty 1931), at least 1/50."""
    spread = 2.0 / (9.0 * freedom)
    root = 1.0 - spread + NormalDist().inv_cdf(level) * spread**0.5
    return max(0.02, root) ** 3 if root > 0.2715 else 0.02
