"""Every operator against plain inference of the module in float64 on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.setting import Setting, captured
from obeql.executor.devices import DTYPES, arithmetic, device_of
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.dense_forward import DenseRun, as_computed, occlude
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Cost, DenseForward, IncrementalForward

__all__ = ["NETWORKS", "run"]

NETWORKS = (
    "resnet18", "vgg11", "squeezenet1_1", "mobilenet_v2", "googlenet", "inception_v3", "densenet121",
    "shufflenet_v2_x0_5", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf", "mnasnet0_5",
)  # fmt: skip
#: largest difference of logits from float64, relative to their size
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "tf32": 2e-2, "bfloat16": 2e-1}


def run(setting: Setting) -> None:
    """Write a row for each network, operator and precision: the largest difference, and whether it is small enough."""
    free = Cost(0, 0, 0)
    for name in NETWORKS[2:3] if setting.quick else NETWORKS:
        size = 64 if setting.quick else 96
        module, graph = captured(name, size)
        grid = WindowGrid.over((size, size), (16, 16), (16, 16) if setting.quick else (12, 12))
        image = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        fill = image.mean((2, 3)).view(3, 1, 1)
        with torch.inference_mode():
            plain = copy.deepcopy(module).double()
            wanted = plain(occlude(image, fill, grid, np.arange(grid.n_windows)))
        regions = region_layers(graph.network(), len(graph.layers))
        engines = (DenseForward(16, free), IncrementalForward(regions, (3, 3), 7, 32, free))
        for precision in _precisions(setting):
            for engine in engines:
                found = _logits(setting, graph, grid, engine, precision, image, fill)
                error = float((found - wanted).abs().max() / wanted.abs().max())
                setting.write(
                    network=name,
                    operator=type(engine).__name__,
                    precision=precision,
                    error=error,
                    passed=error <= TOLERANCE[precision],
                )


def _precisions(setting: Setting) -> list[str]:
    device = device_of(setting.device)
    names = ["float64"] if device.wide_dtype == torch.float64 else []
    names.append("float32")
    if device.has_tf32:
        names.append("tf32")
    if device.reduced_precision is not None and not setting.quick:
        names.append(device.reduced_precision)
    return names


def _logits(
    setting: Setting, graph: Any, grid: WindowGrid, engine: Any, precision: str, image: torch.Tensor, fill: torch.Tensor
) -> torch.Tensor:
    dtype = DTYPES[precision]
    with torch.inference_mode(), arithmetic(precision, setting.device):
        placed = graph.to(setting.device, dtype)
        operator = (DenseRun if isinstance(engine, DenseForward) else IncrementalRun)(placed, grid, engine)
        pixels, hidden = (each.to(dtype).to(setting.device) for each in (image, fill))
        found: list[tuple[Any, torch.Tensor]] = []
        clean = materialise(placed, pixels, operator.needed)
        operator.run(clean, hidden, None, lambda *both: found.append((both[0], both[1].cpu().double())), as_computed)
    order = np.argsort(np.concatenate([windows for windows, _ in found]))
    return torch.cat([logits for _, logits in found])[torch.from_numpy(order)]
