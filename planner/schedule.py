"""Which operator runs a grid of windows: the costed choice between whole maps and boxes.

Called by `lower` once the grid and the network are known. Every decision is by estimated seconds: where boxes give
way to whole maps, into how many groups of equal boxes the windows go, how many windows make a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from obeql.planner.boxes import AxisPlan, Spans, axis_spans, group_windows, region_layers
from obeql.planner.cost import Rates, layer_seconds, paste_bytes, positions
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import Cost, DenseForward, Engine, IncrementalForward, Refusal

__all__ = ["BoxPlan", "box_plan", "choose_engine"]

#: Bytes of one batch's largest gathered input. Batches that stay in the last-level cache run fastest.
_CACHE_BYTES = 8e6
_MIN_BATCH, _MAX_BATCH = 4, 128


@dataclass(frozen=True, slots=True, eq=False)
class BoxPlan:
    """The boxes of an `IncrementalForward`: groups of rows and of columns; every pair is a group of windows."""

    rows: AxisPlan
    cols: AxisPlan


def box_plan(network: Network, grid: WindowGrid, engine: IncrementalForward) -> BoxPlan:
    """The boxes an engine was costed with; the executor runs exactly these."""
    rows, cols = _spans(network, grid, engine.regions)
    weights = _weights(network, engine.regions)
    return BoxPlan(
        group_windows(network, 0, rows, weights * _mean_size(cols), engine.n_row_groups),
        group_windows(network, 1, cols, weights * _mean_size(rows), engine.n_col_groups),
    )


def choose_engine(
    network: Network,
    grid: WindowGrid,
    rates: Rates,
    memory_bytes: int | None = None,
    batch: int | None = None,
    disabled: frozenset[str] = frozenset(),
) -> tuple[Engine, tuple[Refusal, ...]]:
    """Return the operator that runs `grid` in the fewest estimated seconds, and the ones refused."""
    budget = float(memory_bytes) if memory_bytes is not None else rates.free_bytes
    dense = _dense(network, grid, rates, budget, batch)
    if "choose_engine" in disabled:
        return dense, (Refusal("IncrementalForward", "rule choose_engine is switched off"),)
    if network.whole:
        return dense, (Refusal("IncrementalForward", f"the network runs whole: {network.reason}"),)
    stop = _switch_layer(network, grid, rates, disabled)
    regions = region_layers(network, stop)
    if sum(regions) <= 1:
        reason = f"layer 1 ({network.layers[1].kind}) needs whole maps"
        if len(network.layers) > 2 and region_layers(network, len(network.layers))[1]:
            reason = "boxes are not faster at any layer"
        return dense, (Refusal("IncrementalForward", reason),)
    engine = _incremental(network, grid, rates, budget, batch, regions, disabled)
    if engine.cost.seconds < dense.cost.seconds:
        return engine, (Refusal("DenseForward", "estimated slower", dense.cost),)
    return dense, (Refusal("IncrementalForward", "estimated slower", engine.cost),)


def _dense(network: Network, grid: WindowGrid, rates: Rates, budget: float, batch: int | None) -> DenseForward:
    seconds = sum(layer_seconds(network, i, rates) for i in range(len(network.layers)))
    largest = 4 * max(math.prod(layer.shape) for layer in network.layers)
    fitted = batch or _fitted(budget, 3 * largest, 32)
    calls = math.ceil(grid.n_windows / fitted) * len(network.layers) * rates.call_s
    return DenseForward(
        fitted,
        Cost(
            macs=float(network.macs * grid.n_windows),
            bytes=float(sum(layer.work_bytes for layer in network.layers) * grid.n_windows),
            seconds=seconds * grid.n_windows + calls,
            memory=3.0 * largest * fitted,
        ),
    )


def _fitted(budget: float, bytes_each: float, most: int) -> int:
    return int(max(1, min(most, budget // max(1.0, bytes_each))))


def _spans(network: Network, grid: WindowGrid, regions: Sequence[bool]) -> tuple[Spans, Spans]:
    return axis_spans(network, 0, grid.rows, regions), axis_spans(network, 1, grid.cols, regions)


def _mean_size(spans: Spans) -> npt.NDArray[np.float64]:
    return spans.sizes.mean(axis=1)


def _weights(network: Network, regions: Sequence[bool]) -> npt.NDArray[np.float64]:
    """Relative cost of one more position at each layer: multiply-accumulates and a share for moving channels."""
    return np.array(
        [
            (layer.macs / positions(layer) + 8.0 * layer.shape[0]) if regions[i] and i else 0.0
            for i, layer in enumerate(network.layers)
        ]
    )


def _switch_layer(network: Network, grid: WindowGrid, rates: Rates, disabled: frozenset[str]) -> int:
    """The first layer that runs on whole maps: where boxes so far and whole maps from there cost least together."""
    n = len(network.layers)
    regions = region_layers(network, n)
    if "choose_switch_layer" in disabled:
        return n
    rows, cols = _spans(network, grid, regions)
    height, width = _mean_size(rows), _mean_size(cols)
    on_boxes, whole = np.zeros(n), np.zeros(n)
    for i in range(n):
        whole[i] = layer_seconds(network, i, rates)
        if regions[i] and i:
            on_boxes[i] = _box_seconds(network, i, height[i], width[i], rates)
    last = [max((k for k in range(n) if j in network.layers[k].inputs), default=n) for j in range(n)]
    best, best_seconds = 1, float("inf")
    for stop in range(1, n + 1):
        if stop > 1 and not regions[stop - 1]:
            # Layers that must be dense anyway: stopping later changes nothing before the next box layer.
            continue
        here = region_layers(network, stop)
        seconds = sum(on_boxes[i] if here[i] else whole[i] for i in range(1, n))
        # Values that cross the border are copied into whole maps.
        crossing = [j for j in range(stop) if here[j] and any(not here[k] for k in _readers(network, j, last[j]))]
        seconds += sum(3 * 4 * math.prod(network.layers[j].shape) for j in crossing) / rates.bytes_per_s
        if seconds < best_seconds:
            best, best_seconds = stop, seconds
    return best


def _readers(network: Network, j: int, last: int) -> list[int]:
    return [k for k in range(j + 1, min(last, len(network.layers) - 1) + 1) if j in network.layers[k].inputs]


def _box_seconds(network: Network, i: int, height: float, width: float, rates: Rates) -> float:
    layer = network.layers[i]
    share = height * width / positions(layer)
    moved = paste_bytes(network, i, height, width) / rates.bytes_per_s
    return layer_seconds(network, i, rates) * share + moved


def _incremental(
    network: Network,
    grid: WindowGrid,
    rates: Rates,
    budget: float,
    batch: int | None,
    regions: tuple[bool, ...],
    disabled: frozenset[str],
) -> IncrementalForward:
    rows, cols = _spans(network, grid, regions)
    weights = _weights(network, regions)
    boxed = [i for i, on in enumerate(regions) if on and i]
    rest = [i for i, on in enumerate(regions) if not on]
    height, width = rows.sizes.max(axis=1), cols.sizes.max(axis=1)
    widest = max(4 * network.layers[i].shape[0] * height[i] * width[i] for i in (0, *boxed))
    widest = max(widest, *(paste_bytes(network, i, height[i], width[i]) / 3 for i in boxed))
    n_windows = grid.n_windows
    cached = int(max(_MIN_BATCH, min(_MAX_BATCH, _CACHE_BYTES // max(1.0, widest))))
    fitted = batch or min(cached, _fitted(budget / 2, 4 * float(widest), _MAX_BATCH))
    if "choose_batch" in disabled:
        fitted = batch or _MIN_BATCH
    tail_bytes = sum(4 * math.prod(network.layers[i].shape) for i in rest)
    tail = batch or _fitted(budget / 2, 2.0 * max(1, tail_bytes), 128)
    seconds_each = np.array(
        [layer_seconds(network, i, rates) / positions(layer) if regions[i] and i else 0.0
         for i, layer in enumerate(network.layers)]
    )  # fmt: skip
    best: tuple[float, int, int] | None = None
    choices = (1,) if "bucket_windows" in disabled else (1, 2, 3, 4, 6, 8, 12, 16, 24)
    row_plans = {k: group_windows(network, 0, rows, weights * _mean_size(cols), k) for k in choices}
    col_plans = {k: group_windows(network, 1, cols, weights * _mean_size(rows), k) for k in choices}
    for kr, row_plan in row_plans.items():
        for kc, col_plan in col_plans.items():
            compute = float((seconds_each * row_plan.positions * col_plan.positions).sum())
            calls = sum(
                math.ceil(len(r.windows) * len(c.windows) / fitted) for r in row_plan.groups for c in col_plan.groups
            )
            seconds = compute + calls * len(boxed) * rates.call_s
            if best is None or seconds < best[0]:
                best = (seconds, kr, kc)
    assert best is not None
    _, kr, kc = best
    row_plan, col_plan = row_plans[kr], col_plans[kc]
    computed = row_plan.positions * col_plan.positions
    macs = sum(network.layers[i].macs / positions(network.layers[i]) * computed[i] for i in boxed)
    tail_macs = sum(network.layers[i].macs for i in rest) * n_windows
    moved = 0.0
    for r in row_plan.groups:
        for c in col_plan.groups:
            n = len(r.windows) * len(c.windows)
            moved += n * sum(paste_bytes(network, i, r.sizes[i], c.sizes[i]) for i in boxed)
    tail_seconds = sum(layer_seconds(network, i, rates) for i in rest) * n_windows
    tail_seconds += math.ceil(n_windows / tail) * len(rest) * rates.call_s
    exact = rows.sizes.sum(axis=1).astype(float) * cols.sizes.sum(axis=1)
    bound = sum(network.layers[i].macs / positions(network.layers[i]) * exact[i] for i in boxed) + tail_macs
    views = 4 * sum(math.prod(network.layers[i].shape) for i in (0, *boxed))
    return IncrementalForward(
        regions=regions,
        n_row_groups=kr,
        n_col_groups=kc,
        batch=fitted,
        tail_batch=tail,
        cost=Cost(
            macs=float(macs + tail_macs),
            bytes=float(moved + tail_bytes * n_windows),
            seconds=best[0] + moved / rates.bytes_per_s + tail_seconds,
            memory=float(views + 4 * widest * fitted + 2 * tail_bytes * tail),
        ),
        bound_macs=float(bound),
    )
