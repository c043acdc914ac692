"""What the batches of a grid's windows on boxes cost, and how long lanes wait for the last of them.

Called by `schedule` with the groups that the windows may be divided into.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Batches", "GroupPairs", "Groups", "ListedGroups"]

Floats = npt.NDArray[np.float64]

#: Batches a lane from which on it does not matter that one lane is done before the others.
_MANY_BATCHES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Groups of an axis: their windows, (groups,), and the positions that each of these has at each layer."""

    counts: Floats
    sizes: Floats


@dataclass(frozen=True, slots=True, eq=False)
class GroupPairs:
    """The groups of a grid's windows: every group of rows with every group of columns."""

    rows: Groups
    cols: Groups

    @property
    def windows(self) -> Floats:
        """Return the windows of each pair, (row groups, column groups)."""
        counts: Floats = self.rows.counts[:, None] * self.cols.counts
        return counts

    def heights(self, layer: int) -> Floats:
        """Return the heights of the boxes at a layer, in a shape that goes with `windows`."""
        return self.rows.sizes[:, layer, None]

    def widths(self, layer: int) -> Floats:
        """Return the widths of the boxes at a layer, in a shape that goes with `windows`."""
        return self.cols.sizes[None, :, layer]

    def window_seconds(self, each: Floats) -> Floats:
        """Return seconds of one window of each pair; `each` is what a position costs by layer, (layers,)."""
        seconds: Floats = (self.rows.sizes * each) @ self.cols.sizes.T
        return seconds


class ListedGroups(GroupPairs):
    """The groups of windows that are listed one by one: the first group of rows with the first of columns, and so on.

    Shapes are (groups, 1).
    """

    @property
    def windows(self) -> Floats:
        return self.rows.counts[:, None]

    def widths(self, layer: int) -> Floats:
        return self.cols.sizes[:, layer, None]

    def window_seconds(self, each: Floats) -> Floats:
        seconds: Floats = (self.rows.sizes * self.cols.sizes) @ each
        return seconds[:, None]


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

    def count(self, groups: GroupPairs) -> float:
        """Batches over all groups of windows."""
        return float(self._parts(groups).sum()) / self.together

    def seconds(self, groups: GroupPairs) -> float:
        """Seconds of all windows, with what lanes wait for the last of them."""
        busy = float((groups.windows * groups.window_seconds(self.each)).sum()) + self.count(groups) * self.batch_s
        return busy + self.idle_seconds(groups)

    def idle_seconds(self, groups: GroupPairs) -> float:
        """Seconds that lanes wait for the last batch; of many batches it is nothing to speak of."""
        parts = self._parts(groups)
        if self.n_lanes == 1 or parts.sum() > _MANY_BATCHES * self.n_lanes:
            return 0.0
        windows = self.together * groups.windows
        a_part = windows / parts * groups.window_seconds(self.each) + self.batch_s
        lanes = [0.0] * self.n_lanes
        for seconds in sorted(np.repeat(a_part.reshape(-1), parts.reshape(-1).astype(int)).tolist(), reverse=True):
            lanes[lanes.index(min(lanes))] += seconds
        # A lane's seconds are counted as if it had the time of all of them.
        return (max(lanes) * self.n_lanes - sum(lanes)) / self.together

    def _parts(self, groups: GroupPairs) -> Floats:
        """Batches of each group of windows, of all images."""
        parts: Floats = np.ceil(self.together * groups.windows / self.size)
        return parts
