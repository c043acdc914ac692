"""Measure how fast a device runs a model's layers: seconds a layer, bytes a second, seconds a call.

Done once for each device, model and precision, in a second or two; the session stores the result and hands it to
the planner, whose estimates are built on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from obeql.executor.devices import device_name, free_bytes
from obeql.executor.lanes import lane_count
from obeql.executor.network.graph import LayerGraph
from obeql.planner.cost import Rates

__all__ = ["measure_rates"]

_BATCH = 4
_REPEATS = 3
_COPY_ROWS, _COPY_CHANNELS = 1 << 15, 64


def measure_rates(graph: LayerGraph, device: torch.device, dtype: torch.dtype) -> Rates:
    """Time every layer of `graph` on small batches of whole maps, and gathers of channels.

    `graph` is as captured; it is moved to the device here. The fastest of three passes counts: interruptions only
    make a pass slower.
    """
    graph = graph.to(device, dtype)
    channels, height, width = graph.layers[0].shape
    image = torch.rand((_BATCH, channels, height, width), device=device, dtype=dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    best = [float("inf")] * len(graph.layers)
    best[0] = 0.0
    last = graph.last_use()
    with torch.inference_mode():
        for _ in range(_REPEATS):
            live = {0: image}
            for i, layer in enumerate(graph.layers):
                if i:
                    inputs = [live[j] for j in layer.inputs]
                    seconds, live[i] = _timed(device, lambda: layer.forward(inputs))  # noqa: B023
                    best[i] = min(best[i], seconds)
                for j in set(layer.inputs):
                    if last[j] == i:
                        del live[j]
        call_s = _call_seconds(device, dtype)
        return Rates(
            bytes_per_s=_copy_rate(device, dtype),
            call_s=call_s,
            layer_s=tuple(max(0.0, seconds) / _BATCH for seconds in best),
            free_bytes=free_bytes(device),
            device=device_name(device),
            on_cpu=device.type == "cpu",
            n_lanes=lane_count(device),
        )


def _timed(device: torch.device, work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    _wait(device)
    started = time.perf_counter()
    result = work()
    _wait(device)
    return time.perf_counter() - started, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _copy_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Bytes a second of a gather, counted once read and once written, with the paste that follows it."""
    rows = torch.rand((_COPY_ROWS, _COPY_CHANNELS), device=device, dtype=dtype)
    index = torch.randperm(_COPY_ROWS, device=device)
    seconds = min(_timed(device, lambda: rows.index_select(0, index))[0] for _ in range(5))
    return 2 * rows.numel() * rows.element_size() / max(seconds, 1e-9)


def _call_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one layer on a batch however small: a few library calls and the Python around them."""
    weight = torch.rand((8, 8, 3, 3), device=device, dtype=dtype)
    x = torch.rand((1, 8, 4, 4), device=device, dtype=dtype)
    torch.nn.functional.conv2d(x, weight)
    # The fastest of many: an interruption would count for every layer of every batch.
    fastest = min(_timed(device, lambda: torch.nn.functional.conv2d(x, weight))[0] for _ in range(30))
    # A layer on boxes is a convolution, a gather, a paste and the Python around them: about four calls.
    return 4 * fastest
