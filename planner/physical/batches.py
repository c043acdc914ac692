"""What the batches of a grid's windows on boxes cost, and how long lanes wait for the last of them.

Called by `schedule` with the groups that the windows may be divided into.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Batches", "Groups"]

Floats = npt.NDArray[np.float64]

#: Batches a lane from which on it does not matter that one lane is done before the others.
_MANY_BATCHES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Groups of an axis: their windows, (groups,), and the positions that each of these has at each layer."""

    counts: Floats
    sizes: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """What batches of windows on boxes cost: `each` second of a position by layer, `batch_s` of a batch however small.

    A batch has `size` windows at most, which may be those of `together` images. Seconds are those of one image, of
    lanes that are all at work.
    """

    each: Floats
    batch_s: float
    size: int
    n_lanes: int
    together: int

    def count(self, n_rows: Floats, n_cols: Floats) -> float:
        """Batches over all pairs of row and column groups."""
        return float(self._parts(n_rows, n_cols).sum()) / self.together

    def seconds(self, rows: Groups, cols: Groups) -> float:
        """Seconds of all windows, with what lanes wait for the last of them."""
        n_batches = self.count(rows.counts, cols.counts)
        windows = rows.counts[:, None] * cols.counts
        busy = float((windows * self._window_seconds(rows, cols)).sum()) + n_batches * self.batch_s
        return busy + self.idle_seconds(rows, cols)

    def idle_seconds(self, rows: Groups, cols: Groups) -> float:
        """Seconds that lanes wait for the last batch; of many batches it is nothing to speak of."""
        parts = self._parts(rows.counts, cols.counts)
        if self.n_lanes == 1 or parts.sum() > _MANY_BATCHES * self.n_lanes:
            return 0.0
        windows = self.together * rows.counts[:, None] * cols.counts
        a_part = windows / parts * self._window_seconds(rows, cols) + self.batch_s
        lanes = [0.0] * self.n_lanes
        for seconds in sorted(np.repeat(a_part.reshape(-1), parts.reshape(-1).astype(int)).tolist(), reverse=True):
            lanes[lanes.index(min(lanes))] += seconds
        # A lane's seconds are counted as if it had the time of all of them.
        return (max(lanes) * self.n_lanes - sum(lanes)) / self.together

    def _window_seconds(self, rows: Groups, cols: Groups) -> Floats:
        """Seconds of one window of each pair of groups, (row groups, column groups)."""
        seconds: Floats = (rows.sizes * self.each) @ cols.sizes.T
        return seconds

    def _parts(self, n_rows: Floats, n_cols: Floats) -> Floats:
        """Batches of each pair of groups, of all images."""
        parts: Floats = np.ceil(self.together * n_rows[:, None] * n_cols / self.size)
        return parts
