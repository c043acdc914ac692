"""The map as a proxy guesses it, before anything is stated of it: what people see first.

After the windows that a proxy is tried on are computed, and before the first level of `sampler` or `top_k`. The guesses
are shifted and scaled so that they fit these windows, as the trend of every later estimate is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from obeql.executor.adaptive.observations import Observations
from obeql.executor.adaptive.trend import fit_trend

__all__ = ["guessed_planes"]

Floats = npt.NDArray[np.float64]


def guessed_planes(cells: Observations, k: int, is_logit: bool) -> tuple[Floats, Floats]:
    """Return the logits and the others of class k, (*shape): as computed, elsewhere as guessed.

    `is_logit`: the guesses are logits, not log-odds. What is told of the others is their mean over the computed cells.
    """
    logit, others = cells.planes(k)
    values = logit if is_logit else logit - others
    modelled = fit_trend(cells, cells.exact, k, values, is_logit).modelled
    if not modelled.any():  # which fit nothing: all cells look alike
        modelled = np.full(cells.shape, values[cells.exact].mean())
    rest = np.full(cells.shape, others[cells.exact].mean())
    guessed = modelled if is_logit else modelled + rest
    return np.where(cells.exact, logit, guessed), np.where(cells.exact, others, rest)
