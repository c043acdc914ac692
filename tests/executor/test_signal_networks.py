"""Networks of signals: random one-dimensional networks on boxes = on whole maps = a loop over the module itself."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from obeql.executor.models.one_row import OneRow
from obeql.executor.network.capture.capture import capture
from obeql.executor.operators.window_fill import Linear
from obeql.planner.grid import WindowGrid

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def among(numbers: list[int], *choices: object) -> object:
    """Take the next small number off a list and return the choice that it stands for."""
    return choices[numbers.pop(0) % len(choices)] if numbers else choices[0]


class Convolution(nn.Module):
    """Any kernel, stride, dilation and groups, one-sided padding, a batch norm."""

    def __init__(self, channels: int, numbers: list[int]) -> None:
        super().__init__()
        self.channels = among(numbers, 4, 6)
        groups = among(numbers, 1, 2)
        self.pads = (among(numbers, 0, 3, 1), among(numbers, 0, 1, 2))
        self.conv = nn.Conv1d(
            channels, self.channels, among(numbers, 3, 1, 8, 5), among(numbers, 1, 2, 3), among(numbers, 0, 2),
            among(numbers, 1, 2, 4), groups if channels % groups == 0 else 1, bias=among(numbers, True, False),
        )  # fmt: skip
        self.norm = among(numbers, nn.Identity(), nn.BatchNorm1d(self.channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.pad(x, self.pads))))


class Residual(nn.Module):
    def __init__(self, channels: int, numbers: list[int]) -> None:
        super().__init__()
        self.channels = channels
        self.a = nn.Conv1d(channels, channels, 7, padding="same")
        self.norm = nn.BatchNorm1d(channels)
        self.b = nn.Conv1d(channels, channels, 3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.b(self.norm(self.a(x)).relu_()) + x)


class Pool(nn.Module):
    def __init__(self, channels: int, numbers: list[int]) -> None:
        super().__init__()
        self.channels = channels
        kernel, stride, ceil = among(numbers, 3, 2), among(numbers, 2, 1, 3), among(numbers, False, True)
        self.pool = among(
            numbers,
            nn.MaxPool1d(kernel, stride, 1, ceil_mode=ceil),
            nn.AvgPool1d(kernel, stride, 1, ceil_mode=ceil),
            nn.AvgPool1d(kernel, stride, 1, ceil_mode=ceil, count_include_pad=False),
            nn.MaxPool1d(kernel, stride, dilation=2, ceil_mode=ceil),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


class Branches(nn.Module):
    """InceptionTime: kernels of several lengths and a pool, joined along the channels."""

    def __init__(self, channels: int, numbers: list[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(channels, 2, k, padding="same") for k in (9, 5, 1))
        self.pool = nn.MaxPool1d(3, 1, 1)
        self.channels = 6 + channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(conv(x) for conv in self.convs), self.pool(x)], dim=1)


class Gated(nn.Module):
    """Squeeze-excite of convolutions."""

    def __init__(self, channels: int, numbers: list[int]) -> None:
        super().__init__()
        self.channels = channels
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool1d(1), nn.Conv1d(channels, 2, 1), nn.SiLU(), nn.Conv1d(2, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


BLOCKS = (Convolution, Residual, Pool, Branches, Gated)
HEADS = ("mean", "max", "bins", "uneven bins", "flatten")


class Network(nn.Module):
    def __init__(self, n_channels: int, length: int, recipe: list[tuple[int, list[int]]], head: str) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = n_channels
        for kind, numbers in recipe:
            blocks.append(BLOCKS[kind](channels, list(numbers)))
            channels = blocks[-1].channels
        self.blocks = nn.Sequential(*blocks)
        left = self.blocks(torch.zeros(2, n_channels, length)).shape[-1]
        pools = {
            "mean": nn.AdaptiveAvgPool1d(1), "max": nn.AdaptiveMaxPool1d(1), "bins": nn.AdaptiveAvgPool1d(1),
            "uneven bins": nn.AdaptiveAvgPool1d(min(3, left)), "flatten": nn.Identity(),
        }  # fmt: skip
        n_bins = {"uneven bins": min(3, left), "flatten": left}.get(head, 1)
        self.last = nn.Sequential(pools[head], nn.Flatten(), nn.Linear(channels * n_bins, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(x))


def built(seed: int, n_channels: int, length: int, recipe: list[tuple[int, list[int]]], head: str) -> nn.Module | None:
    """The network, with batch norms that do something; None if a signal gets too short for its layers."""
    torch.manual_seed(seed)
    try:
        module = Network(n_channels, length, recipe, head)
    except RuntimeError:
        return None
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
    return module.eval()


def by_a_loop(module: nn.Module, signal: Tensor, fill: Tensor | Linear, grid: WindowGrid) -> Tensor:
    """Logits (windows, K): the module itself on (1, C, length) with one window after the other hidden."""
    wide, rows = copy.deepcopy(module).double(), []
    for start, length in zip(grid.cols.starts, grid.cols.lengths, strict=True):
        hidden = signal.clone()
        if isinstance(fill, Linear):
            for channel, samples in enumerate(signal[0].numpy()):
                ends = samples[start], samples[start + length - 1]
                hidden[0, channel, start : start + length] = torch.from_numpy(np.linspace(*ends, length))
        else:
            hidden[..., start : start + length] = fill.expand_as(signal)[..., start : start + length]
        rows.append(wide(hidden))
    return torch.cat(rows)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_boxes_equal_whole_signals_equal_the_module(data: st.DataObject, drive: SimpleNamespace) -> None:
    numbers = st.lists(st.integers(0, 11), max_size=12)
    recipe = data.draw(st.lists(st.tuples(st.integers(0, len(BLOCKS) - 1), numbers), min_size=1, max_size=4))
    n_channels, length = data.draw(st.sampled_from((1, 2, 12))), data.draw(st.integers(40, 97))
    module = built(data.draw(st.integers(0, 9)), n_channels, length, recipe, data.draw(st.sampled_from(HEADS)))
    if module is None:
        return
    graph = capture(OneRow(module), (n_channels, 1, length))
    assert not graph.reason, graph.reason
    patch, border = data.draw(st.integers(1, 20)), data.draw(st.sampled_from(("cover", "valid", "clip")))
    stride = data.draw(st.integers(2, 9) if border != "clip" else st.integers(1, patch))
    grid = WindowGrid.over((1, length), (1, patch), (1, stride), border)
    signal = torch.randn((1, n_channels, length), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fills = (signal.mean(2)[0, :, None], signal.roll(1, 2)[0], torch.zeros_like(signal[0]), Linear())
    fill = data.draw(st.sampled_from(fills))
    with torch.inference_mode():
        loop = by_a_loop(module, signal, fill, grid)
    wide = graph.to(CPU, torch.float64)
    stop = data.draw(st.integers(1, len(wide.layers)))
    engine = drive.incremental_engine(wide, stop, (1, data.draw(st.integers(1, 5))), 3, 4)
    for each in (drive.dense_engine(5), engine):
        found = drive.window_logits(
            wide, grid, each, signal[:, :, None], fill if isinstance(fill, Linear) else fill[:, None]
        )
        assert float((found - loop).abs().max()) <= 1e-9 * max(1.0, float(loop.abs().max()))


def kinds(module: nn.Module, n_channels: int = 2, length: int = 64) -> list[str]:
    """The layers that a module of signals is captured as; it must not run whole."""
    graph = capture(OneRow(module.eval()), (n_channels, 1, length))
    assert not graph.reason, graph.reason
    signals = torch.randn(3, n_channels, length)
    with torch.inference_mode():
        got, expected = graph.to(CPU, torch.float32).forward(signals[:, :, None]), module(signals)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    return [layer.kind for layer in graph.layers]


def test_instance_and_group_norms_are_layers_of_whole_signals() -> None:
    head = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))
    torch.manual_seed(0)
    found = kinds(nn.Sequential(nn.Conv1d(2, 4, 5), nn.InstanceNorm1d(4, affine=True), nn.ReLU(), *head))
    assert found == ["image", "conv", "group_norm", "activation", "global_mean", "flatten", "linear"]
    assert "group_norm" in kinds(nn.Sequential(nn.Conv1d(2, 4, 5), nn.GroupNorm(2, 4), *head))


def test_what_has_no_layer_runs_on_whole_signals_and_rules_go_on_behind_it() -> None:
    torch.manual_seed(0)
    reflected = nn.Conv1d(2, 4, 5, padding=2, padding_mode="reflect")
    found = kinds(nn.Sequential(reflected, nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4 * 32, 3)))
    assert found == ["image", "flatten", "opaque", "flatten", "conv", "max_pool", "flatten", "linear"]


def test_captum_hides_a_signal_alike() -> None:
    captum = pytest.importorskip("captum.attr")
    import obeql

    torch.manual_seed(1)
    module = built(1, 2, 80, [(0, [1, 0, 1, 1, 2]), (3, []), (2, [0])], "mean")
    assert module is not None
    signal = torch.randn(1, 2, 80)
    theirs = captum.Occlusion(module).attribute(signal, (2, 16), 5, baselines=0.0, target=1)
    with obeql.connect() as db:
        db.create_model("net", module, size=(80,), channels=2)
        heat = db.explain(signal[0], "net", classes=1, patch=16, stride=5, fill=0, border="clip", score="logit")[0]
    # Captum's number of a sample is the mean of the windows over it.
    np.testing.assert_allclose(heat.to_pixels(), theirs[0, 0].numpy(), atol=2e-6)
