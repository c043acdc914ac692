"""Windows that are listed: boxes and masks of any place and size, on boxes and on whole maps = a plain loop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from obeql.planner.regions import Region, RegionGrid

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (23, 30)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def random_regions(n: int, masked: float, seed: int = 0) -> list[Region]:
    rng = np.random.default_rng(seed)
    regions = []
    for number in range(n):
        height, width = (int(rng.integers(1, side + 1)) for side in SIZE)
        top, left = (
            int(rng.integers(0, side - length + 1)) for side, length in zip(SIZE, (height, width), strict=True)
        )
        mask = rng.random((height, width)) < 0.5 if rng.random() < masked else None
        regions.append(Region(str(number), top, left, height, width, mask))
    return regions


def plain_loop(module: nn.Module, images: Tensor, fill: Tensor, regions: list[Region]) -> Tensor:
    """Logits (images * regions, K) by the module itself."""
    rows = []
    with torch.inference_mode():
        for image in images:
            for each in regions:
                hidden = np.zeros(SIZE, bool)
                box = slice(each.top, each.top + each.height), slice(each.left, each.left + each.width)
                hidden[box] = True if each.mask is None else each.mask
                rows.append(module(torch.where(torch.from_numpy(hidden), fill.expand_as(image), image)[None]))
    return torch.cat(rows)


@pytest.mark.parametrize("masked", [0.0, 0.6])
@pytest.mark.parametrize("fill_size", [(1, 1), SIZE], ids=["one value", "a picture"])
@pytest.mark.parametrize("engine", ["dense", "boxes", "boxes, whole maps"])
def test_a_list_is_a_plain_loop(drive: SimpleNamespace, engine: str, fill_size: tuple[int, int], masked: float) -> None:
    module, graph = drive.captured(network, (3, *SIZE))
    module, graph = module.double(), graph.to(torch.device("cpu"), torch.float64)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, *SIZE, generator=generator, dtype=torch.float64)
    fill = torch.rand(3, *fill_size, generator=generator, dtype=torch.float64)
    regions = random_regions(21, masked)
    grid = RegionGrid.of(regions, SIZE)
    engines = {
        "dense": drive.dense_engine(4),
        "boxes": drive.incremental_engine(graph, None, (5, 5), batch=4),
        "boxes, whole maps": drive.incremental_engine(graph, 5, (1, 1), batch=4),
    }
    found = drive.window_logits(graph, grid, engines[engine], images, fill)
    expected = plain_loop(module, images, fill, regions)
    assert float((found - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


def test_some_of_a_list(drive: SimpleNamespace) -> None:
    module, graph = drive.captured(network, (3, *SIZE))
    module, graph = module.double(), graph.to(torch.device("cpu"), torch.float64)
    images, fill = torch.rand(1, 3, *SIZE, dtype=torch.float64), torch.zeros(3, 1, 1, dtype=torch.float64)
    regions = random_regions(12, 0.5, seed=3)
    wanted = np.arange(12).reshape(1, 1, 12) % 3 == 0
    engine = drive.incremental_engine(graph, None, (3, 3))
    found = drive.window_logits(graph, RegionGrid.of(regions, SIZE), engine, images, fill, wanted)
    expected = plain_loop(module, images, fill, regions)
    asked = wanted.reshape(-1)
    assert torch.allclose(found[asked], expected[asked], atol=1e-12, rtol=0)
    assert bool(found[~asked].isnan().all())


def test_the_same_mask_elsewhere_is_another_window() -> None:
    mask = np.array([[True, False], [True, True]])
    one = RegionGrid.of([Region("a", 0, 0, 2, 2, mask)], SIZE)
    assert one == RegionGrid.of([Region("a", 0, 0, 2, 2, mask.copy())], SIZE)
    assert one != RegionGrid.of([Region("a", 0, 1, 2, 2, mask)], SIZE)
    assert one != RegionGrid.of([Region("a", 0, 0, 2, 2, ~mask)], SIZE)
    assert one != RegionGrid.of([Region("a", 0, 0, 2, 2)], SIZE)
