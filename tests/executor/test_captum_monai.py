"""Side by side with Captum's `Occlusion` and MONAI's `OcclusionSensitivity`, by their own definitions.

Captum: f(x) - f(occluded), last window cut (border clip), a pixel is the plain mean of the windows that cover it.
MONAI: f(occluded), last window shifted inward (border cover), the same mean.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from obeql.executor.network.capture.capture import capture
from obeql.planner.grid import WindowGrid

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

INSTALL = "install it with pip install 'obeql[peers]'"
CASES = [
    # size, patch, stride: the first two leave no rest
    ((32, 32), (8, 8), (4, 4)),
    ((29, 35), (5, 7), (3, 4)),
    ((31, 26), (8, 6), (5, 4)),
    ((27, 33), (9, 9), (9, 9)),
]
CLASS = 2


def peer(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{module.partition('.')[0]} is not installed ({error}); {INSTALL}")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
    ).eval()  # fmt: skip


def example(size: tuple[int, int]) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return network(), torch.rand(1, 3, *size, generator=generator)


def per_pixel(values: Tensor, grid: WindowGrid, size: tuple[int, int]) -> Tensor:
    """Mean over the windows that cover each pixel, NaN where none does."""
    total, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size)
    cells = values.reshape(grid.shape)
    for r, (top, height) in enumerate(zip(grid.rows.starts, grid.rows.lengths, strict=True)):
        for c, (left, width) in enumerate(zip(grid.cols.starts, grid.cols.lengths, strict=True)):
            total[top : top + height, left : left + width] += float(cells[r, c])
            count[top : top + height, left : left + width] += 1
    return total / count


def ours(
    module: nn.Module, image: Tensor, grid: WindowGrid, fill: Tensor, drive: SimpleNamespace
) -> tuple[Tensor, Tensor]:
    """(clean logits (K,), logits of all windows (windows, K)) by boxes."""
    graph = capture(module, tuple(image.shape[1:]))  # type: ignore[arg-type]
    graph = graph.to(torch.device("cpu"), torch.float32)
    engine = drive.incremental_engine(graph, None, (3, 3), 16, 16)
    with torch.inference_mode():
        return graph.forward(image)[0], drive.window_logits(graph, grid, engine, image, fill)


def by_captum(
    module: nn.Module, image: Tensor, fill: Tensor, patch: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    captum = peer("captum.attr")
    with torch.no_grad():
        found = captum.Occlusion(module).attribute(
            image,
            sliding_window_shapes=(3, *patch),
            strides=(3, *stride),
            target=CLASS,
            baselines=fill[None].expand_as(image),
            perturbations_per_eval=8,
        )
    assert torch.equal(found[0, 0], found[0, 1]), "repeated over the channels"
    return found[0, 0]


def by_monai(module: nn.Module, image: Tensor, value: float, patch: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    monai = peer("monai.visualize")
    overlaps = {max(0.0, 1 - (s + 0.25) / p) for p, s in zip(patch, stride, strict=True)}
    shares = (
        [overlaps.pop()] if len(overlaps) == 1 else [1 - (s + 0.25) / p for p, s in zip(patch, stride, strict=True)]
    )
    for share in shares:  # one overlap serves both axes where it gives both strides
        if all(int(p * (1 - share)) == s for p, s in zip(patch, stride, strict=True)):
            break
    else:
        pytest.skip("MONAI takes one overlap for both axes")
    sensitivity = monai.OcclusionSensitivity(
        module, mask_size=patch, n_batch=8, mode=value, overlap=share, activate=False, verbose=False
    )
    with torch.no_grad():
        found, _ = sensitivity(image)
    return torch.as_tensor(found)[0, CLASS]


@pytest.mark.parametrize(("size", "patch", "stride"), CASES)
@pytest.mark.parametrize("fill", ["constant", "blur"])
def test_captum_is_border_clip(
    size: tuple[int, int], patch: tuple[int, int], stride: tuple[int, int], fill: str, drive: SimpleNamespace
) -> None:
    module, image = example(size)
    hidden = image.mean((2, 3)).view(3, 1, 1)
    if fill == "blur":
        hidden = torch.nn.functional.avg_pool2d(image, 5, 1, 2, count_include_pad=False)[0]
    expected = by_captum(module, image, hidden, patch, stride)
    grid = WindowGrid.over(size, patch, stride, "clip")
    assert grid.shape == tuple(math.ceil((n - p) / s) + 1 for n, p, s in zip(size, patch, stride, strict=True))
    clean, windows = ours(module, image, grid, hidden, drive)
    found = per_pixel(clean[CLASS] - windows[:, CLASS], grid, size)
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=2e-6)
    assert float(expected.abs().max()) > 1e-3


@pytest.mark.parametrize(("size", "patch", "stride"), CASES)
def test_monai_is_border_cover(
    size: tuple[int, int], patch: tuple[int, int], stride: tuple[int, int], drive: SimpleNamespace
) -> None:
    module, image = example(size)
    expected = by_monai(module, image, 0.3, patch, stride)
    grid = WindowGrid.over(size, patch, stride, "cover")
    assert grid.shape == tuple(math.ceil((n - p) / s) + 1 for n, p, s in zip(size, patch, stride, strict=True))
    _, windows = ours(module, image, grid, torch.full((3, 1, 1), 0.3), drive)
    found = per_pixel(windows[:, CLASS], grid, size)
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=2e-6)
    assert float(expected.max() - expected.min()) > 1e-3


def test_captum_is_the_clean_score_less_monai_where_no_pixels_remain() -> None:
    """Then all border rules agree, with each other and with ours."""
    size, patch, stride = CASES[0]
    module, image = example(size)
    captum = by_captum(module, image, torch.full((3, 1, 1), 0.3), patch, stride)
    monai = by_monai(module, image, 0.3, patch, stride)
    with torch.no_grad():
        clean = module(image)[0, CLASS]
    torch.testing.assert_close(captum, clean - monai, rtol=0, atol=2e-6)
    rules = [WindowGrid.over(size, patch, stride, border) for border in ("clip", "cover", "valid")]
    assert rules[0].rows == rules[1].rows == rules[2].rows and rules[0].cols == rules[1].cols == rules[2].cols
