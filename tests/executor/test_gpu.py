"""The operators on a CUDA device: the same code, compared with the CPU in float64 and with plain inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from obeql.executor.devices import DTYPES, arithmetic
from obeql.executor.network.capture.capture import capture
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.dense_forward import as_computed
from obeql.executor.operators.grid_scan import GridScan
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Cost, DenseForward, IncrementalForward

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

#: largest difference of logits from float64, relative to their size
TOLERANCE = {"float32": 1e-5, "tf32": 5e-3, "bfloat16": 5e-2, "float16": 1e-2}


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU6(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    ).eval()


def _logits(graph: Any, grid: WindowGrid, engine: Any, image: Tensor) -> Tensor:
    fill = image.mean((2, 3)).view(3, 1, 1)
    run = GridScan(graph, grid, engine)
    found = torch.zeros((grid.n_windows, 5), dtype=image.dtype, device=image.device)

    def take(windows: np.ndarray, logits: Tensor) -> None:
        found[torch.from_numpy(windows).to(image.device)] = logits

    run._operator.run(materialise(graph, image, run.needed), fill, None, take, as_computed)
    return found.double().cpu()


@pytest.mark.parametrize("precision", list(TOLERANCE))
def test_boxes_and_whole_maps_agree_with_float64_on_the_cpu(precision: str) -> None:
    captured = capture(_network(), (3, 40, 48))
    grid = WindowGrid.over((40, 48), (8, 8), (4, 4))
    free = Cost(0, 0, 0)
    pixels = torch.rand((1, 3, 40, 48), generator=torch.Generator().manual_seed(1))
    regions = region_layers(captured.network(), len(captured.layers))
    engines = [DenseForward(16, free), IncrementalForward(regions, (3, 3), 7, 32, free)]
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    with torch.inference_mode():
        exact = _logits(captured.to(cpu, torch.float64), grid, engines[0], pixels.double())
        for engine in engines:
            with arithmetic(precision, gpu):
                graph = captured.to(gpu, DTYPES[precision])
                found = _logits(graph, grid, engine, pixels.to(gpu, DTYPES[precision]))
            assert float((found - exact).abs().max()) <= TOLERANCE[precision] * float(exact.abs().max())


def test_a_batch_too_large_for_the_device_is_halved() -> None:
    captured = capture(_network(), (3, 40, 48)).to(torch.device("cuda:0"), torch.float32)
    grid = WindowGrid.over((40, 48), (8, 8), (4, 4))
    run = GridScan(captured, grid, DenseForward(64, Cost(0, 0, 0)))
    image = torch.rand((1, 3, 40, 48), device="cuda:0")
    calls = []

    def short_of_memory(clean: Any, fill: Tensor, todo: Any, *_: Any) -> None:
        calls.append(run.engine.batch)
        if len(calls) == 1:
            torch.empty(1 << 60, dtype=torch.uint8, device="cuda:0")

    run._operator.run = short_of_memory  # type: ignore[method-assign]
    with torch.inference_mode():
        clean = materialise(captured, image, run.needed)
        (planes,) = run.compute(clean, image.mean((2, 3)).view(3, 1, 1), [[0]], "softmax", lambda n: None)
    assert run.engine.batch == 32
    assert bool(planes.logit.isfinite().all())
