"""Calls that reach the device for a batch of windows, and what time that explains.

Counted by PyTorch's dispatcher, so that a CPU tells as much of a GPU's launches as the GPU does: every operator that is
no view is one, and a read of a region is one where a kernel fuses it. Reads of single numbers make the host wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.setting import Setting, captured
from benchmarks.networks import SIZES
from obeql.executor.devices.cpu import Cpu
from obeql.executor.kernels import fused_read
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.grid_scan import GridScan
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.cost import Rates, positions
from obeql.planner.physical.plan import IncrementalForward
from obeql.planner.physical.schedule import choose_engine

__all__ = ["assumed_rates", "graphs", "run"]

#: What is assumed of a large GPU where none is measured: multiply-accumulates and bytes a second that convolutions and
#: copies reach, and seconds of a launch with the Python around it.
_MACS_PER_S, _BYTES_PER_S, _LAUNCH_S = 2e13, 2.5e12, 1e-5
#: Operators that make the host wait for the device.
_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")
_NETWORKS = ("vgg16", "resnet18", "inception_v3", "densenet121", "mobilenet_v2")


class _Calls(TorchDispatchMode):
    """Counts operators that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.is_counting = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if self.is_counting and not is_view and not func._schema.name.startswith("aten::empty"):
            self.found[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def assumed_rates(graph: LayerGraph) -> Rates:
    """Return rates of a large GPU by count: arithmetic and bytes of each layer, launches of each batch."""
    network = graph.network()
    whole = [layer.macs / _MACS_PER_S + layer.work_bytes / _BYTES_PER_S for layer in network.layers]
    regions = region_layers(network, len(network.layers))
    a_position = [
        s / positions(layer) if on else 0.0 for s, layer, on in zip(whole, network.layers, regions, strict=True)
    ]
    a_batch = [3 * _LAUNCH_S if on else 0.0 for on in regions]
    return Rates(
        macs_per_s=_MACS_PER_S,
        bytes_per_s=_BYTES_PER_S,
        call_s=2 * _LAUNCH_S,
        layer_s=tuple(whole),
        box_s=tuple(a_position),
        box_batch_s=tuple(a_batch),
        batch_s=5 * _LAUNCH_S,
        pass_s=2 * _LAUNCH_S * len(network.layers),
        free_bytes=6e10,
        device="assumed",
        on_cpu=False,
    )


def run(setting: Setting) -> None:
    """Write for each network the plan of a large GPU, its calls a batch, and the seconds they explain."""
    for name in _NETWORKS[1:2] if setting.quick else _NETWORKS:
        size = SIZES.get(name, 224)
        _, graph = captured(name, size)
        grid = WindowGrid.over((size, size), (16, 16), (4, 4))
        engine, _ = choose_engine(graph.network(), grid, assumed_rates(graph))
        if not isinstance(engine, IncrementalForward):
            setting.write(network=name, engine=type(engine).__name__)
            continue
        calls, n_batches, n_layers = _count(setting, graph, grid, engine)
        n_calls = sum(calls.values())
        setting.write(
            network=name,
            groups=list(engine.n_groups),
            batch=engine.batch,
            batches_of_grid=n_batches,
            calls_of_one_batch=n_calls,
            layers_on_boxes=n_layers,
            waits=sum(calls[each] for each in _WAITS),
            calls_by_operator=dict(calls.most_common(12)),
            launches_s=n_calls * n_batches * _LAUNCH_S,
            estimated_s=engine.cost.seconds,
            macs_s=engine.cost.macs / _MACS_PER_S,
        )


def _count(
    setting: Setting, graph: LayerGraph, grid: WindowGrid, engine: IncrementalForward
) -> tuple[Counter[str], int, int]:
    """Calls of one batch of the whole of `GridScan.compute` and of nothing else, and the batches of the grid."""
    placed = graph.to(setting.device, torch.float32)
    image = torch.rand((1, *graph.layers[0].shape), generator=torch.Generator().manual_seed(0)).to(setting.device)
    fill = image.mean((2, 3)).view(1, -1, 1, 1)
    calls = _Calls()
    with torch.inference_mode(), _as_on_a_gpu(setting, calls):
        run = GridScan(placed, grid, engine, skips=False)
        operator: Any = run._operator
        parts = list(operator.parts(None))
        clean = materialise(placed, image, run.needed)
        wanted = np.zeros((1, grid.n_windows), bool)
        wanted[0, parts[0].windows[:2]] = True  # two windows launch what a thousand do
        run.compute(clean, fill, [[0]], "softmax", lambda n: None, wanted)  # warm
        with calls:
            run.compute(clean, fill, [[0]], "softmax", lambda n: None, wanted)
    return calls.found, len(parts), len(operator.on_boxes)


@contextmanager
def _as_on_a_gpu(setting: Setting, calls: _Calls) -> Iterator[None]:
    """Let a CPU run as a GPU does, and count a fused read as one call."""
    twin = fused_read._reader(setting.device.type)

    def one_call(*args: Any) -> Any:
        calls.found["fused read"] += calls.is_counting
        calls.is_counting, before = False, calls.is_counting
        try:
            return twin(*args)
        finally:
            calls.is_counting = before

    usual = fused_read._reader
    fused_read._reader = lambda kind: one_call  # type: ignore[assignment]
    before = Cpu.fuses_reads, Cpu.is_asynchronous
    Cpu.fuses_reads = Cpu.is_asynchronous = True
    try:
        yield
    finally:
        fused_read._reader = usual
        Cpu.fuses_reads, Cpu.is_asynchronous = before


def graphs(setting: Setting) -> None:
    """Write what a CUDA graph of one batch would save: its replay against the same calls one by one."""
    if setting.device.type != "cuda":
        setting.write(skipped="CUDA graphs need CUDA")
        return
    for name in _NETWORKS[:2]:
        size = setting.size(name)
        _, graph = captured(name, size)
        placed = graph.to(setting.device, torch.float32)
        for n_windows in (16, 256):
            batch = torch.rand((n_windows, 3, size, size), device=setting.device)
            batch = batch.contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                for _ in range(3):
                    placed.forward(batch)
                eager_s = min(setting.seconds(lambda: placed.forward(batch)) for _ in range(5))  # noqa: B023
                recorded = torch.cuda.CUDAGraph()
                with torch.cuda.graph(recorded):
                    placed.forward(batch)
                replay_s = min(setting.seconds(recorded.replay) for _ in range(5))
            setting.write(network=name, windows=n_windows, eager_ms=1e3 * eager_s, replay_ms=1e3 * replay_s)
