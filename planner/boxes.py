"""Which box of each layer a window changes, and which windows can share one box size.

Comes after the grid of windows is known; the costs of a plan and the executor both read these numbers, so a plan's
boxes are the executed boxes. Axes are independent: everything here is about one of them.

A window's span at a layer is exact (alignment and border included): Krypton (SIGMOD 2019) takes one upper bound for
all windows. A batch needs one size, so windows are put in groups; a group's size at a layer is its largest span, and
smaller spans are widened with positions that are recomputed to their old values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from obeql.planner.geometry import AxisWindow, Network
from obeql.planner.grid import AxisGrid

__all__ = ["AxisGroup", "AxisPlan", "Spans", "aligned", "axis_spans", "group_windows", "merge_steps", "region_layers"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Changed positions [first, end) along one axis: int64 (layers, windows). Rows of dense layers are zero."""

    first: Ints
    end: Ints

    @property
    def sizes(self) -> Ints:
        return self.end - self.first


@dataclass(frozen=True, slots=True, eq=False)
class AxisGroup:
    """Windows of one axis that share box sizes.

    `windows` (n,) are indices into the axis grid, ordered so that neighbours are aligned alike; `starts`
    (layers, n) the first position of each box, `sizes` (layers,) its length.
    """

    windows: Ints
    starts: Ints
    sizes: Ints


@dataclass(frozen=True, slots=True, eq=False)
class AxisPlan:
    """All groups of one axis; together they hold every window once."""

    groups: tuple[AxisGroup, ...]

    @property
    def positions(self) -> Ints:
        """(layers,): positions computed over all windows of the axis, the sum of n * size over the groups."""
        total: Ints = np.sum([len(g.windows) * g.sizes for g in self.groups], axis=0)
        return total


def region_layers(network: Network, stop: int) -> tuple[bool, ...]:
    """Return which layers run on boxes if everything from layer `stop` on runs on whole maps."""
    regions: list[bool] = []
    for i, layer in enumerate(network.layers):
        local = layer.reach in ("source", "pointwise", "local", "sum") and layer.is_map
        regions.append(i < stop and local and all(regions[j] for j in layer.inputs))
    return tuple(regions)


def axis_spans(network: Network, axis: int, grid: AxisGrid, regions: Sequence[bool], tau: float = 1.0) -> Spans:
    """Push the windows of one spatial axis through all layers that run on boxes.

    Where branches meet, the span is the bounding span of all branches. A window that no position of a layer sees
    keeps a span of one position there. With `tau` below 1 no span is longer than that share of its map's side: its
    middle is kept, and what lies further out is taken as unchanged (Krypton's projective field threshold, section
    4.1), which is faster and no longer exact.
    """
    n_layers, n_windows = len(network.layers), len(grid)
    first = np.zeros((n_layers, n_windows), np.int64)
    end = np.zeros((n_layers, n_windows), np.int64)
    first[0] = grid.starts
    end[0] = first[0] + np.asarray(grid.lengths)
    for i, layer in enumerate(network.layers):
        if not regions[i] or not layer.inputs:
            continue
        start = np.min([first[j] for j in layer.inputs], axis=0)
        stop = np.max([end[j] for j in layer.inputs], axis=0)
        size = layer.shape[1 + axis]
        if layer.reach == "sum":
            start, stop = np.zeros_like(start), np.ones_like(stop)
        elif layer.window is not None:
            start, stop = _pushed(start, stop, layer.window[axis], size)
        if tau < 1 and layer.reach != "sum":
            start, stop = _capped(start, stop, max(1, round(tau * size)))
        first[i], end[i] = start, stop
    return Spans(first, end)


def _pushed(start: Ints, stop: Ints, window: AxisWindow, size: int) -> tuple[Ints, Ints]:
    """Return `geometry.changed_span` for many windows at once; empty spans become one position."""
    first = np.maximum(0, -((window.extent - 1 - start - window.pad) // window.stride))
    end = np.minimum(size, (stop - 1 + window.pad) // window.stride + 1)
    first = np.minimum(first, size - 1)
    return first, np.maximum(end, first + 1)


def _capped(start: Ints, stop: Ints, most: int) -> tuple[Ints, Ints]:
    """Return the middle `most` positions of every span that is longer."""
    start = start + np.maximum(0, stop - start - most) // 2
    return start, np.minimum(stop, start + most)


def group_windows(
    network: Network, axis: int, spans: Spans, weights: npt.NDArray[np.float64], n_groups: int
) -> AxisPlan:
    """Put the windows of one axis in at most `n_groups` groups of equal box sizes.

    `weights` (layers,) is the cost of one more position at each layer; see `merge_steps`.
    """
    return AxisPlan(
        tuple(aligned(network, axis, spans, windows) for windows in merge_steps(spans, weights, [n_groups])[n_groups])
    )


def merge_steps(spans: Spans, weights: npt.NDArray[np.float64], n_groups: Sequence[int]) -> dict[int, list[Ints]]:
    """Return the windows of each group, for each wanted number of groups.

    Windows whose spans have equal sizes at every layer start together; then the two groups whose union costs least
    are merged, again and again. One sweep yields every number of groups on the way.
    """
    signatures, member = np.unique(spans.sizes.T, axis=0, return_inverse=True)
    member = member.reshape(-1)
    windows = [np.flatnonzero(member == g) for g in range(len(signatures))]
    tops = signatures.astype(np.float64)  # (groups, layers): box sizes
    counts = np.array([len(w) for w in windows], np.float64)
    costs = counts * (tops @ weights)
    extra = np.stack([_merge_costs(g, tops, counts, costs, weights) for g in range(len(windows))])
    found: dict[int, list[Ints]] = {}
    alive = list(range(len(windows)))
    for wanted in sorted(set(n_groups), reverse=True):
        while len(alive) > max(1, wanted):
            a, b = sorted(divmod(int(np.argmin(extra)), len(windows)))
            windows[a] = np.concatenate([windows[a], windows[b]])
            tops[a] = np.maximum(tops[a], tops[b])
            counts[a] += counts[b]
            costs[a] = counts[a] * float(tops[a] @ weights)
            alive.remove(b)
            extra[b, :] = extra[:, b] = np.inf
            row = _merge_costs(a, tops, counts, costs, weights)
            row[np.isinf(extra[a])] = np.inf
            extra[a, :] = extra[:, a] = row
        found[wanted] = [windows[g] for g in alive]
    return found


def _merge_costs(
    group: int,
    tops: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
    costs: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return what merging a group with each other one costs in addition; infinite with itself."""
    union = np.maximum(tops, tops[group]) @ weights
    more: npt.NDArray[np.float64] = (counts + counts[group]) * union - costs - costs[group]
    more[group] = np.inf
    return more


def aligned(network: Network, axis: int, spans: Spans, windows: Ints, in_order: bool = False) -> AxisGroup:
    """Give every window of a group the group's box sizes and order windows by how their boxes are aligned.

    With `in_order` windows stay in the order in which they are given.
    """
    limits = np.array([layer.shape[1 + axis] if layer.is_map else 1 for layer in network.layers])
    sizes = np.max(spans.sizes[:, windows], axis=1)
    starts = np.clip(np.minimum(spans.first[:, windows], (limits - sizes)[:, None]), 0, None)
    if in_order:
        return AxisGroup(windows, starts, sizes)
    offsets = []
    for i, layer in enumerate(network.layers):
        if layer.reach == "sum":
            continue
        if sizes[i] and layer.window is not None:
            window = layer.window[axis]
            offsets.append(starts[layer.inputs[0]] - (starts[i] * window.stride - window.pad))
        elif sizes[i]:
            offsets.extend(starts[j] - starts[i] for j in layer.inputs)
    if offsets:
        order = np.lexsort(np.array([windows, *reversed(offsets)]))
        windows, starts = windows[order], starts[:, order]
    return AxisGroup(windows, starts, sizes)
