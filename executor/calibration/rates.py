"""Measure how fast a device runs a model's layers: seconds a layer, on whole maps and on boxes, seconds a call.

Done once for each device, model and precision, in a second or two; the session's `RateBook` keeps the result and says
how long it holds, the planner builds its estimates on it. Every figure is the least of several short timings of a
`Stopwatch`, for which the work of other processes does not count.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from obeql.executor.devices import device_of
from obeql.executor.devices.cpu import Cpu
from obeql.executor.devices.lanes import run_in_lanes
from obeql.executor.devices.stopwatch import Stopwatch
from obeql.executor.kernels.memory_format import channels_last
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.clean_pass import CleanPass, materialise
from obeql.executor.operators.dense_forward import as_computed
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.executor.operators.layer_timer import LayerTimer
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.cost import Rates
from obeql.planner.physical.plan import Cost, IncrementalForward

__all__ = ["matrix_rate", "measure_rates"]

Floats = npt.NDArray[np.float64]

#: Vectors in a pass.
_VECTORS = 64
#: Multiply-accumulates of a pass over whole maps, at most, and seconds that are enough for all of them.
_PASS_MACS, _PASSES_S = 4e10, 0.3
#: Seconds after which anything else was timed often enough.
_LONG_S = 0.3
#: Groups of windows along an axis.
_AXIS_GROUPS = 6
_COPY_ROWS, _COPY_CHANNELS = 1 << 15, 64
#: Rows of the square matrices that tell what a device can do at all.
_MATRIX_ROWS, _GPU_MATRIX_ROWS = 512, 4096


@dataclass(frozen=True, slots=True)
class _Effort:
    """How much is run for the rates of one network."""

    #: whole maps in a pass; passes over them, at least and at most, of which the first packs the weights
    n_maps: int
    fewest_passes: int
    most_passes: int
    #: times that anything else is timed
    repeats: int
    #: batches on boxes: so many of 2 windows along each axis, and of about `large` windows at least so many, one a lane
    small_groups: int
    large: int
    fewest_large: int
    #: Work that takes longer than these seconds fills the cores in any way: no other one is tried.
    other_ways_s: float


_THOROUGH = _Effort(
    n_maps=4, fewest_passes=2, most_passes=5, repeats=3, small_groups=4, large=36, fewest_large=2, other_ways_s=0.3
)
_ROUGH = _Effort(
    n_maps=2, fewest_passes=2, most_passes=2, repeats=1, small_groups=1, large=16, fewest_large=1, other_ways_s=0.0
)


@dataclass(frozen=True, eq=False)
class _OnBoxes(LayerGraph):
    """A graph of which windows run the layers on boxes alone: those on whole maps are timed by themselves."""

    def forward_from(
        self,
        values: Mapping[int, torch.Tensor],
        order: Sequence[int],
        timed: Callable[[int, Callable[[], torch.Tensor]], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return logits that say nothing, (n, K)."""
        value = next(iter(values.values()))
        return value.new_zeros((len(value), *self.layers[-1].shape))


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the multiply-accumulates a second of a product of matrices: about the most that a device can do."""
    rows = _MATRIX_ROWS if device_of(device).kind == Cpu.kind else _GPU_MATRIX_ROWS
    left, right = (_some_numbers((rows, rows), device, dtype) for _ in range(2))
    return device_of(device).n_lanes * float(rows**3) / _in_a_lane(device, lambda: left @ right, 12)


def measure_rates(
    graph: LayerGraph,
    device: torch.device,
    dtype: torch.dtype,
    heed: Callable[[], None] = lambda: None,
    *,
    is_rough: bool = False,
) -> Rates:
    """Time every layer of `graph` on small batches of whole maps and of boxes, and gathers of channels.

    `graph` is as captured; it is moved to the device here. `heed` is called between timings, and may raise to stop.
    `is_rough` spends a quarter of the time, for choices rather than for estimates that people read.
    """
    effort = _ROUGH if is_rough else _THOROUGH
    graph = graph.to(device, dtype)
    watch = Stopwatch(device, own_code=bool(graph.reason))
    batch = max(1, min(effort.n_maps, int(_PASS_MACS // max(1, graph.network().macs))))
    image = _some_numbers((batch, *graph.layers[0].shape), device, dtype)
    image = channels_last(image)
    with torch.inference_mode():
        layer_s = _layer_seconds(graph, image, watch, effort, heed)
        call_s = _call_seconds(device, dtype)
        boxes, views = _box_rates(graph, image[:1], watch, effort, heed)
        heed()
        n_lanes = device_of(device).n_lanes
        few = not graph.reason and batch * sum(layer_s) < effort.other_ways_s
        in_lanes = _in_lanes(graph, image, n_lanes, effort) / (batch * sum(layer_s)) if few and n_lanes > 1 else 0.0
        on_cpu = device_of(device).kind == Cpu.kind
        heed()
        return Rates(
            bytes_per_s=_copy_rate(device, dtype),
            call_s=call_s,
            layer_s=layer_s,
            free_bytes=device_of(device).free_bytes,
            device=device_of(device).hardware,
            on_cpu=on_cpu,
            n_lanes=n_lanes,
            maps_in_lanes=in_lanes,
            plain_memory=0.0 if on_cpu or graph.reason else _plain_memory_ratio(graph, image, watch, effort),
            **boxes,
            pass_s=watch.least(lambda: materialise(graph, image[:1], views), effort.repeats, _LONG_S),
        )


def _layer_seconds(
    graph: LayerGraph, image: torch.Tensor, watch: Stopwatch, effort: _Effort, heed: Callable[[], None]
) -> tuple[float, ...]:
    """Return the least seconds of each layer on one whole map, of several passes over the network."""
    best = [float("inf")] * len(graph.layers)
    best[0] = 0.0
    last = graph.last_use()
    total, n_passes = 0.0, 0
    while n_passes < effort.fewest_passes or (n_passes < effort.most_passes and total < _PASSES_S):
        live = {0: image}
        for i, layer in enumerate(graph.layers):
            if i:
                heed()
                inputs = [live[j] for j in layer.inputs]
                live[i] = layer.forward(inputs)
                # Vectors come in large batches: a few rows would be charged for reading all the weights.
                n = _VECTORS if all(x.dim() == 2 for x in inputs) else len(image)
                many = [x if n == len(image) else x[:1].expand(n, -1).contiguous() for x in inputs]
                seconds, _ = watch.timed(lambda: layer.forward(many))  # noqa: B023
                best[i], total = min(best[i], seconds / n), total + seconds
            for j in set(layer.inputs):
                if last[j] == i:
                    del live[j]
        n_passes += 1
    return tuple(best)


def _box_rates(
    graph: LayerGraph, image: torch.Tensor, watch: Stopwatch, effort: _Effort, heed: Callable[[], None]
) -> tuple[dict[str, Any], list[tuple[int, float]]]:
    """Return what `Rates` holds of boxes: seconds of a position and of a batch however small, by layer, and more;

    and the views that boxes are computed against.

    The two are a line through two points. A batch costs more than the calls: its weights are read once, from far away
    where there are many of them.
    """
    network = graph.network()
    regions = region_layers(network, len(network.layers))
    if network.whole or sum(regions) <= 1:
        return {}, []
    patch = tuple(max(1, min(16, size // 4)) for size in network.size)
    grid = WindowGrid.over(network.size, patch, tuple(max(1, size // 4) for size in patch))
    n_axes = len(network.size)
    large = round(effort.large ** (1 / n_axes))
    fill = image[0].mean(tuple(range(1, image.dim() - 1)), keepdim=True)
    clean = None
    points = []
    n_lanes, in_turn, beyond, sums_s = device_of(image.device).n_lanes, 0.0, float("inf"), 0.0
    for side, n_groups in ((2, effort.small_groups), (large, max(effort.fewest_large, n_lanes))):
        clock, n_batch = LayerTimer(image.device, watch), side**n_axes
        engine = IncrementalForward(regions, (_AXIS_GROUPS,) * n_axes, n_batch, n_batch, Cost(0, 0, 0))
        engine = replace(engine, n_lanes=n_lanes)
        run = IncrementalRun(_OnBoxes(graph.layers, graph.activation), grid, engine, clock)
        wanted = _some_windows(run, grid, n_groups, side)
        clean = clean or materialise(graph, image, run.needed)
        computed, n_batches = run.positions(wanted)
        sums_s = watch.least(lambda: run.sums(clean), effort.repeats, _LONG_S)  # noqa: B023
        best = np.full(len(regions), np.inf)
        total, n_times = 0.0, 0
        while n_times < (2 if side == 2 else 1) or (n_times < effort.repeats and total < _LONG_S):
            heed()
            clock.seconds.clear()
            busy_s = run.busy_s
            whole_s, _ = watch.timed(lambda: _compute(run, clean, fill, wanted))  # noqa: B023
            whole_s = run.busy_s - busy_s if watch.is_of_thread else whole_s
            layers_s = sum(clock.seconds.values())
            beyond = min(beyond, max(0.0, whole_s - sums_s - layers_s) / n_batches)
            best = np.minimum(best, [clock.seconds.get(i, 0.0) for i in range(len(regions))])
            total, n_times = total + layers_s, n_times + 1
        points.append((computed / n_batches, best / n_batches))
        if n_lanes > 1 and side == large and best.sum() < effort.other_ways_s:
            alone = IncrementalRun(run.graph, grid, replace(engine, n_lanes=1), clock)
            least = _least_by_layer(clock, lambda: _compute(alone, clean, fill, wanted), len(regions), effort, heed)  # noqa: B023
            in_turn = float(least.sum()) / max(1e-9, float(best.sum()))
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


def _least_by_layer(
    clock: LayerTimer, work: Callable[[], None], n_layers: int, effort: _Effort, heed: Callable[[], None]
) -> npt.NDArray[np.float64]:
    """Return the least seconds that each layer takes, (n_layers,), over some repeats of `work`, which `clock` times."""
    least = np.full(n_layers, np.inf)
    for _ in range(effort.repeats):
        heed()
        clock.seconds.clear()
        work()
        least = np.minimum(least, [clock.seconds.get(i, 0.0) for i in range(n_layers)])
    return least


def _compute(run: IncrementalRun, clean: CleanPass, fill: torch.Tensor, wanted: npt.NDArray[np.bool_]) -> None:
    run.run(clean, fill, wanted, lambda windows, logits: None, as_computed)


def _in_lanes(graph: LayerGraph, batch: torch.Tensor, n_lanes: int, effort: _Effort) -> float:
    """Return the least seconds of a batch of whole maps where as many as there are lanes go side by side."""

    def piece(stop: threading.Event) -> torch.Tensor:
        return graph.forward(batch)

    best = float("inf")
    for _ in range(effort.repeats):
        spent: list[float] = []
        run_in_lanes([piece] * n_lanes, n_lanes, lambda found: None, spent.append)
        best = min(best, *spent)
    return best


def _in_a_lane(device: torch.device, work: Callable[[], object], n: int) -> float:
    """Return the least seconds of work in a lane, whose operators wait for no thread that is kept from computing."""
    found: list[float] = []
    run_in_lanes([lambda stop: Stopwatch(device).least(work, n)], device_of(device).n_lanes, found.append)
    return max(found[0], 1e-9)


def _plain_memory_ratio(graph: LayerGraph, batch: torch.Tensor, watch: Stopwatch, effort: _Effort) -> float:
    """Return the seconds of whole maps in (N, C, H, W) memory over those in channels-last memory.

    Not asked on CPUs, whose packed kernels are channels-last.
    """
    plain, maps, order = graph.in_plain_memory(), batch.contiguous(), range(1, len(graph.layers))
    usual = watch.least(lambda: graph.forward(batch), effort.repeats, _LONG_S)
    return watch.least(lambda: plain.forward_from({0: maps}, order), effort.repeats, _LONG_S) / usual


def _line(small: tuple[Floats, Floats], large: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return the slope and offset through two points (positions a batch, seconds a batch), neither of them negative."""
    more = np.maximum(large[0] - small[0], 1e-9)
    slope = (large[1] - small[1]) / more
    through_large = large[1] / np.maximum(large[0], 1.0)  # the line without an offset
    slope = np.where((slope > 0) & (large[0] > small[0]), np.minimum(slope, through_large), through_large)
    return slope, np.maximum(0.0, large[1] - slope * large[0])


def _some_windows(run: IncrementalRun, grid: WindowGrid, n_groups: int, side: int) -> npt.NDArray[np.bool_]:
    """Return the windows to time, in the grid's shape: `side` along each axis from each of the largest groups."""
    groups = [[axis.windows for axis in group] for group in run.boxes.groups]
    groups.sort(key=lambda axes: -math.prod(map(len, axes)))
    wanted = np.zeros(grid.shape, bool)
    for axes in groups[:n_groups]:
        wanted[np.ix_(*(windows[:side] for windows in axes))] = True
    return wanted


def _some_numbers(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers in 0..1, always the same: PyTorch's own generator is the user's."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _copy_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the bytes a second of a gather, counted once read and once written, with the paste that follows it."""
    rows = _some_numbers((_COPY_ROWS, _COPY_CHANNELS), device, dtype)
    index = torch.randperm(_COPY_ROWS, generator=torch.Generator().manual_seed(0)).to(device)
    seconds = _in_a_lane(device, lambda: rows.index_select(0, index), 5)
    return device_of(device).n_lanes * 2 * rows.numel() * rows.element_size() / seconds


def _call_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Return the seconds of one layer on a batch however small: a few library calls and the Python around them."""
    weight = _some_numbers((8, 8, 3, 3), device, dtype)
    x = _some_numbers((1, 8, 4, 4), device, dtype)
    # The least of many: what disturbs one would count for every layer of every batch.
    least = _in_a_lane(device, lambda: torch.nn.functional.conv2d(x, weight), 30)
    # A layer on boxes is a convolution, a gather, a paste and the Python around them: about four calls.
    return 4 * least
