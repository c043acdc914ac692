"""The engine against the best naive batch in the same precision, and how rates, layout and threads were chosen."""

from __future__ import annotations

import copy
from typing import Any

import torch

from benchmarks.engine import bench, options
from benchmarks.gpu.setting import Setting, captured
from benchmarks.machine import machine
from obeql.executor.calibration.rates import measure_rates
from obeql.executor.devices import DTYPES, arithmetic, device_of
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.schedule import choose_engine

__all__ = ["NETWORKS", "compiled", "few_windows", "rates", "whole_grids"]

NETWORKS = ("vgg16", "resnet18", "resnet50", "inception_v3", "densenet121", "mobilenet_v2", "convnext_tiny")
_QUICK = ("squeezenet1_1",)
_BATCHES = ("16", "64", "256", "1024")


def whole_grids(setting: Setting) -> None:
    """Write a row for each network and precision: patch 16, stride 4, every window."""
    for name in _QUICK if setting.quick else NETWORKS:
        for precision in _precisions(setting):
            _bench(setting, name, precision, "32" if setting.quick else "4")


def few_windows(setting: Setting) -> None:
    """Write a row for each network: 16 windows."""
    for name in _QUICK if setting.quick else NETWORKS:
        _bench(setting, name, "float32", "16" if setting.quick else "70")


def rates(setting: Setting) -> None:
    """Write what was measured of a network on the device, and the plan that follows."""
    for name in _QUICK if setting.quick else NETWORKS[:2]:
        size = setting.size(name)
        _, graph = captured(name, size)
        for precision in _precisions(setting):
            with arithmetic(precision, setting.device):
                found = measure_rates(graph, setting.device, DTYPES[precision])
            grid = WindowGrid.over((size, size), (16, 16), (4, 4))
            engine, _ = choose_engine(graph.network(), grid, found)
            setting.write(
                network=name,
                precision=precision,
                device=found.device,
                pass_ms=1e3 * found.pass_s,
                call_us=1e6 * found.call_s,
                gather_gb_per_s=found.bytes_per_s / 1e9,
                whole_map_ms=1e3 * sum(found.layer_s),
                batch_beyond_us=1e6 * found.batch_s,
                batch_on_boxes_us=1e6 * sum(found.box_batch_s),
                plain_memory=found.plain_memory,
                engine=type(engine).__name__,
                groups=list(getattr(engine, "n_groups", (0, 0))),
                batch=engine.batch,
                estimated_ms=1e3 * engine.cost.seconds,
            )


def compiled(setting: Setting) -> None:
    """Write what `torch.compile` makes of the naive batch."""
    for name in () if setting.quick else NETWORKS[:2]:
        size = setting.size(name)
        module, _ = captured(name, size)
        module = copy.deepcopy(module).to(setting.device)
        batch = torch.rand((64, 3, size, size), device=setting.device).contiguous(memory_format=torch.channels_last)
        fast: Any = torch.compile(module)
        with torch.inference_mode():
            warm_s = setting.seconds(lambda: fast(batch))  # noqa: B023
            plain_s = min(setting.seconds(lambda: module(batch)) for _ in range(3))  # noqa: B023
            fast_s = min(setting.seconds(lambda: fast(batch)) for _ in range(3))  # noqa: B023
        setting.write(network=name, compile_s=warm_s, plain_ms=1e3 * plain_s / 64, compiled_ms=1e3 * fast_s / 64)
    if setting.quick:
        setting.write(skipped="torch.compile takes a compiler and minutes")


def _precisions(setting: Setting) -> list[str]:
    device = device_of(setting.device)
    names = ["float32", *(["tf32"] if device.has_tf32 else [])]
    return names if setting.quick or device.reduced_precision is None else [*names, device.reduced_precision]


def _bench(setting: Setting, name: str, precision: str, stride: str) -> None:
    given = ["--device", str(setting.device), "--precision", precision, "--stride", stride]
    given += ["--size", str(setting.size(name))]
    if setting.quick:
        given += ["--naive-windows", "8", "--repeats", "1", "--batches", "8"]
    else:
        given += ["--naive-windows", "1024", "--repeats", "3", "--batches", *_BATCHES]
    setting.write(**bench(name, options().parse_args(given)), versions=machine())
