"""The boxes that a grid's windows change at each layer, and the groups of equal boxes they are put into.

Called by `incremental`, which costs them, and by the executor, which runs exactly these.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from obeql.planner.boxes import AxisGroup, AxisPlan, Spans, aligned, axis_spans, group_windows, merge_steps
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.batches import Batches, GroupProduct, Groups, ListedGroups
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
    """The boxes of an `IncrementalForward`: groups of each axis; every combination of them is a group of windows."""

    axes: tuple[AxisPlan, ...]

    @property
    def positions(self) -> Floats:
        """Return the positions computed of each layer over all windows, (layers,)."""
        computed: Floats = np.prod([np.asarray(plan.positions, np.float64) for plan in self.axes], axis=0)
        return computed

    @property
    def groups(self) -> Iterator[tuple[AxisGroup, ...]]:
        """Yield the groups of windows, each as its groups of every axis."""
        return itertools.product(*(plan.groups for plan in self.axes))

    @property
    def counted(self) -> GroupProduct:
        """Return how many windows the groups have, and how large their boxes are."""
        return GroupProduct(tuple(map(groups_of, self.axes)))

    def windows_of(self, group: tuple[AxisGroup, ...], n_images: int) -> tuple[tuple[Ints, ...], Ints, Ints]:
        """Return the windows of a group in `n_images` images, one after the other (n,).

        Places in the group of each axis, the numbers of their images, and the windows' numbers in the grid.
        """
        indices = np.indices((*(len(axis.windows) for axis in group), n_images))
        *places, images = (each.reshape(-1) for each in indices)
        numbers = np.zeros_like(images)
        for plan, axis, place in zip(self.axes, group, places, strict=True):
            numbers = numbers * sum(len(each.windows) for each in plan.groups) + axis.windows[place]
        return tuple(places), images, numbers


def box_plan(network: Network, grid: WindowGrid, engine: IncrementalForward) -> BoxPlan:
    """Return the boxes an engine was costed with; the executor runs exactly these."""
    return boxes_of(network, grid, engine.regions, engine.tau).grouped(engine.n_groups)


class Boxes:
    """Spans of a grid's windows in a network, and their groups by how many there may be."""

    def __init__(self, network: Network, grid: WindowGrid, regions: Sequence[bool], tau: float = 1.0) -> None:
        self.network = network
        self.regions = tuple(regions)
        #: layers, beyond the image, that run on boxes, and those that run on whole maps
        self.on_boxes = [i for i, on in enumerate(regions) if on and i]
        self.on_whole_maps = [i for i, on in enumerate(regions) if not on]
        self.axes: list[Spans] = [axis_spans(network, k, axis, regions, tau) for k, axis in enumerate(grid.axes)]
        #: relative cost of one more position: multiply-accumulates and a share for moving channels
        self.weights = np.array(
            [
                (layer.macs / positions(layer) + 8.0 * layer.shape[0]) if self.regions[i] and i else 0.0
                for i, layer in enumerate(network.layers)
            ]
        )

    def mean_sizes(self) -> list[Floats]:
        """Return the mean span of the windows at each layer, of each axis."""
        return [spans.sizes.mean(axis=1) for spans in self.axes]

    def axis_weights(self) -> list[Floats]:
        """Return what one more position along each axis costs at each layer: the other axes count with their mean."""
        means = self.mean_sizes()
        return [
            math.prod((mean for other, mean in enumerate(means) if other != axis), start=self.weights)
            for axis in range(len(means))
        ]

    def grouped(self, n_groups: Sequence[int]) -> BoxPlan:
        """Return the windows of each axis in at most so many groups."""
        axes = zip(self.axes, self.axis_weights(), n_groups, strict=True)
        return BoxPlan(
            tuple(group_windows(self.network, k, spans, weights, n) for k, (spans, weights, n) in enumerate(axes))
        )

    def least_positions(self) -> Floats:
        """Return the positions of each layer over all windows if every window had exactly its own box."""
        least: Floats = np.prod([spans.sizes.sum(axis=1).astype(float) for spans in self.axes], axis=0)
        return least

    def group_counts(self, batches: Batches) -> tuple[int, ...]:
        """Return how many groups of each axis take the fewest seconds."""
        by_count = [_by_count(*axis) for axis in zip(self.axes, self.axis_weights(), strict=True)]
        options = itertools.product(*(found.items() for found in by_count))
        return min((batches.seconds(GroupProduct(tuple(g for _, g in o))), tuple(n for n, _ in o)) for o in options)[1]


class RegionBoxes(Boxes):
    """Spans of regions, which are grouped as they are listed: by the sizes of their boxes in all axes at once."""

    def grouped(self, n_groups: Sequence[int]) -> BoxPlan:
        return self._plan(self._split((n_groups[0],))[n_groups[0]])

    def least_positions(self) -> Floats:
        least: Floats = np.prod([spans.sizes.astype(float) for spans in self.axes], axis=0).sum(axis=1)
        return least

    def group_counts(self, batches: Batches) -> tuple[int, ...]:
        found = self._split(_N_LISTED_GROUPS)
        _, n_groups = min((batches.seconds(self._plan(groups).counted), n) for n, groups in found.items())
        return (n_groups,) * len(self.axes)

    def _split(self, n_groups: Sequence[int]) -> dict[int, list[Ints]]:
        return split_groups(np.stack([spans.sizes for spans in self.axes]), self.weights, n_groups)

    def _plan(self, groups: Sequence[Ints]) -> BoxPlan:
        first = [aligned(self.network, 0, self.axes[0], windows) for windows in groups]
        plans = [AxisPlan(tuple(first))]
        for axis, spans in enumerate(self.axes[1:], 1):
            in_order = (aligned(self.network, axis, spans, group.windows, in_order=True) for group in first)
            plans.append(AxisPlan(tuple(in_order)))
        return RegionBoxPlan(tuple(plans))


class RegionBoxPlan(BoxPlan):
    """The boxes of regions: the groups of all axes that stand side by side hold the same windows, in one order."""

    @property
    def positions(self) -> Floats:
        areas = [
            len(group[0].windows) * np.prod([axis.sizes for axis in group], axis=0).astype(np.float64)
            for group in self.groups
        ]
        computed: Floats = np.sum(areas, axis=0)
        return computed

    @property
    def groups(self) -> Iterator[tuple[AxisGroup, ...]]:
        return zip(*(plan.groups for plan in self.axes), strict=True)

    @property
    def counted(self) -> GroupProduct:
        return ListedGroups(tuple(map(groups_of, self.axes)))

    def windows_of(self, group: tuple[AxisGroup, ...], n_images: int) -> tuple[tuple[Ints, ...], Ints, Ints]:
        windows = group[0].windows
        places, images = (each.reshape(-1) for each in np.indices((len(windows), n_images)))
        return (places,) * len(self.axes), images, windows[places]


def boxes_of(network: Network, grid: WindowGrid, regions: Sequence[bool], tau: float = 1.0) -> Boxes:
    """Return the spans of a grid's windows in a network, or of windows that are listed."""
    kind = RegionBoxes if isinstance(grid, RegionGrid) else Boxes
    return kind(network, grid, regions, tau)


def group_counts(boxes: Boxes, batches: Batches, disabled: frozenset[str]) -> tuple[int, ...]:
    """Return how many groups of each axis: many keep boxes small, few keep batches full and lanes busy."""
    return (1,) * len(boxes.axes) if "bucket_windows" in disabled else boxes.group_counts(batches)


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
