"""Reading a region in one kernel: the same values as gathers and copies, in PyTorch and in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from obeql.executor.devices.cpu import Cpu
from obeql.executor.kernels.box_position import Place, Region
from obeql.executor.kernels.fused_read import FusedRead, read_in_torch
from obeql.executor.kernels.memory_format import channels_last, has_channels_last
from obeql.executor.kernels.paste import Boxes, View, plan_read
from obeql.executor.network.capture.capture import capture
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.dense_forward import DenseRun, as_computed
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Cost, DenseForward, IncrementalForward


def _case(seed: int) -> tuple[View, torch.Tensor, Boxes, Boxes, np.ndarray]:
    """Maps of some images, two axes or three, boxes inside them with values, and regions that reach over the border."""
    rng = np.random.default_rng(seed)
    n_images, channels, *shape = (int(n) for n in rng.integers(1, (4, 80, *((20, 20), (7, 8, 9))[seed // 2 % 2])))
    n = int(rng.integers(1, 30))
    sizes = tuple(int(rng.integers(1, size + 1)) for size in shape)
    starts = np.stack([rng.integers(0, size - of + 1, n) for size, of in zip(shape, sizes, strict=True)])
    more = (5, 2, 1)
    region = Boxes(starts - rng.integers(0, 4, starts.shape), tuple(map(sum, zip(sizes, more, strict=False))))
    generator = torch.Generator().manual_seed(seed)
    view = View.of(torch.randn((n_images, channels, *shape), generator=generator), -float("inf"))
    value = torch.randn((n, channels, *sizes), generator=generator)
    if seed % 2:
        value = channels_last(value)
    return view, value, region, Boxes(starts, sizes), rng.integers(0, n_images, n)


def _place(boxes: Boxes) -> Place:
    return Place(torch.from_numpy(boxes.starts), boxes.sizes)


def _region(boxes: Boxes, seed: int) -> Region:
    """A region that starts where the boxes do, given with a stride and a padding where that is possible."""
    pad, n_axes = seed % 4, len(boxes.sizes)
    starts, scale = torch.from_numpy(boxes.starts + pad), 1
    if seed % 3 == 0:  # every start is -1 times its negative
        starts, scale = -starts, -1
    return Region(starts, boxes.sizes, (scale,) * n_axes, (pad,) * n_axes)


@pytest.mark.parametrize("seed", range(12))
def test_one_kernel_reads_what_copies_read(seed: int) -> None:
    view, value, region, box, images = _case(seed)
    copies = plan_read(view.shape, region, box, images, torch.device("cpu"))
    fused = FusedRead(_region(region, seed), _place(box), torch.from_numpy(images))
    assert torch.equal(fused.run(view, value), copies.run(view, value))
    assert torch.equal(fused.clean(view), copies.clean(view))


def _compare_in_triton() -> None:
    """Compare the Triton kernel with its twin; run with TRITON_INTERPRET=1."""
    from obeql.executor.kernels.triton_read import read_in_triton

    for seed in range(12):
        view, value, region, box, images = _case(seed)
        given = (_region(region, seed), _place(box), torch.from_numpy(images))
        for values in (value, None):
            found, wanted = read_in_triton(view, values, *given), read_in_torch(view, values, *given)
            assert torch.equal(found, wanted), seed
            assert has_channels_last(found)


def test_triton_reads_the_same() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.ChannelShuffle(4),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    ).eval()


@pytest.mark.parametrize("several", [False, True])
def test_operators_give_the_same_numbers_the_way_gpus_run(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = capture(_network(), (3, 40, 48)).to(torch.device("cpu"), torch.float64)
    grid = WindowGrid.over((40, 48), (8, 8), (4, 4))
    free = Cost(0, 0, 0)
    images = torch.rand(
        (2 if several else 1, 3, 40, 48), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    fill = images.mean((2, 3))[:, :, None, None]
    boxes = IncrementalForward(region_layers(graph.network(), len(graph.layers)), (3, 3), 7, 32, free)

    def logits(run: Any) -> torch.Tensor:
        found = torch.full((len(images) * grid.n_windows, 5), float("nan"), dtype=torch.float64)

        def take(windows: np.ndarray, values: torch.Tensor) -> None:
            found[torch.from_numpy(windows)] = values

        run.run(materialise(graph, images, run.needed), fill, None, take, as_computed)
        return found

    with torch.inference_mode():
        usual = logits(DenseRun(graph, grid, DenseForward(16, free)))
        monkeypatch.setattr(Cpu, "fuses_reads", True)
        monkeypatch.setattr(Cpu, "is_asynchronous", True)
        for run in (DenseRun(graph, grid, DenseForward(16, free)), IncrementalRun(graph, grid, boxes)):
            torch.testing.assert_close(logits(run), usual, rtol=1e-10, atol=1e-12)


if __name__ == "__main__":
    _compare_in_triton()
