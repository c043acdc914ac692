"""The boxes that a grid's windows change at each layer, and the groups of equal boxes they are put into.

Called by `incremental`, which costs them, and by the executor, which runs exactly these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from obeql.planner.boxes import AxisPlan, Spans, axis_spans, group_windows, merge_steps
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.batches import Batches, Groups
from obeql.planner.physical.cost import positions
from obeql.planner.physical.plan import IncrementalForward

__all__ = ["BoxPlan", "Boxes", "box_plan", "group_counts", "groups_of"]

Floats = npt.NDArray[np.float64]

#: Group counts an axis is tried with.
_N_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 24)


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


def box_plan(network: Network, grid: WindowGrid, engine: IncrementalForward) -> BoxPlan:
    """Return the boxes an engine was costed with; the executor runs exactly these."""
    return Boxes(network, grid, engine.regions, engine.tau).grouped(engine.n_row_groups, engine.n_col_groups)


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


def group_counts(boxes: Boxes, batches: Batches, disabled: frozenset[str]) -> tuple[int, int]:
    """Return how many groups of rows and of columns: many keep boxes small, few keep batches full and lanes busy."""
    if "bucket_windows" in disabled:
        return 1, 1
    rows = _by_count(boxes.rows, boxes.row_weights)
    cols = _by_count(boxes.cols, boxes.col_weights)
    return min((batches.seconds(r, c), kr, kc) for kr, r in rows.items() for kc, c in cols.items())[1:]


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
