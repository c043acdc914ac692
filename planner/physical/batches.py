"""What the batches of a grid's windows on boxes cost, and how long lanes wait for the last of them.

Called by `schedule` with the groups that the windows may be divided into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Batches", "GroupProduct", "Groups", "ListedGroups", "summed_products"]

Floats = npt.NDArray[np.float64]

#: Batches a lane from which on it does not matter that one lane is done before the others.
_MANY_BATCHES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Groups of an axis: their windows, (groups,), and the positions that each of these has at each layer."""

    counts: Floats
    sizes: Floats


@dataclass(frozen=True, slots=True, eq=False)
class GroupProduct:
    """The groups of a grid's windows: every group of one axis with every group of the others."""

    axes: tuple[Groups, ...]

    @property
    def windows(self) -> Floats:
        """Return the windows of each combination, (groups of the first axis, groups of the second, ...)."""
        return _outer([groups.counts for groups in self.axes])

    def sizes(self, layer: int) -> list[Floats]:
        """Return the sizes of the boxes at a layer along each axis, in shapes that go with `windows`."""
        return list(np.ix_(*(groups.sizes[:, layer] for groups in self.axes)))

    def window_seconds(self, each: Floats) -> Floats:
        """Return seconds of one window of each combination; `each` is what a position costs by layer, (layers,)."""
        return summed_products(each, [groups.sizes for groups in self.axes])


class ListedGroups(GroupProduct):
    """The groups of windows that are listed one by one: the first of each axis together, then the second, and so on.

    Shapes are (groups,).
    """

    @property
    def windows(self) -> Floats:
        return self.axes[0].counts

    def sizes(self, layer: int) -> list[Floats]:
        return [groups.sizes[:, layer] for groups in self.axes]

    def window_seconds(self, each: Floats) -> Floats:
        seconds: Floats = np.prod([groups.sizes for groups in self.axes], axis=0) @ each
        return seconds


def summed_products(each: Floats, sizes: Sequence[Floats]) -> Floats:
    """Return the sum over layers of what a position costs, (layers,), times the products of one size of every axis.

    `sizes` are (n, layers) for each axis; the result is (n of the first axis, n of the second, ...).
    """
    *others, last = sizes
    weighted = each
    for along in others:
        weighted = weighted[..., None, :] * along
    total: Floats = weighted @ last.T
    return total


def _outer(vectors: Sequence[Floats]) -> Floats:
    """Return the products of one number of each vector, an axis a vector."""
    product: Floats = np.ones(())
    for vector in vectors:
        product = product[..., None] * vector
    return product


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

    def count(self, groups: GroupProduct) -> float:
        """Return the batches over all groups of windows."""
        return float(self._parts(groups).sum()) / self.together

    def seconds(self, groups: GroupProduct) -> float:
        """Return the seconds of all windows, with what lanes wait for the last of them."""
        busy = float((groups.windows * groups.window_seconds(self.each)).sum()) + self.count(groups) * self.batch_s
        return busy + self.idle_seconds(groups)

    def idle_seconds(self, groups: GroupProduct) -> float:
        """Return the seconds that lanes wait for the last batch; of many batches it is nothing to speak of."""
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

    def _parts(self, groups: GroupProduct) -> Floats:
        """Return the batches of each group of windows, of all images."""
        parts: Floats = np.ceil(self.together * groups.windows / self.size)
        return parts
