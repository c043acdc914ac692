"""The cells of one grid computed so far: some in the precision of the run, others in one that is faster.

Between an operator, which computes cells, and `sampler`, which estimates the map. Cells of the run's own precision
are exact and count as they are. Those of the reduced precision are off by a rounding error; cells computed both ways
say by how much on the whole, which is taken out, and how much is left.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Observations"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Cells computed both ways, at least, for the reduced ones to be of use.
_LEAST_PAIRS = 8


class Observations:
    """Cells of one grid over one image, for every class asked.

    `exact` and `reduced`, bool (*shape), say which were computed in which precision; a cell may be both.
    """

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        self.shape = shape
        self.exact: Flags = np.zeros(shape, bool)
        self.reduced: Flags = np.zeros(shape, bool)
        # logit and others of every class, NaN where not computed: (2, classes, *shape)
        self._exact = np.full((2, n_classes, *shape), np.nan)
        self._reduced = np.full((2, n_classes, *shape), np.nan)
        #: what a proxy says of every cell, float64 (2, classes, *shape); None without one
        self.guesses: Floats | None = None
        #: proxies among which the one was chosen by cells of the audit
        self.n_tried = 1

    @property
    def seen(self) -> Flags:
        """Return the cells computed in either precision, (*shape)."""
        return self.exact | self.reduced

    @property
    def n_classes(self) -> int:
        return self._exact.shape[1]

    def add(self, windows: Ints, logit: Floats, others: Floats) -> None:
        """Take exact cells: flat numbers (n,), `logit` and `others` (n, classes)."""
        self._put(self._exact, self.exact, windows, logit, others)

    def guess(self, logit: Floats, others: Floats, n_tried: int = 1) -> None:
        """Take a proxy's `logit` and `others` of all cells, (cells, classes). Raises ValueError as `add_reduced`."""
        if not (np.isfinite(logit).all() and np.isfinite(others).all()):
            raise ValueError("a guess is not finite")
        self.n_tried = n_tried
        self.guesses = np.stack([logit.T, others.T]).reshape(2, self.n_classes, *self.shape).astype(np.float64)

    def add_reduced(self, windows: Ints, logit: Floats, others: Floats) -> None:
        """Take cells of the reduced precision, as `add` does. Raises ValueError where a value is not finite."""
        if not (np.isfinite(logit).all() and np.isfinite(others).all()):
            raise ValueError("a cell of the reduced precision is not finite")
        self._put(self._reduced, self.reduced, windows, logit, others)

    def _put(self, planes: Floats, flags: Flags, windows: Ints, logit: Floats, others: Floats) -> None:
        for plane, values in zip(planes, (logit, others), strict=True):
            plane.reshape(len(plane), -1)[:, windows] = values.T
        flags.reshape(-1)[windows] = True

    def forget_reduced(self) -> None:
        """Go on as if nothing had been computed in the reduced precision."""
        self.reduced[:] = False
        self._reduced[:] = np.nan

    def planes(self, k: int) -> tuple[Floats, Floats]:
        """Return `logit` and `others` of class k, (*shape): exact where known, else reduced, else NaN."""
        offsets = self._offsets(k).reshape(2, *(1,) * len(self.shape))
        logit, others = np.where(self.exact, self._exact[:, k], self._reduced[:, k] + offsets)
        return logit, others

    def _offsets(self, k: int) -> Floats:
        """Return what to add to reduced logits and others of class k, (2,): their mean error where both are known."""
        both = self.exact & self.reduced
        if not both.any():
            return np.zeros(2)
        offsets: Floats = (self._exact[:, k, both] - self._reduced[:, k, both]).mean(axis=1)
        return offsets

    def pairs(self, k: int, among: Flags) -> tuple[Ints, Floats, Floats] | None:
        """Return the cells of `among` known both ways.

        They are flat numbers (n,), exact and reduced (2, n) logit and others of class k.

        None for too few of them. The mean error is taken out of the reduced values.
        """
        both = self.exact & self.reduced & among
        if int(both.sum()) < _LEAST_PAIRS:
            return None
        reduced = self._reduced[:, k, both] + self._offsets(k)[:, None]
        return np.flatnonzero(both), self._exact[:, k, both], reduced
