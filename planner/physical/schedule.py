"""Which operator runs a grid of windows: the costed choice between whole maps and boxes.

Called by `lower` once the grid and the network are known. Every decision is by estimated seconds: where boxes give
way to whole maps, into how many groups of equal boxes the windows go, how many windows make a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from obeql.planner.boxes import AxisPlan, Spans, axis_spans, group_windows, merge_steps, region_layers
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.batches import Batches, Groups
from obeql.planner.physical.cost import Rates, box_seconds, layer_seconds, paste_bytes, positions
from obeql.planner.physical.execution_layout import for_boxes, for_whole_maps
from obeql.planner.physical.memory import box_memory, fitting, most_kept, whole_map_bytes
from obeql.planner.physical.plan import Cost, DenseForward, Engine, IncrementalForward, RejectedAlternative

__all__ = ["BoxPlan", "box_plan", "choose_engine", "lane_batch"]

Floats = npt.NDArray[np.float64]

#: Bytes of one batch's largest gathered input on a CPU. Larger batches share each layer's weights among more windows,
#: smaller ones stay in the cache; from 8 to 32 MB every network measured became faster.
_CACHE_BYTES = 32e6
#: Bytes of one batch's largest whole map on a CPU: half of what the C library's allocator gives back to the system.
_MAP_BYTES = 16e6
#: Windows in a batch on boxes: at least, at most on a CPU, at most on a GPU (which small batches leave idle).
_MIN_BATCH, _MAX_BATCH, _MAX_GPU_BATCH = 4, 512, 1024
#: Of larger batches than this every lane is to get several, so that none waits long for the last one.
_USUAL_BATCH, _SEVERAL = 128, 4
#: Windows in a batch on whole maps, at most on a CPU; and for a network whose layers are not known.
_MAX_WHOLE, _UNSEEN_BATCH = 128, 4
#: Group counts an axis is tried with.
_N_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 24)


@dataclass(frozen=True, slots=True, eq=False)
class BoxPlan:
    """The boxes of an `IncrementalForward`: groups of rows and of columns; every pair is a group of windows."""

    rows: AxisPlan
    cols: AxisPlan


def box_plan(network: Network, grid: WindowGrid, engine: IncrementalForward) -> BoxPlan:
    """Return the boxes an engine was costed with; the executor runs exactly these."""
    return _Boxes(network, grid, engine.regions, engine.tau).grouped(engine.n_row_groups, engine.n_col_groups)


def lane_batch(batch: int, n_windows: int, n_lanes: int) -> int:
    """Windows in a batch of `n_windows` in all: few windows are divided among the lanes."""
    share = math.ceil(n_windows / n_lanes)
    several = max(_USUAL_BATCH, share // _SEVERAL) if n_lanes > 1 else batch
    return max(1, min(batch, share, several))


def choose_engine(
    network: Network,
    grid: WindowGrid,
    rates: Rates,
    memory_bytes: int | None = None,
    batch: int | None = None,
    disabled: frozenset[str] = frozenset(),
    together: int = 1,
) -> tuple[Engine, tuple[RejectedAlternative, ...]]:
    """Return the operator that runs `grid` in the fewest estimated seconds, and the ones refused.

    Costs are those of one image, of `together` whose windows share batches; memory is that of all of them.
    """
    budget = float(memory_bytes) if memory_bytes is not None else rates.free_bytes
    # Rounded down to an eighth of a power of two: what happens to be free now does not make every plan a new one.
    budget = 2.0 ** (math.floor(8 * math.log2(max(1.0, budget))) / 8)
    rates = replace(rates, free_bytes=0.0, origin="")
    return _chosen(network, grid, rates, budget, batch, disabled, together)


@lru_cache(maxsize=256)
def _chosen(
    network: Network,
    grid: WindowGrid,
    rates: Rates,
    budget: float,
    batch: int | None,
    disabled: frozenset[str],
    together: int,
) -> tuple[Engine, tuple[RejectedAlternative, ...]]:
    dense = _dense(network, grid, rates, budget, batch, disabled, together)
    if "choose_engine" in disabled:
        return dense, (RejectedAlternative("IncrementalForward", "rule choose_engine is switched off"),)
    if network.whole:
        return dense, (RejectedAlternative("IncrementalForward", f"the network runs whole: {network.reason}"),)
    regions = region_layers(network, _switch_layer(network, grid, rates, disabled))
    if sum(regions) <= 1:
        reason = "boxes are not faster at any layer"
        if not region_layers(network, len(network.layers))[1]:
            reason = f"layer 1 ({network.layers[1].kind}) needs whole maps"
        return dense, (RejectedAlternative("IncrementalForward", reason),)
    engine = _incremental(network, grid, rates, budget, batch, regions, disabled, together)
    if engine.least_bytes > budget >= dense.least_bytes:
        return dense, (RejectedAlternative("IncrementalForward", "needs more memory", engine.cost),)
    if dense.least_bytes > budget >= engine.least_bytes:
        return engine, (RejectedAlternative("DenseForward", "needs more memory", dense.cost),)
    if engine.cost.seconds < dense.cost.seconds:
        return engine, (RejectedAlternative("DenseForward", "estimated slower", dense.cost),)
    return dense, (RejectedAlternative("IncrementalForward", "estimated slower", engine.cost),)


# ---- whole maps ---------------------------------------------------------------------------------------------


def _dense(
    network: Network,
    grid: WindowGrid,
    rates: Rates,
    budget: float,
    batch: int | None,
    disabled: frozenset[str],
    together: int,
) -> DenseForward:
    each = whole_map_bytes(network)
    arranged = for_whole_maps(rates, disabled, budget / each)
    n_lanes = arranged.n_lanes
    wanted = batch or _whole_map_batch(network, rates, range(1, len(network.layers)))
    fitted = fitting(budget / n_lanes, each, lane_batch(wanted, together * grid.n_windows, n_lanes))
    n_calls = math.ceil(together * grid.n_windows / fitted) / together / n_lanes
    layer_s = tuple(
        arranged.ratio * layer_seconds(network, i, rates) * grid.n_windows + (n_calls * rates.call_s if i else 0.0)
        for i in range(len(network.layers))
    )
    return DenseForward(
        fitted,
        Cost(
            macs=float(network.macs * grid.n_windows),
            bytes=float(sum(layer.work_bytes for layer in network.layers) * grid.n_windows),
            seconds=sum(layer_s),
            memory=each * fitted * n_lanes,
        ),
        layer_s,
        each,
        n_lanes,
        arranged.channels_last,
    )


def _whole_map_batch(network: Network, rates: Rates, layers: Sequence[int]) -> int:
    """Windows that best go through `layers` on whole maps at a time, if memory allows."""
    if not rates.on_cpu:
        return _MAX_GPU_BATCH
    if network.whole:
        return _UNSEEN_BATCH
    # Larger maps are fresh pages from the system at every layer, which cost more than large batches save; but a batch
    # also reads all the weights, which should not outweigh its maps.
    near = [network.layers[j] for i in layers for j in (i, *network.layers[i].inputs)]
    by_maps = _MAP_BYTES // max([1, *(4 * math.prod(layer.shape) for layer in near)])
    weights = sum(network.layers[i].weight_bytes for i in layers)
    by_weights = weights // max(1, sum(network.layers[i].work_bytes for i in layers))
    return int(max(_MIN_BATCH, min(_MAX_WHOLE, max(by_maps, by_weights))))


# ---- boxes --------------------------------------------------------------------------------------------------


class _Boxes:
    """Spans of a grid's windows in a network, and their groups by how many there may be."""

    def __init__(self, network: Network, grid: WindowGrid, regions: Sequence[bool], tau: float = 1.0) -> None:
        self.network = network
        self.regions = tuple(regions)
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


def _switch_layer(network: Network, grid: WindowGrid, rates: Rates, disabled: frozenset[str]) -> int:
    """The first layer that runs on whole maps: where boxes so far and whole maps from there cost least together."""
    n = len(network.layers)
    regions = region_layers(network, n)
    if "choose_switch_layer" in disabled:
        return n
    boxes = _Boxes(network, grid, regions)
    height, width = boxes.mean_size(boxes.rows), boxes.mean_size(boxes.cols)
    whole = np.array([layer_seconds(network, i, rates) for i in range(n)])
    on_boxes = whole.copy()
    for i in range(1, n):
        if regions[i]:
            on_boxes[i] = box_seconds(network, i, rates, float(height[i]), float(width[i]))
    on_map = np.array(regions)
    last_reader, read_whole = np.zeros(n, np.int64), np.zeros(n, bool)
    for k, layer in enumerate(network.layers):
        for j in layer.inputs:
            last_reader[j] = k
            read_whole[j] |= not regions[k]
    copied = np.array([3 * 4 * math.prod(layer.shape) / rates.bytes_per_s for layer in network.layers])
    best, best_seconds = 1, float("inf")
    for stop in range(1, n + 1):
        if stop > 1 and not regions[stop - 1]:
            continue  # a layer that is dense in any case: the same plan as one layer earlier
        here = on_map & (np.arange(n) < stop)
        seconds = float(np.where(here, on_boxes, whole)[1:].sum())
        # Values that layers on whole maps read are copied into whole maps.
        seconds += float(copied[here & (read_whole | (last_reader >= stop))].sum())
        if seconds < best_seconds:
            best, best_seconds = stop, seconds
    return best


def _incremental(
    network: Network,
    grid: WindowGrid,
    rates: Rates,
    budget: float,
    batch: int | None,
    regions: tuple[bool, ...],
    disabled: frozenset[str],
    together: int,
) -> IncrementalForward:
    arranged = for_boxes(rates, disabled)
    n_lanes = arranged.n_lanes
    boxes = _Boxes(network, grid, regions)
    boxed = [i for i, on in enumerate(regions) if on and i]
    rest = [i for i, on in enumerate(regions) if not on]
    views = together * 4 * sum(math.prod(network.layers[i].shape) for i in (0, *boxed))
    need = box_memory(network, regions, boxes.rows.sizes.max(axis=1), boxes.cols.sizes.max(axis=1))
    least = n_lanes * need.of(1, 1)
    # The views of one image come on top of the memory, those of further ones out of it.
    budget = budget if together == 1 else max(1.0, budget - views)
    kept = min(need.places * together * grid.n_windows, most_kept(budget - least))
    fitted, tail = need.batches(
        (budget - kept) / n_lanes,
        batch or (_MIN_BATCH if "choose_batch" in disabled else _box_batch(rates, need.widest)),
        batch or _whole_map_batch(network, rates, rest),
    )
    tail_bytes = sum(4 * math.prod(network.layers[i].shape) for i in rest)
    each = np.zeros(len(network.layers))  # seconds of one position
    a_batch = np.zeros(len(network.layers))  # seconds of a batch however small
    for i in boxed:
        if rates.box_s:
            each[i], a_batch[i] = arranged.ratio * rates.box_s[i], arranged.ratio * rates.box_batch_s[i]
        else:
            each[i] = layer_seconds(network, i, rates) / positions(network.layers[i])
            a_batch[i] = rates.call_s / n_lanes
    in_lane = lane_batch(fitted, together * grid.n_windows, n_lanes)
    # Measured with every layer on boxes that can be.
    beyond_s = arranged.ratio * rates.batch_s * len(boxed) / max(1, sum(region_layers(network, len(regions))) - 1)
    batch_s = beyond_s + float(a_batch.sum())
    batches = Batches(each, batch_s, in_lane, n_lanes, together)
    n_row_groups, n_col_groups = _group_counts(boxes, batches, disabled)
    plan = boxes.grouped(n_row_groups, n_col_groups)
    computed = plan.rows.positions * plan.cols.positions
    n_rows, n_cols = _counts(plan.rows), _counts(plan.cols)
    n_batches = batches.count(n_rows, n_cols)
    idle_s = batches.idle_seconds(_groups(plan.rows), _groups(plan.cols))
    sums_s = rates.sums_s if any(network.layers[i].reach == "sum" for i in boxed) else 0.0
    layer_s = each * computed + a_batch * n_batches
    moved = 0.0
    for i in boxed:
        heights = np.array([float(g.sizes[i]) for g in plan.rows.groups])
        widths = np.array([float(g.sizes[i]) for g in plan.cols.groups])
        pasted = paste_bytes(network, i, heights[:, None], widths[None, :])
        n_bytes = float((n_rows[:, None] * n_cols[None, :] * pasted).sum())
        if not rates.box_s:  # measured rates on boxes hold the gathers and pastes already
            layer_s[i] += n_bytes / rates.bytes_per_s
        moved += n_bytes
    n_windows = grid.n_windows
    for i in rest:
        n_calls = math.ceil(together * n_windows / tail) / together
        layer_s[i] = layer_seconds(network, i, rates) * n_windows + n_calls * rates.call_s
    at_once = together * n_windows
    in_lanes = n_lanes * need.of(fitted, max(1, min(tail, at_once // (4 * n_lanes))))
    macs = np.array([layer.macs / positions(layer) for layer in network.layers])
    tail_macs = float(sum(network.layers[i].macs for i in rest) * n_windows)
    return IncrementalForward(
        regions=regions,
        n_row_groups=n_row_groups,
        n_col_groups=n_col_groups,
        batch=fitted,
        tail_batch=tail,
        cost=Cost(
            macs=float((macs * computed)[boxed].sum()) + tail_macs,
            bytes=float(moved + tail_bytes * n_windows),
            seconds=float(layer_s.sum()) + n_batches * beyond_s + idle_s + sums_s,
            memory=views + kept + max(in_lanes, need.of(fitted, min(tail, at_once))),
        ),
        bound_macs=float((macs * boxes.least_positions())[boxed].sum()) + tail_macs,
        layer_s=tuple(float(s) for s in layer_s),
        least_bytes=least,
        kept_bytes=kept,
        n_lanes=n_lanes,
    )


def _box_batch(rates: Rates, widest: float) -> int:
    """Windows that best go through boxes at a time, if memory allows; `widest` is their largest tensor in bytes."""
    return int(max(_MIN_BATCH, min(_MAX_BATCH, _CACHE_BYTES // max(1.0, widest)))) if rates.on_cpu else _MAX_GPU_BATCH


def _group_counts(boxes: _Boxes, batches: Batches, disabled: frozenset[str]) -> tuple[int, int]:
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


def _groups(plan: AxisPlan) -> Groups:
    return Groups(_counts(plan), np.stack([group.sizes for group in plan.groups]).astype(float))


def _counts(plan: AxisPlan) -> Floats:
    return np.array([float(len(group.windows)) for group in plan.groups])
