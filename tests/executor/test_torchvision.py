"""Torchvision's convolutional networks: captured in layers, and boxes on all of them equal whole maps.

Weights are random; batch norms are calibrated, so that outputs depend on the image as trained ones do.
"""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obeql.executor.models.zoo.import_torchvision import torchvision
from obeql.executor.network.capture.capture import capture
from obeql.planner.grid import WindowGrid

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")

#: network: (height, width) of the input
FAST = {
    "resnet18": (64, 80), "vgg11": (72, 64), "squeezenet1_1": (70, 64), "mobilenet_v2": (64, 72), "googlenet": (72, 64),
    "inception_v3": (96, 91), "densenet121": (64, 64), "shufflenet_v2_x0_5": (64, 75), "efficientnet_b0": (64, 69),
    "convnext_tiny": (64, 64), "regnet_y_400mf": (64, 64), "mnasnet0_5": (67, 64),
}  # fmt: skip
SLOW = {
    "alexnet": (96, 90), "resnet50": (80, 64), "resnet152": (64, 64), "resnext50_32x4d": (64, 64),
    "wide_resnet50_2": (64, 64),
    "vgg16_bn": (80, 64), "vgg19": (64, 64), "squeezenet1_0": (96, 96), "densenet161": (64, 72),
    "densenet201": (64, 64),
    "mobilenet_v3_large": (72, 64), "mobilenet_v3_small": (96, 96), "mnasnet1_3": (64, 67),
    "shufflenet_v2_x2_0": (75, 64),
    "efficientnet_b4": (64, 69), "efficientnet_v2_s": (96, 96), "convnext_small": (64, 64), "regnet_x_1_6gf": (64, 64),
    "regnet_y_3_2gf": (64, 64),
}  # fmt: skip


def built(name: str) -> nn.Module:
    """The network with ten classes and random weights."""
    torch.manual_seed(0)
    quick: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module: nn.Module = torchvision("this test").models.get_model(name, weights=None, num_classes=10, **quick)
    if name.startswith(("vgg", "alexnet")):
        # 120 million weights of the classifier would take most of the time.
        module.classifier = nn.Linear(next(m for m in module.classifier if isinstance(m, nn.Linear)).in_features, 10)
    return module


def calibrated(module: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Set the running statistics of all batch norms from random images."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in norms:
        part.momentum = None
        part.train()
    if norms:
        with torch.no_grad():
            module(torch.rand(4, 3, *size))
    return module.eval()


def some_windows(grid: WindowGrid, n_inside: int) -> np.ndarray:
    """Corners, one window of each border, and random ones."""
    rows, cols = grid.shape
    chosen = np.zeros(grid.shape, bool)
    chosen[[0, 0, -1, -1, 0, -1, rows // 3, rows // 2], [0, -1, 0, -1, cols // 2, cols // 3, 0, -1]] = True
    chosen.reshape(-1)[np.random.default_rng(0).choice(grid.n_windows, n_inside, replace=False)] = True
    return chosen


def check(module: nn.Module, size: tuple[int, int], drive: SimpleNamespace) -> None:
    module = calibrated(module.eval(), size)
    graph = capture(module, (3, *size))
    assert not graph.reason, graph.reason
    assert not any(layer.kind == "opaque" for layer in graph.layers)
    grid = WindowGrid.over(size, (16, 12), (5, 6), "cover")
    windows = some_windows(grid, 5)
    asked = torch.from_numpy(windows.reshape(-1))
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    fill = image.mean((2, 3)).view(3, 1, 1)
    wide = graph.to(CPU, torch.float64)
    engine = drive.incremental_engine(wide, None, (3, 3), 4, 5)
    first_global = next(i for i, layer in enumerate(graph.layers) if layer.reach == "global")
    assert sum(engine.regions) >= first_global >= 3, "boxes reach to the first layer that sees the whole map"
    dense = drive.window_logits(wide, grid, drive.dense_engine(6), image, fill, windows)[asked]
    boxes = drive.window_logits(wide, grid, engine, image, fill, windows)[asked]
    scale = float(dense.abs().max())
    spread = float((dense - dense.mean(0)).abs().max())
    assert spread > 1e-4 * scale, "hiding a window matters"
    assert float((boxes - dense).abs().max()) <= 1e-9 * max(scale, 1.0)
    assert float((boxes - dense).abs().max()) <= 1e-8 * spread
    del wide
    narrow = graph.to(CPU, torch.float32)
    single = drive.window_logits(narrow, grid, engine, image.float(), fill.float(), windows)[asked]
    # In float32 they are as close to float64 as the module itself comes.
    own = drive.brute_force(module, image.float(), fill.float(), grid, windows, together=8)[asked]
    rounding = float((own - dense).abs().max())
    assert rounding <= 1e-3 * scale
    assert float((single - dense).abs().max()) <= 4 * rounding + 1e-6 * scale
    gc.collect()


@pytest.mark.parametrize("name", FAST)
def test_boxes_equal_whole_maps(name: str, drive: SimpleNamespace) -> None:
    check(built(name), FAST[name], drive)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_boxes_equal_whole_maps_in_larger_networks(name: str, drive: SimpleNamespace) -> None:
    check(built(name), SLOW[name], drive)


class SamePadding(nn.Conv2d):
    """TensorFlow's SAME padding: one more zero below and right than above and left where it does not divide."""

    def forward(self, x: Tensor) -> Tensor:
        amounts = []
        for n, k, s in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max(0, (-(-n // s) - 1) * s + k - n)
            amounts += [total // 2, total - total // 2]
        return self._conv_forward(F.pad(x, amounts), self.weight, self.bias)


class LiteBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = n_in * expand
        widen = [SamePadding(n_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(True)] if expand > 1 else []
        self.body = nn.Sequential(
            *widen,
            SamePadding(wide, wide, kernel, stride, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(True),
            SamePadding(wide, n_out, 1, bias=False), nn.BatchNorm2d(n_out),
        )  # fmt: skip
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x if self.adds else self.body(x)


def lite() -> nn.Module:
    """EfficientNet-Lite in small: depthwise convolutions, ReLU6, asymmetric zero padding, no squeeze-excite."""
    torch.manual_seed(0)
    plan = (
        (16, 16, 3, 1, 1),
        (16, 24, 3, 2, 6),
        (24, 24, 3, 1, 6),
        (24, 40, 5, 2, 6),
        (40, 40, 5, 1, 6),
        (40, 80, 3, 2, 6),
    )
    return nn.Sequential(
        SamePadding(3, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU6(True), *(LiteBlock(*row) for row in plan),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(80, 10),
    )  # fmt: skip


@pytest.mark.parametrize("size", [(64, 64), (65, 78)])
def test_efficientnet_lite(size: tuple[int, int], drive: SimpleNamespace) -> None:
    module = lite()
    check(module, size, drive)
    kinds = [layer.kind for layer in capture(module, (3, *size)).layers]
    assert "pad" not in kinds, "zero padding is taken into the convolutions"
