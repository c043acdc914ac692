"""Measure how fast a device runs a model's layers: seconds a layer, on whole maps and on boxes, seconds a call.

Done once for each device, model and precision, in a second or two; the session stores the result and hands it to
the planner, whose estimates are built on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from obeql.executor.devices import device_of
from obeql.executor.devices.cpu import Cpu
from obeql.executor.lanes import run_in_lanes
from obeql.executor.layer_clock import LayerClock
from obeql.executor.materialise import materialise
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.planner.boxes import region_layers
from obeql.planner.cost import Rates
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import Cost, IncrementalForward

__all__ = ["measure_rates"]

T = TypeVar("T")
Floats = npt.NDArray[np.float64]

#: Whole maps, and vectors, in a pass.
_BATCH = 4
_VECTORS = 64
#: Multiply-accumulates of a pass over whole maps, at most, and seconds after which there is no second one.
_PASS_MACS, _LONG_S = 8e10, 1.0
_REPEATS = 2
#: Work that takes longer fills the cores in any way: no other one is tried.
_OTHER_WAYS_S = 0.3
#: Batches on boxes: groups an axis, batches of 2 x 2 windows and of _SIDE x _SIDE ones.
_AXIS_GROUPS, _SMALL_GROUPS, _SIDE, _LARGE_GROUPS = 6, 8, 6, 4
_COPY_ROWS, _COPY_CHANNELS = 1 << 15, 64


def measure_rates(graph: LayerGraph, device: torch.device, dtype: torch.dtype) -> Rates:
    """Time every layer of `graph` on small batches of whole maps, and gathers of channels.

    `graph` is as captured; it is moved to the device here. The fastest of two passes counts: interruptions only
    make a pass slower.
    """
    graph = graph.to(device, dtype)
    batch = max(1, min(_BATCH, int(_PASS_MACS // max(1, graph.network().macs))))
    image = _some_numbers((batch, *graph.layers[0].shape), device, dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    best = [float("inf")] * len(graph.layers)
    best[0] = 0.0
    last = graph.last_use()
    with torch.inference_mode():
        started = time.perf_counter()
        for _ in range(_REPEATS):
            if time.perf_counter() - started > _LONG_S:
                break  # interruptions count for little in so long a pass
            live = {0: image}
            for i, layer in enumerate(graph.layers):
                if i:
                    inputs = [live[j] for j in layer.inputs]
                    live[i] = layer.forward(inputs)
                    # Vectors come in large batches: a few rows would be charged for reading all the weights.
                    n = _VECTORS if all(x.dim() == 2 for x in inputs) else batch
                    many = [x if n == batch else x[:1].expand(n, -1).contiguous() for x in inputs]
                    seconds, _ = _timed(device, lambda: layer.forward(many))  # noqa: B023
                    best[i] = min(best[i], seconds / n)
                for j in set(layer.inputs):
                    if last[j] == i:
                        del live[j]
        call_s = _call_seconds(device, dtype)
        boxes, views = _box_rates(graph, image[:1])
        n_lanes = device_of(device).n_lanes
        on_cpu = device_of(device).kind == Cpu.kind
        few = not graph.reason and batch * sum(best) < _OTHER_WAYS_S
        in_lanes = _lanes_ratio(graph, image, n_lanes) if few and n_lanes > 1 else 0.0
        return Rates(
            bytes_per_s=_copy_rate(device, dtype),
            call_s=call_s,
            layer_s=tuple(best),
            free_bytes=device_of(device).free_bytes,
            device=device_of(device).hardware,
            on_cpu=on_cpu,
            n_lanes=n_lanes,
            maps_in_lanes=in_lanes,
            plain_memory=_plain_memory_ratio(graph, image) if not on_cpu and not graph.reason else 0.0,
            **boxes,
            pass_s=min(_timed(device, lambda: materialise(graph, image[:1], views))[0] for _ in range(_REPEATS)),
        )


def _box_rates(graph: LayerGraph, image: torch.Tensor) -> tuple[dict[str, Any], list[tuple[int, float]]]:
    """What `Rates` holds of boxes: seconds of each layer, of one position and of one batch however small, and more.

    With the views that boxes are computed against.

    The two are a line through two points. A batch costs more than the calls: its weights are read once, from far away
    where there are many of them.
    """
    network = graph.network()
    regions = region_layers(network, len(network.layers))
    if network.whole or sum(regions) <= 1:
        return {}, []
    height, width = network.size
    patch = max(1, min(16, height // 4)), max(1, min(16, width // 4))
    grid = WindowGrid.over((height, width), patch, (max(1, patch[0] // 4), max(1, patch[1] // 4)))
    fill = image.mean((2, 3))[0][:, None, None]
    clean = None
    points = []
    n_lanes, in_turn, beyond, sums_s = device_of(image.device).n_lanes, 0.0, float("inf"), 0.0
    for side, n_groups in ((2, _SMALL_GROUPS), (_SIDE, _LARGE_GROUPS)):
        clock = LayerClock(image.device)
        engine = IncrementalForward(regions, _AXIS_GROUPS, _AXIS_GROUPS, side * side, side * side, Cost(0, 0, 0))
        engine = replace(engine, n_lanes=n_lanes)
        run = IncrementalRun(graph, grid, engine, clock)
        wanted = _some_windows(run, grid, n_groups, side)
        clean = clean or materialise(graph, image, run.needed)
        sums_s = min(_timed(image.device, lambda: run.sums(clean))[0] for _ in range(_REPEATS))  # noqa: B023
        for _ in range(2 if side == 2 else 1):  # the first run of all packs the weights
            clock.seconds.clear()
            whole_s, _ = _timed(image.device, lambda: run.run(clean, fill, wanted, lambda windows, logits: None))  # noqa: B023
            beyond = min(beyond, max(0.0, whole_s - sums_s - sum(clock.seconds.values())) / run.positions(wanted)[1])
        computed, n_batches = run.positions(wanted)
        seconds = np.array([clock.seconds.get(i, 0.0) for i in range(len(regions))])
        points.append((computed / n_batches, seconds / n_batches))
        if n_lanes > 1 and side == _SIDE and seconds.sum() < _OTHER_WAYS_S:
            clock.seconds.clear()
            alone = IncrementalRun(graph, grid, replace(engine, n_lanes=1), clock)
            alone.run(clean, fill, wanted, lambda windows, logits: None)
            in_turn = sum(clock.seconds.values()) / max(1e-9, float(seconds.sum()))
    position_s, batch_s = _line(*points)
    boxed = np.array(regions)
    rates = {
        "box_s": tuple(np.where(boxed, position_s, 0.0).tolist()),
        "box_batch_s": tuple(np.where(boxed, batch_s, 0.0).tolist()),
        "batch_s": beyond,
        "sums_s": sums_s,
        "boxes_in_turn": in_turn,
    }
    return rates, run.needed


def _lanes_ratio(graph: LayerGraph, batch: torch.Tensor, n_lanes: int) -> float:
    """Seconds of batches on whole maps side by side in lanes, over those of one after the other with all cores."""

    def piece(stop: threading.Event) -> torch.Tensor:
        return graph.forward(batch)

    def in_lanes() -> torch.Tensor:
        found: list[torch.Tensor] = []
        run_in_lanes([piece] * n_lanes, n_lanes, found.append)
        return found[0]

    return _fastest(batch.device, in_lanes) / (n_lanes * _fastest(batch.device, lambda: graph.forward(batch)))


def _plain_memory_ratio(graph: LayerGraph, batch: torch.Tensor) -> float:
    """Seconds of whole maps in (N, C, H, W) memory over those in channels-last memory.

    Not asked on CPUs, whose packed kernels are channels-last.
    """
    plain, maps, order = graph.in_plain_memory(), batch.contiguous(), range(1, len(graph.layers))
    usual = _fastest(batch.device, lambda: graph.forward(batch))
    return _fastest(batch.device, lambda: plain.forward_from({0: maps}, order)) / usual


def _fastest(device: torch.device, work: Callable[[], torch.Tensor]) -> float:
    """Seconds of the faster of two runs, or of the only one where that is long."""
    first = _timed(device, work)[0]
    return first if first > _LONG_S else min(first, _timed(device, work)[0])


def _line(small: tuple[Floats, Floats], large: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Slope and offset through two points (positions a batch, seconds a batch), neither of them negative."""
    more = np.maximum(large[0] - small[0], 1e-9)
    slope = (large[1] - small[1]) / more
    through_large = large[1] / np.maximum(large[0], 1.0)  # the line without an offset
    slope = np.where((slope > 0) & (large[0] > small[0]), np.minimum(slope, through_large), through_large)
    return slope, np.maximum(0.0, large[1] - slope * large[0])


def _some_windows(run: IncrementalRun, grid: WindowGrid, n_groups: int, side: int) -> npt.NDArray[np.bool_]:
    """The windows to time, (rows, cols): a batch of side x side windows from each of the largest groups."""
    pairs = [(r.windows, c.windows) for r in run.boxes.rows.groups for c in run.boxes.cols.groups]
    pairs.sort(key=lambda pair: -len(pair[0]) * len(pair[1]))
    wanted = np.zeros(grid.shape, bool)
    for rows, cols in pairs[:n_groups]:
        wanted[np.ix_(rows[:side], cols[:side])] = True
    return wanted


def _timed(device: torch.device, work: Callable[[], T]) -> tuple[float, T]:
    device_of(device).synchronize()
    started = time.perf_counter()
    result = work()
    device_of(device).synchronize()
    return time.perf_counter() - started, result


def _some_numbers(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Numbers in 0..1, always the same: PyTorch's own generator is the user's."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _copy_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Bytes a second of a gather, counted once read and once written, with the paste that follows it."""
    rows = _some_numbers((_COPY_ROWS, _COPY_CHANNELS), device, dtype)
    index = torch.randperm(_COPY_ROWS, generator=torch.Generator().manual_seed(0)).to(device)
    seconds = min(_timed(device, lambda: rows.index_select(0, index))[0] for _ in range(5))
    return 2 * rows.numel() * rows.element_size() / max(seconds, 1e-9)


def _call_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one layer on a batch however small: a few library calls and the Python around them."""
    weight = _some_numbers((8, 8, 3, 3), device, dtype)
    x = _some_numbers((1, 8, 4, 4), device, dtype)
    torch.nn.functional.conv2d(x, weight)
    # The fastest of many: an interruption would count for every layer of every batch.
    fastest = min(_timed(device, lambda: torch.nn.functional.conv2d(x, weight))[0] for _ in range(30))
    # A layer on boxes is a convolution, a gather, a paste and the Python around them: about four calls.
    return 4 * fastest
