"""The boxes that a grid's windows change at each layer, and the groups of equal boxes they are put into.

Called by `incremental`, which costs them, and by the executor, which runs exactly these.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from obeql.planner.boxes import AxisGroup, AxisPlan, Spans, aligned, axis_spans, group_windows, merge_steps
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.batches import Batches, GroupPairs, Groups, ListedGroups
from obeql.planner.physical.cost import positions
from obeql.planner.physical.plan import IncrementalForward
from obeql.planner.physical.region_groups import split_groups
from obeql.planner.regions import RegionGrid

__all__ = ["BoxPlan", "Boxes", "box_plan", "boxes_of", "group_counts", "groups_of"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Group counts an axis is tried with.
_N_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
#: Group counts that windows listed one by one are tried with.
_N_LISTED_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True, eq=False)
class BoxPlan:
    """The boxes of an `IncrementalForward`: groups of rows and of columns; every pair is a group of windows."""

    rows: AxisPlan
    cols: AxisPlan

    @property
    def positions(self) -> Floats:
        """Return the positions computed of each layer over all windows, (layers,)."""
        computed: Floats = np.asarray(self.rows.positions * self.cols.positions, np.float64)
        return computed

    @property
    def groups(self) -> Iterator[tuple[AxisGroup, AxisGroup]]:
        """Yield the groups of windows, each as its rows and its columns."""
        return itertools.product(self.rows.groups, self.cols.groups)

    @property
    def counted(self) -> GroupPairs:
        """Return how many windows the groups have, and how large their boxes are."""
        return GroupPairs(groups_of(self.rows), groups_of(self.cols))

    def windows_of(self, rows: AxisGroup, cols: AxisGroup, n_images: int) -> tuple[Ints, Ints, Ints, Ints]:
        """Return the windows of a group in `n_images` images, one after the other (n,).

        Places in the group's rows and columns, the numbers of their images, and the windows' numbers in the grid.
        """
        counts = len(rows.windows), len(cols.windows), n_images
        row_of, col_of, images = (each.reshape(-1) for each in np.indices(counts))
        n_cols = sum(len(group.windows) for group in self.cols.groups)
        return row_of, col_of, images, rows.windows[row_of] * n_cols + cols.windows[col_of]


def box_plan(network: Network, grid: WindowGrid, engine: IncrementalForward) -> BoxPlan:
    """Return the boxes an engine was costed with; the executor runs exactly these."""
    boxes = boxes_of(network, grid, engine.regions, engine.tau)
    return boxes.grouped(engine.n_row_groups, engine.n_col_groups)


class Boxes:
    """Spans of a grid's windows in a network, and their groups by how many there may be."""

    def __init__(self, network: Network, grid: WindowGrid, regions: Sequence[bool], tau: float = 1.0) -> None:
        self.network = network
        self.regions = tuple(regions)
        #: layers, beyond the image, that run on boxes, and those that run on whole maps
        self.on_boxes = [i for i, on in enumerate(regions) if on and i]
        self.on_whole_maps = [i for i, on in enumerate(regions) if not on]
        self.rows: Spans = axis_spans(network, 0, grid.rows, regions, tau)
        self.cols: Spans = axis_spans(network, 1, grid.cols, regions, tau)
        #: relative cost of one more position: multiply-accumulates and a share for moving channels
        weights = np.array(
            [
                (layer.macs / positions(layer) + 8.0 * layer.shape[0]) if self.regions[i] and i else 0.0
                for i, layer in enumerate(network.layers)
            ]
        )
        self.weights = weights
        self.row_weights = weights * self.mean_size(self.cols)
        self.col_weights = weights * self.mean_size(self.rows)

    @staticmethod
    def mean_size(spans: Spans) -> Floats:
        """Mean span of the windows at each layer."""
        mean: Floats = spans.sizes.mean(axis=1)
        return mean

    def grouped(self, n_row_groups: int, n_col_groups: int) -> BoxPlan:
        return BoxPlan(
            group_windows(self.network, 0, self.rows, self.row_weights, n_row_groups),
            group_windows(self.network, 1, self.cols, self.col_weights, n_col_groups),
        )

    def least_positions(self) -> Floats:
        """Positions of each layer over all windows if every window had exactly its own box."""
        least: Floats = self.rows.sizes.sum(axis=1).astype(float) * self.cols.sizes.sum(axis=1)
        return least

    def group_counts(self, batches: Batches) -> tuple[int, int]:
        """Return how many groups of rows and of columns take the fewest seconds."""
        rows = _by_count(self.rows, self.row_weights)
        cols = _by_count(self.cols, self.col_weights)
        pairs = ((kr, kc, GroupPairs(r, c)) for kr, r in rows.items() for kc, c in cols.items())
        return min((batches.seconds(groups), kr, kc) for kr, kc, groups in pairs)[1:]


class RegionBoxes(Boxes):
    """Spans of regions, which are grouped as they are listed: by the sizes of their boxes in both axes at once."""

    def grouped(self, n_row_groups: int, n_col_groups: int) -> BoxPlan:
        return self._plan(split_groups(self.rows.sizes, self.cols.sizes, self.weights, (n_row_groups,))[n_row_groups])

    def least_positions(self) -> Floats:
        least: Floats = (self.rows.sizes.astype(float) * self.cols.sizes).sum(axis=1)
        return least

    def group_counts(self, batches: Batches) -> tuple[int, int]:
        found = split_groups(self.rows.sizes, self.cols.sizes, self.weights, _N_LISTED_GROUPS)
        _, n_groups = min((batches.seconds(self._plan(groups).counted), n) for n, groups in found.items())
        return n_groups, n_groups

    def _plan(self, groups: Sequence[Ints]) -> BoxPlan:
        rows = [aligned(self.network, 0, self.rows, windows) for windows in groups]
        cols = [aligned(self.network, 1, self.cols, group.windows, in_order=True) for group in rows]
        return RegionBoxPlan(AxisPlan(tuple(rows)), AxisPlan(tuple(cols)))


class RegionBoxPlan(BoxPlan):
    """The boxes of regions: a group of rows and the group of columns beside it hold the same windows, in one order."""

    @property
    def positions(self) -> Floats:
        computed: Floats = np.sum(
            [len(r.windows) * (r.sizes * c.sizes).astype(np.float64) for r, c in self.groups], axis=0
        )
        return computed

    @property
    def groups(self) -> Iterator[tuple[AxisGroup, AxisGroup]]:
        return zip(self.rows.groups, self.cols.groups, strict=True)

    @property
    def counted(self) -> GroupPairs:
        return ListedGroups(groups_of(self.rows), groups_of(self.cols))

    def windows_of(self, rows: AxisGroup, cols: AxisGroup, n_images: int) -> tuple[Ints, Ints, Ints, Ints]:
        places, images = (each.reshape(-1) for each in np.indices((len(rows.windows), n_images)))
        return places, places, images, rows.windows[places]


def boxes_of(network: Network, grid: WindowGrid, regions: Sequence[bool], tau: float = 1.0) -> Boxes:
    """Return the spans of a grid's windows in a network, or of windows that are listed."""
    kind = RegionBoxes if isinstance(grid, RegionGrid) else Boxes
    return kind(network, grid, regions, tau)


def group_counts(boxes: Boxes, batches: Batches, disabled: frozenset[str]) -> tuple[int, int]:
    """Return how many groups of rows and of columns: many keep boxes small, few keep batches full and lanes busy."""
    return (1, 1) if "bucket_windows" in disabled else boxes.group_counts(batches)


def _by_count(spans: Spans, weights: Floats) -> dict[int, Groups]:
    """Return the groups of an axis for each number of them."""
    found = {}
    for k, groups in merge_steps(spans, weights, _N_GROUPS).items():
        counts = np.array([float(len(g)) for g in groups])
        found[k] = Groups(counts, np.stack([spans.sizes[:, g].max(axis=1) for g in groups]).astype(float))
    return found


def groups_of(plan: AxisPlan) -> Groups:
    """Return the windows and sizes of the groups of an axis."""
    return Groups(_counts(plan), np.stack([group.sizes for group in plan.groups]).astype(float))


def _counts(plan: AxisPlan) -> Floats:
    return np.array([float(len(group.windows)) for group in plan.groups])
