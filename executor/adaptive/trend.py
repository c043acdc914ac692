"""The trend of a map: a guess at every cell, shifted and scaled so that it fits the cells that were chosen.

Between `observations`, which keeps the guesses of a proxy, and `estimator`, whose field describes what the trend leaves
over (universal kriging). A guess that tells nothing gets a scale of about 0, and the map is estimated as without it.
The audit's cells have no part in the fit, so that what they say of errors holds for whatever the guess is.

Source: Cressie, Statistics for Spatial Data (1993), section 3.4; the trend is fitted by least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from obeql.executor.adaptive.observations import Observations

__all__ = ["Trend", "fit_trend"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: Cells that a guess is fitted to, at least; with fewer there is no trend.
_LEAST_FITTED = 8


@dataclass(frozen=True, slots=True, eq=False)
class Trend:
    """What is expected of each cell, float64 (*shape): of the modelled value, the logit and the others; or 0."""

    modelled: Floats
    logit: Floats
    others: Floats
    #: how much of its own value each cell that the trend of the modelled value is fitted to has in it, (*shape)
    own: Floats

    def less(self, values: Floats) -> Floats:
        """Return modelled values (*shape) without what the trend says of them."""
        left: Floats = values - self.modelled
        return left


def fit_trend(cells: Observations, chosen: Flags, k: int, values: Floats, is_logit: bool) -> Trend:
    """Return the trend of class k, fitted to the cells `chosen` (*shape) of the modelled `values` (*shape).

    `is_logit`: the logits are what is modelled, not the log-odds.
    """
    flat = np.zeros(cells.shape)
    if cells.guesses is None:
        return Trend(flat, flat, flat, flat)
    logit, others = cells.guesses[:, k]
    at = chosen & cells.seen
    known = cells.planes(k)
    guess = logit if is_logit else logit - others
    modelled = _fitted(guess, values, at)
    return Trend(modelled, _fitted(logit, known[0], at), _fitted(others, known[1], at), _own(guess, at))


def _own(guess: Floats, at: Flags) -> Floats:
    """Return the leverage of each of the cells `at` in a straight line that is fitted to them; 0 elsewhere."""
    x = guess[at]
    own = np.zeros(guess.shape)
    if len(x) >= _LEAST_FITTED:
        apart = np.square(x - x.mean())
        own[at] = 1.0 / len(x) + np.divide(apart, apart.sum(), out=np.zeros(len(x)), where=apart.sum() > 0)
    return own


def _fitted(guess: Floats, values: Floats, at: Flags) -> Floats:
    """Return the guess times a scale plus a shift, by least squares to `values` at the cells `at`; or 0."""
    x, y = guess[at], values[at]
    spread = float(np.square(x - x.mean()).sum()) if len(x) >= _LEAST_FITTED else 0.0
    if spread <= len(x) * (1e-9 * max(1.0, float(np.abs(guess).max()))) ** 2:
        return np.zeros(guess.shape)
    scale = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    fitted: Floats = y.mean() + scale * (guess - x.mean())
    return fitted
