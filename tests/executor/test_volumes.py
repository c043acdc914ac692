"""Networks of three spatial axes: boxes, whole maps and the module itself give the same numbers in float64."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from obeql.planner.grid import WindowGrid

CPU = torch.device("cpu")


class _Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, 4), nn.Linear(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(self.down(x.mean((2, 3, 4))).relu()).sigmoid()
        return x * gate[:, :, None, None, None]


class _Sum(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return sum((branch(x) for branch in self.branches), x)


class _Concat(_Sum):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(branch(x) for branch in self.branches)], 1)


class _Pad(nn.Module):
    def __init__(self, *amounts: int) -> None:
        super().__init__()
        self.amounts = amounts

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, self.amounts)


class _TokenNorm(nn.Module):
    """Layer norm over the channels of each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


def _random_network(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A network of a few layers of any kind on a map of odd sizes, and the shape of its input."""
    draw = random.Random(seed)

    def triple(*choices: int) -> tuple[int, int, int]:
        a, b, c = (draw.choice(choices) for _ in range(3))
        return a, b, c

    channels = 4
    stem_kernel = triple(1, 3, 3)
    layers: list[nn.Module] = [nn.Conv3d(2, channels, stem_kernel, padding=triple(0, 1))]
    for _ in range(4):
        match draw.randrange(10):
            case 0:
                layers += [nn.Conv3d(channels, 8, 3, triple(1, 2), 2, triple(1, 2), 2), nn.BatchNorm3d(8), nn.ReLU()]
                channels = 8
            case 1:
                layers.append(nn.MaxPool3d(triple(2, 3), triple(1, 2), 1, ceil_mode=draw.random() < 0.5))
            case 2:
                include = draw.random() < 0.5
                layers.append(nn.AvgPool3d(triple(2, 3), triple(1, 2), 1, draw.random() < 0.5, include))
            case 3:
                spatial = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
                layers.append(
                    _Sum(nn.Sequential(spatial, nn.ReLU(), nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))))
                )
            case 4:
                layers.append(_Gate(channels))
            case 5:
                layers.append(_Concat(nn.Conv3d(channels, 3, 1), nn.Conv3d(channels, 1, 3, padding=1)))
                channels += 4
            case 6:
                layers += [_Pad(*triple(0, 1, 2), *triple(0, 1, 1)), nn.Conv3d(channels, channels, 3, groups=channels)]
            case 7:
                layers.append(draw.choice([nn.GroupNorm(2, channels), nn.InstanceNorm3d(channels, affine=True)]))
            case 8:
                layers += [_TokenNorm(channels), nn.GELU()]
            case 9:
                layers += [nn.BatchNorm3d(channels), nn.Hardswish(), nn.MaxPool3d(3, 1, 1)]
    if draw.random() < 0.5:
        layers += [nn.AdaptiveAvgPool3d(draw.choice([2, (1, 2, 2)])), nn.Flatten(), nn.LazyLinear(3)]
    else:
        layers += [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(channels, 3)]
    module = nn.Sequential(*layers)
    shape = (2, draw.choice([8, 9, 11]), draw.choice([9, 10, 12]), draw.choice([8, 11, 13]))
    module.eval()(torch.zeros(1, *shape))  # lazy layers learn their sizes
    return module, shape


@pytest.mark.parametrize("seed", range(16))
def test_boxes_equal_whole_maps_equal_the_module(seed: int, drive: SimpleNamespace) -> None:
    torch.manual_seed(seed)
    built, shape = _random_network(seed)
    module, graph = drive.captured(lambda: built, shape)
    assert not graph.reason, graph.reason
    drive.assert_same(module, graph, shape)
    draw = random.Random(seed + 1000)
    patch = tuple(draw.choice([2, 3, 5]) for _ in range(3))
    grid = WindowGrid.over(shape[1:], patch, tuple(draw.choice([2, 3, 4]) for _ in range(3)), "cover")
    wide = graph.to(CPU, torch.float64)
    image = torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    fill = image.mean((0, 2, 3, 4))[:, None, None, None] if seed % 2 else torch.rand_like(image[0])
    wanted = np.zeros((1, *grid.shape), bool)
    wanted[0, :2, :, ::2] = True
    expected = drive.brute_force(module.double(), image, fill, grid, wanted[0])
    scale = float(expected.nan_to_num().abs().max())
    groups = tuple(draw.choice([1, 2, 3]) for _ in range(3))
    stop = draw.choice([None, len(graph.layers) // 2])
    for engine in (drive.dense_engine(), drive.incremental_engine(graph, stop, groups, batch=7, tail_batch=16)):
        found = drive.window_logits(wide, grid, engine, image, fill, wanted)
        assert torch.equal(found.isnan(), expected.isnan())
        assert float((found - expected).nan_to_num().abs().max()) <= 1e-10 * scale
