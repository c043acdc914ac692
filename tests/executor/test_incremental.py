"""The differential test: windows on boxes = windows on whole maps = a loop over the module itself.

Random small networks of every block that boxes pass through, random grids and fills, and every engine choice forced,
also the ones no cost model would take.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from obeql.executor.network.capture.capture import capture
from obeql.planner.grid import WindowGrid

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


# ---- blocks: each takes (channels in, a source of small numbers) --------------------------------------------


class Draw:
    """Small numbers for a block's parameters; hypothesis shrinks the list they come from."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers or [0]
        self.at = 0

    def among(self, *choices: object) -> object:
        value = self.numbers[self.at % len(self.numbers)]
        self.at += 1
        return choices[value % len(choices)]

    def pair(self, *choices: int) -> tuple[int, int]:
        return self.among(*choices), self.among(*choices)  # type: ignore[return-value]


ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Tanh, nn.ELU, nn.Identity, nn.LeakyReLU, nn.Hardsigmoid,
    lambda: nn.ReLU(inplace=True), lambda: nn.Hardtanh(-0.5, 0.7),
)  # fmt: skip


class Convolution(nn.Module):
    """Any kernel, stride (also beyond the kernel), dilation, groups, one-sided zero padding, norm, activation."""

    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        out = draw.among(4, 6, 8)
        groups = draw.among(1, 1, 2)
        self.conv = nn.Conv2d(
            channels, out, draw.pair(3, 1, 2, 5), draw.pair(1, 2, 3), draw.pair(1, 0, 2), draw.pair(1, 1, 2),
            groups if channels % groups == 0 else 1, bias=draw.among(True, False),
        )  # fmt: skip
        self.pads = (*draw.pair(0, 1, 0, 2), *draw.pair(0, 1, 0)) if draw.among(False, True) else None
        self.norm = draw.among(nn.Identity(), nn.BatchNorm2d(out), nn.BatchNorm2d(out, affine=False))
        self.act = draw.among(*ACTIVATIONS)()
        self.channels = out

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x if self.pads is None else F.pad(x, self.pads))))


class Residual(nn.Module):
    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        self.stride = draw.among(1, 2)
        self.a = nn.Conv2d(channels, channels, 3, self.stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.b = nn.Conv2d(channels, channels, 3, 1, draw.among(1, 2), dilation=1)
        self.b.padding = (1, 1)
        self.short = nn.Conv2d(channels, channels, 1, self.stride) if self.stride > 1 else nn.Identity()
        self.pre = draw.among(False, True)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).relu() if self.pre else x
        y = self.b(F.relu(self.a(y) if self.pre else self.norm(self.a(y))))
        y += self.short(x)
        return y if self.pre else y.relu_()


class Dense(nn.Module):
    """Pre-activation layers on the concatenation of everything before them."""

    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        n = draw.among(1, 2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels + 2 * i) for i in range(n))
        self.convs = nn.ModuleList(nn.Conv2d(channels + 2 * i, 2, 3, 1, 1) for i in range(n))
        self.channels = channels + 2 * n

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(norm(x).relu_())], 1)
        return x


class Branches(nn.Module):
    """Inception: branches of different reach, joined along the channels."""

    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, 2, 1)
        self.b = nn.Sequential(
            nn.Conv2d(channels, 2, (1, 5), padding=(0, 2)), nn.ReLU(), nn.Conv2d(2, 2, (5, 1), padding=(2, 0))
        )
        self.c = draw.among(
            nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        )
        self.channels = 4 + channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x), self.c(x)], -3)


class Inverted(nn.Module):
    """MobileNet: expand, depthwise, optional squeeze-excite, project, add."""

    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        wide, kernel, self.stride = 2 * channels, draw.among(3, 5), draw.among(1, 1, 2)
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, wide, kernel, self.stride, kernel // 2, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.ReLU6(),
        )  # fmt: skip
        self.gate = None
        if draw.among(False, False, True):
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 2, 1), nn.SiLU(), nn.Conv2d(2, wide, 1), nn.Sigmoid()
            )
        self.project = nn.Conv2d(wide, channels, 1)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y = self.project(y if self.gate is None else self.gate(y) * y)
        return x + y if self.stride == 1 else y


class Shuffle(nn.Module):
    """ShuffleNet: split, one branch, cat, channel shuffle."""

    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        self.first = nn.Identity() if channels > 1 else nn.Conv2d(1, 4, 1)
        channels = 4 if channels == 1 else channels
        self.half = channels // 2
        self.rest = channels - self.half
        self.conv = nn.Conv2d(self.rest, self.half, 3, 1, 1)
        self.chunks = draw.among(False, True) and channels % 2 == 0
        self.channels = 2 * self.half

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        a, b = x.chunk(2, dim=1) if self.chunks else (x[:, : self.half], x[:, self.half :])
        y = torch.cat((a, self.conv(b)), dim=1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class NextBlock(nn.Module):
    """ConvNeXt: depthwise 7x7, layer norm over channels, two linear layers in NHWC, layer scale, add."""

    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, draw.among(7, 3), padding="same", groups=channels)
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.one, self.two = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.two(F.gelu(self.one(self.norm(y)))).permute(0, 3, 1, 2)
        return x + self.scale * y


class Pool(nn.Module):
    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        kernel, stride, ceil = draw.among(2, 3), draw.among(2, 1, 3), draw.among(False, True)
        pad = draw.among(0, 1)
        self.pool = draw.among(
            nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil),
            nn.AvgPool2d(kernel, stride, pad, ceil_mode=ceil),
            nn.AvgPool2d(kernel, stride, pad, ceil_mode=ceil, count_include_pad=False),
            nn.MaxPool2d((kernel, 2), (1, stride), (pad, 0), dilation=(2, 1), ceil_mode=ceil),
            nn.AvgPool2d((2, kernel), (stride, 2), (0, pad), ceil_mode=ceil, divisor_override=3),
        )
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


class Padding(nn.Module):
    """Constant padding that no convolution takes in, and crops."""

    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        self.pads = (*draw.pair(1, 0, 2, -1), *draw.pair(0, 1, -1))
        self.value = draw.among(0.5, 0.0, -1.0)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pads, value=self.value)


class Shared(nn.Module):
    """One convolution used twice, and a scale and a constant from Python in between."""

    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, draw.among(1, 1, 2), 1)
        self.factor = draw.among(2, 0.5, 3)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.conv((1.0 - self.conv(x) * self.factor).clamp(-1, 1) / 2)


BLOCKS = (Convolution, Residual, Pool, Branches, Inverted, Dense, Shuffle, NextBlock, Padding, Shared)


class Network(nn.Module):
    def __init__(self, in_channels: int, recipe: list[tuple[int, list[int]]], head: int, n_classes: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = in_channels
        for kind, numbers in recipe:
            block = BLOCKS[kind % len(BLOCKS)](channels, Draw(numbers))
            blocks.append(block)
            channels = block.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = head
        if head == 0:  # global mean
            self.last: nn.Module = nn.Linear(channels, n_classes)
        elif head == 1:  # bins of a fixed size
            self.last = nn.Sequential(nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(6 * channels, n_classes))
        else:  # fully convolutional
            self.last = nn.Sequential(nn.Conv2d(channels, n_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.last(x.mean((2, 3)) if self.head == 0 else x)


@dataclass
class Case:
    """What hypothesis draws."""

    seed: int
    size: tuple[int, int, int]
    recipe: list[tuple[int, list[int]]]
    head: int
    patch: tuple[int, int]
    stride: tuple[int, int]
    border: str
    region: tuple[int, int, int, int] | None
    fill: str
    stop: int
    groups: tuple[int, int]
    batch: int
    tail_batch: int
    share: float


@st.composite
def cases(draw: st.DrawFn) -> Case:
    size = (draw(st.sampled_from((3, 1, 2))), draw(st.integers(11, 26)), draw(st.integers(11, 26)))
    numbers = st.lists(st.integers(0, 11), min_size=1, max_size=14)
    recipe = draw(st.lists(st.tuples(st.integers(0, len(BLOCKS) - 1), numbers), min_size=1, max_size=4))
    patch = (draw(st.integers(1, 8)), draw(st.integers(1, 8)))
    border = draw(st.sampled_from(("cover", "valid", "clip")))
    stride = tuple(draw(st.integers(2, 9 if border != "clip" else max(2, p))) for p in patch)
    if border == "clip":
        stride = tuple(min(s, p) for s, p in zip(stride, patch, strict=True))
    region = None
    if draw(st.booleans()):
        top, left = draw(st.integers(0, size[1] - patch[0])), draw(st.integers(0, size[2] - patch[1]))
        region = (top, left, draw(st.integers(patch[0], size[1] - top)), draw(st.integers(patch[1], size[2] - left)))
    return Case(
        draw(st.integers(0, 9)), size, recipe, draw(st.integers(0, 2)), patch, (stride[0], stride[1]), border, region,
        draw(st.sampled_from(("constant", "channels", "map"))), draw(st.integers(1, 40)),
        (draw(st.integers(1, 9)), draw(st.integers(1, 9))), draw(st.integers(1, 7)), draw(st.integers(1, 7)),
        draw(st.sampled_from((1.0, 1.0, 0.5, 0.1))),
    )  # fmt: skip


def built(case: Case) -> nn.Module | None:
    """The network, with batch norms that do something; None if a map gets too small for its layers."""
    torch.manual_seed(case.seed)
    try:
        module = Network(case.size[0], case.recipe, case.head, 3)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.5, 0.5)
                part.running_var.uniform_(0.5, 2)
                if part.affine:
                    nn.init.uniform_(part.weight, 0.5, 1.5)
                    nn.init.uniform_(part.bias, -0.5, 0.5)
        module.eval()
        with torch.inference_mode():
            module(torch.zeros(2, *case.size))
    except RuntimeError:
        return None
    return module


def grid_of(case: Case) -> WindowGrid:
    return WindowGrid.over(case.size[1:], case.patch, case.stride, case.border, case.region)


def inputs_of(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    image = torch.rand((1, *case.size), generator=generator, dtype=torch.float64)
    fill = {
        "constant": image.new_full((case.size[0], 1, 1), 0.25),
        "channels": image.mean((2, 3)).view(-1, 1, 1),
        "map": F.avg_pool2d(image, 5, 1, 2, count_include_pad=False)[0],
    }[case.fill]
    return image.to(dtype), fill.to(dtype)


def check(case: Case, drive: SimpleNamespace) -> None:
    module = built(case)
    if module is None:
        return
    graph = capture(module, case.size)
    assert not graph.reason, graph.reason
    wide = graph.to(CPU, torch.float64)
    grid = grid_of(case)
    if not grid.n_windows:
        return
    image, fill = inputs_of(case, torch.float64)
    windows = None
    if case.share < 1:
        windows = np.random.default_rng(case.seed).random(grid.shape) < case.share
    stop = 1 + (case.stop - 1) % len(wide.layers)
    engine = drive.incremental_engine(wide, stop, case.groups, case.batch, case.tail_batch)
    loop = drive.brute_force(copy.deepcopy(module).double(), image, fill, grid, windows, together=16)
    dense = drive.window_logits(wide, grid, drive.dense_engine(case.batch), image, fill, windows)
    boxes = drive.window_logits(wide, grid, engine, image, fill, windows)
    scale = max(1.0, float(loop.nan_to_num().abs().max()))
    for found, name in ((dense, "dense"), (boxes, "boxes")):
        assert torch.equal(found.isnan(), loop.isnan())
        assert float((found - loop).nan_to_num().abs().max()) <= 1e-9 * scale, name
    again = drive.window_logits(wide, grid, engine, image, fill, windows)
    assert torch.equal(again.nan_to_num(), boxes.nan_to_num()), "the same plan gives the same bits"
    # Two images together, each with its own fill, and other windows of the second one.
    other, its_fill = inputs_of(replace(case, seed=case.seed + 1), torch.float64)
    both, fills = torch.cat([image, other]), torch.stack([fill, its_fill])
    rest = None if windows is None else ~windows
    chosen = None if windows is None else np.stack([windows, rest])
    alone = torch.cat([boxes, drive.window_logits(wide, grid, drive.dense_engine(8), other, its_fill, rest)])
    for each in (engine, drive.dense_engine(case.batch)):
        together = drive.window_logits(wide, grid, each, both, fills, chosen)
        assert torch.equal(together.isnan(), alone.isnan())
        assert float((together - alone).nan_to_num().abs().max()) <= 1e-9 * scale, "together"
    # Float32, with oneDNN's fused kernels.
    narrow = graph.to(CPU, torch.float32)
    single = drive.window_logits(narrow, grid, engine, image.float(), fill.float(), windows)
    error = (single.double().log_softmax(1) - loop.log_softmax(1)).nan_to_num().abs().max()
    assert float(error) <= 1e-5 * scale


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("n_lanes", [1, 3])
def test_lanes_and_layouts_agree(n_lanes: int, channels_last: bool, drive: SimpleNamespace) -> None:
    """Batches side by side or in turn, maps channels-last or in plain memory: the same logits."""
    case = Case(3, (3, 24, 24), [(0, [0]), (5, [1]), (4, [0, 2]), (3, [0])], 0, (6, 6), (3, 3), "cover", None, "map",
                9, (2, 2), 4, 6, 1.0)  # fmt: skip
    module = built(case)
    assert module is not None
    graph = capture(module, case.size).to(CPU, torch.float32)
    image, fill = inputs_of(case, torch.float32)
    grid = grid_of(case)
    expected = drive.window_logits(graph, grid, drive.dense_engine(8), image, fill)
    dense = replace(drive.dense_engine(5), n_lanes=n_lanes, channels_last=channels_last)
    boxes = replace(drive.incremental_engine(graph, 9, (2, 2), 4, 6), n_lanes=n_lanes)
    for engine in (dense, boxes):
        found = drive.window_logits(graph, grid, engine, image, fill)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(found, drive.window_logits(graph, grid, engine, image, fill))


BUDGET = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


@settings(max_examples=60, **BUDGET)
@given(case=cases())
def test_boxes_equal_whole_maps_equal_the_module(case: Case, drive: SimpleNamespace) -> None:
    check(case, drive)


@pytest.mark.slow
@settings(max_examples=300, **BUDGET)
@given(case=cases())
def test_boxes_equal_whole_maps_equal_the_module_at_length(case: Case, drive: SimpleNamespace) -> None:
    check(case, drive)


RECIPES = {
    "plain": [(0, [0]), (2, [0]), (0, [1, 0, 1])],
    "residual": [(0, [0]), (1, [1]), (1, [0, 0, 1])],
    "concatenations": [(0, [0]), (3, [2]), (5, [1])],
    "gates and shuffles": [(0, [0]), (4, [0, 0, 2]), (6, [1]), (4, [1, 2, 0])],
    "next": [(0, [1]), (7, [0]), (8, [1, 0, 3, 1, 1, 1]), (9, [0])],
}


@pytest.mark.parametrize("head", [0, 1, 2])
@pytest.mark.parametrize("name", RECIPES)
def test_every_layer_can_be_the_one_where_boxes_end(name: str, head: int, drive: SimpleNamespace) -> None:
    size = (3, 21, 24)
    grid_case = Case(
        1, size, RECIPES[name], head, (5, 6), (4, 5), "clip", None, "map", 1, (1, 1), 4, 4, 1.0
    )  # fmt: skip
    module = built(grid_case)
    assert module is not None
    graph = capture(module, size).to(CPU, torch.float64)
    grid = grid_of(grid_case)
    image, fill = inputs_of(grid_case, torch.float64)
    expected = drive.brute_force(copy.deepcopy(module).double(), image, fill, grid)
    scale = max(1.0, float(expected.abs().max()))
    n_distinct = set()
    for stop in range(1, len(graph.layers) + 1):
        n_groups = 1 + stop % 4
        engine = drive.incremental_engine(graph, stop, (n_groups, 5 - n_groups), 1 + stop % 7, 1 + stop % 5)
        n_distinct.add(sum(engine.regions))
        found = drive.window_logits(graph, grid, engine, image, fill)
        assert float((found - expected).abs().max()) <= 1e-9 * scale, f"boxes end before layer {stop}"
    assert len(n_distinct) >= 3


def test_any_number_of_groups(drive: SimpleNamespace) -> None:
    """From one box size for all windows to one for each signature."""
    case = Case(0, (3, 23, 19), RECIPES["residual"], 0, (6, 5), (3, 2), "cover", None, "channels", 1, (1, 1), 7, 7, 1.0)
    module = built(case)
    assert module is not None
    graph = capture(module, case.size).to(CPU, torch.float64)
    grid = grid_of(case)
    image, fill = inputs_of(case, torch.float64)
    expected = drive.window_logits(graph, grid, drive.dense_engine(9), image, fill)
    for groups in range(1, max(grid.shape) + 1):
        engine = drive.incremental_engine(graph, None, (groups, max(1, groups - 2)), 7, 9)
        found = drive.window_logits(graph, grid, engine, image, fill)
        assert float((found - expected).abs().max()) <= 1e-9


def test_nan_in_the_image_stays_under_a_window_that_hides_it(drive: SimpleNamespace) -> None:
    """Windows select, they never multiply: a hidden NaN has no effect, one in sight reaches the output."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)).eval()
    graph = capture(module, (1, 10, 10)).to(CPU, torch.float64)
    grid = WindowGrid.over((10, 10), (4, 4), (3, 3))
    image = torch.rand(1, 1, 10, 10, dtype=torch.float64)
    image[0, 0, 4, 5] = float("nan")
    fill = image.new_full((1, 1, 1), 0.5)
    expected = drive.brute_force(copy.deepcopy(module).double(), image, fill, grid)
    assert expected.isnan().any() and not expected.isnan().all()
    for batch in (1, 4):
        dense = drive.window_logits(graph, grid, drive.dense_engine(batch), image, fill)
        boxes = drive.window_logits(graph, grid, drive.incremental_engine(graph, None, (2, 2), batch), image, fill)
        torch.testing.assert_close(dense, expected, equal_nan=True)
        torch.testing.assert_close(boxes, expected, equal_nan=True)
