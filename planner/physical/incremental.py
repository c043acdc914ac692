"""What `IncrementalForward` costs: each window's box recomputed layer by layer, from some layer on whole maps.

Called by `schedule`, which holds it against `dense`. Where boxes give way to whole maps comes first, then what the
memory allows, then into how many groups of equal boxes the windows go; then costs are added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from obeql.planner.boxes import region_layers
from obeql.planner.physical.batches import Batches
from obeql.planner.physical.box_groups import Boxes, BoxPlan, boxes_of, group_counts
from obeql.planner.physical.cost import Rates, box_seconds, layer_seconds, paste_bytes, positions
from obeql.planner.physical.costing import MAX_GPU_BATCH, MIN_BATCH, Costing, lane_batch, whole_map_batch
from obeql.planner.physical.execution_layout import ExecutionLayout, for_boxes
from obeql.planner.physical.memory import BoxMemory, box_memory, most_kept
from obeql.planner.physical.plan import Cost, IncrementalForward

__all__ = ["incremental_forward", "switch_layer"]

Floats = npt.NDArray[np.float64]

#: Bytes of one batch's largest gathered input on a CPU. Larger batches share each layer's weights among more windows,
#: smaller ones stay in the cache; from 8 to 32 MB every network measured became faster.
_CACHE_BYTES = 32e6
#: Windows in a batch on boxes, at most on a CPU.
_MAX_BATCH = 512


def switch_layer(costing: Costing) -> int:
    """Return the first layer on whole maps: where boxes so far and whole maps from there cost least together."""
    network, rates = costing.network, costing.rates
    n = len(network.layers)
    regions = region_layers(network, n)
    if "choose_switch_layer" in costing.disabled:
        return n
    boxes = boxes_of(network, costing.grid, regions)
    sizes = np.stack(boxes.mean_sizes())
    whole = np.array([layer_seconds(network, i, rates) for i in range(n)])
    on_boxes = whole.copy()
    for i in range(1, n):
        if regions[i]:
            on_boxes[i] = box_seconds(network, i, rates, sizes[:, i].tolist())
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


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """What the memory allows: windows in a batch on boxes and on whole maps, and bytes kept from image to image."""

    need: BoxMemory
    batch: int
    tail_batch: int
    kept_bytes: float
    least_bytes: float
    view_bytes: float


def incremental_forward(costing: Costing, regions: tuple[bool, ...]) -> IncrementalForward:
    """Return the operator that runs the layers of `regions` on boxes, batches within the memory, with its cost."""
    layout = for_boxes(costing.rates, costing.disabled)
    boxes = boxes_of(costing.network, costing.grid, regions)
    fit = _fit(costing, boxes, layout.n_lanes)
    batches = _batches(costing, boxes, layout, fit)
    n_groups = group_counts(boxes, batches.whole, costing.disabled)
    groups = boxes.grouped(n_groups)
    moved, pasting_s = _pasted(costing, boxes, groups)
    n_windows, n_batches = costing.grid.n_windows, batches.whole.count(groups.counted)
    layer_s = batches.whole.each * groups.positions + batches.a_batch * n_batches + pasting_s
    rest = boxes.on_whole_maps
    for i in rest:
        n_calls = math.ceil(costing.at_once / fit.tail_batch) / costing.together
        layer_s[i] = layer_seconds(costing.network, i, costing.rates) * n_windows + n_calls * costing.rates.call_s
    layers = costing.network.layers
    macs = np.array([layer.macs / positions(layer) for layer in layers])
    tail_macs = float(sum(layers[i].macs for i in rest) * n_windows)
    tail_bytes = sum(4 * math.prod(layers[i].shape) for i in rest)
    sums_s = costing.rates.sums_s if any(layers[i].reach == "sum" for i in boxes.on_boxes) else 0.0
    idle_s = batches.whole.idle_seconds(groups.counted)
    return IncrementalForward(
        regions=regions,
        n_groups=n_groups,
        batch=fit.batch,
        tail_batch=fit.tail_batch,
        cost=Cost(
            macs=float((macs * groups.positions)[boxes.on_boxes].sum()) + tail_macs,
            bytes=float(moved + tail_bytes * n_windows),
            seconds=float(layer_s.sum()) + n_batches * batches.beyond_s + idle_s + sums_s,
            memory=fit.view_bytes + fit.kept_bytes + _peak(costing, fit, layout.n_lanes),
        ),
        bound_macs=float((macs * boxes.least_positions())[boxes.on_boxes].sum()) + tail_macs,
        layer_s=tuple(float(s) for s in layer_s),
        least_bytes=fit.least_bytes,
        kept_bytes=fit.kept_bytes,
        n_lanes=layout.n_lanes,
    )


# ---- memory ------------------------------------------------------------------------------------------------


def _fit(costing: Costing, boxes: Boxes, n_lanes: int) -> _Fit:
    """Return the largest batches that the memory holds, up to those that are fastest."""
    network, rates = costing.network, costing.rates
    views = costing.together * 4 * sum(math.prod(network.layers[i].shape) for i in (0, *boxes.on_boxes))
    need = box_memory(network, boxes.regions, np.stack([axis.sizes.max(axis=1) for axis in boxes.axes]))
    least = n_lanes * need.of(1, 1)
    # The views of one image come on top of the memory, those of further ones out of it.
    budget = costing.budget if costing.together == 1 else max(1.0, costing.budget - views)
    kept = min(need.places * costing.at_once, most_kept(budget - least))
    fitted, tail = need.batches(
        (budget - kept) / n_lanes,
        costing.batch or (MIN_BATCH if "choose_batch" in costing.disabled else _box_batch(rates, need.widest)),
        costing.batch or whole_map_batch(network, rates, boxes.on_whole_maps),
    )
    return _Fit(need, fitted, tail, kept, least, views)


def _peak(costing: Costing, fit: _Fit, n_lanes: int) -> float:
    """Return the most bytes that batches take, in lanes or, of the last windows on whole maps, by themselves."""
    in_lanes = n_lanes * fit.need.of(fit.batch, max(1, min(fit.tail_batch, costing.at_once // (4 * n_lanes))))
    return max(in_lanes, fit.need.of(fit.batch, min(fit.tail_batch, costing.at_once)))


def _box_batch(rates: Rates, widest: float) -> int:
    """Return the windows that best go through boxes at a time; `widest` is their largest tensor in bytes."""
    return int(max(MIN_BATCH, min(_MAX_BATCH, _CACHE_BYTES // max(1.0, widest)))) if rates.on_cpu else MAX_GPU_BATCH


# ---- seconds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _BatchCosts:
    """Batches on boxes, and seconds of one however small: of each layer, (layers,), and beyond the layers."""

    whole: Batches
    a_batch: Floats
    beyond_s: float


def _batches(costing: Costing, boxes: Boxes, layout: ExecutionLayout, fit: _Fit) -> _BatchCosts:
    """Return what batches on boxes cost, by measured rates where there are any."""
    network, rates = costing.network, costing.rates
    each = np.zeros(len(network.layers))  # seconds of one position
    a_batch = np.zeros(len(network.layers))  # seconds of a batch however small
    for i in boxes.on_boxes:
        if rates.box_s:
            each[i], a_batch[i] = layout.ratio * rates.box_s[i], layout.ratio * rates.box_batch_s[i]
        else:
            each[i] = layer_seconds(network, i, rates) / positions(network.layers[i])
            a_batch[i] = rates.call_s / layout.n_lanes
    in_lane = lane_batch(fit.batch, costing.at_once, layout.n_lanes)
    # Measured with every layer on boxes that can be.
    n_measured = max(1, sum(region_layers(network, len(boxes.regions))) - 1)
    beyond_s = layout.ratio * rates.batch_s * len(boxes.on_boxes) / n_measured
    batch_s = beyond_s + float(a_batch.sum())
    return _BatchCosts(Batches(each, batch_s, in_lane, layout.n_lanes, costing.together), a_batch, beyond_s)


def _pasted(costing: Costing, boxes: Boxes, groups: BoxPlan) -> tuple[float, Floats]:
    """Return the bytes that gathers and pastes move, and their seconds, (layers,), where no rates hold them already."""
    counted = groups.counted
    moved, seconds = 0.0, np.zeros(len(costing.network.layers))
    for i in boxes.on_boxes:
        pasted = paste_bytes(costing.network, i, counted.sizes(i))
        n_bytes = float((counted.windows * pasted).sum())
        if not costing.rates.box_s:  # measured rates on boxes hold the gathers and pastes already
            seconds[i] = n_bytes / costing.rates.bytes_per_s
        moved += n_bytes
    return moved, seconds
