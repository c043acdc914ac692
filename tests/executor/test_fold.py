"""Folding: clamps before convolutions and chained concatenations compute what the network computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from obeql.executor.network.capture.capture import capture
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers.activation import Elementwise
from obeql.executor.network.layers.channels import Concat
from obeql.executor.network.layers.conv import Conv
from obeql.executor.network.layers.image import Image
from obeql.executor.network.layers.pointwise import Affine, Clamp
from obeql.executor.network.passes.clamp import clamp_before_convolutions

RELU6 = Elementwise("relu6")


def _kinds(graph: LayerGraph) -> list[str]:
    return [layer.kind for layer in graph.layers]


def _norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm with scales of both signs, and one that is zero."""
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1.0, 1.0, channels))
        norm.weight[1] = 0.0
        norm.bias.uniform_(-0.5, 0.5)
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2.0)
    return norm


def _differ(graph: LayerGraph, module: nn.Module, dtype: torch.dtype) -> float:
    """Largest difference between graph and module on random maps."""
    graph, module = graph.to(torch.device("cpu"), dtype), module.to(dtype)
    x = torch.randn((2, *graph.layers[0].shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        return float((graph.forward(x) - module(x)).abs().max())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.25)])
@pytest.mark.parametrize("groups", [1, 2])
def test_scaled_activation_becomes_clamp(activation: nn.Module, groups: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.MaxPool2d(2),
        _norm(4),
        activation,
        nn.Conv2d(4, 6, 3, stride=2, groups=groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).eval()
    graph = capture(module, (4, 16, 16), outputs="logits")
    assert "clamp" in _kinds(graph) and "affine" not in _kinds(graph)
    assert _differ(graph, module, torch.float32) < 1e-5
    assert _differ(graph, module, torch.float64) < 1e-12


def test_padded_convolution_keeps_the_activation() -> None:
    """Beyond the border there are zeros of the activation's output, not of its input."""
    module = nn.Sequential(
        nn.MaxPool2d(2), _norm(4), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    graph = capture(module, (4, 12, 12), outputs="logits")
    assert "clamp" not in _kinds(graph)
    assert _differ(graph, module, torch.float32) < 1e-5


@pytest.mark.parametrize(("scale", "shift"), [(1e-9, -1.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_clamp_that_would_lose_precision_is_left_alone(scale: float, shift: float) -> None:
    layers = [
        Image("image", (), (1, 8, 8)),
        Affine("norm", (0,), (1, 8, 8), torch.tensor([scale]), torch.tensor([shift]), RELU6),
        Conv("conv", (1,), (2, 8, 8), torch.ones((2, 1, 1, 1)), None, (1, 1), (1, 1), 1, (0, 0, 0, 0)),
    ]
    assert [layer.kind for layer in clamp_before_convolutions(layers)] == ["image", "affine", "conv"]


def test_clamp_keeps_nan() -> None:
    clamp = Clamp("clamp", (0,), (2, 1, 1), torch.tensor([0.0, -1.0]), torch.tensor([float("inf"), 1.0]))
    assert not clamp.makes_nan()
    assert clamp.forward([torch.full((1, 2, 1, 1), float("nan"))]).isnan().all()


class _Dense(nn.Module):
    """Every layer reads all before it; two concatenations begin with the same inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2 + 2 * k, 2, 3, padding=1) for k in range(4))
        self.branch = nn.Conv2d(6, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for conv in self.convs:
            found.append(conv(torch.cat(found, 1)).relu())
        branch = self.branch(torch.cat([found[0], found[1], found[4]], 1))
        return (torch.cat(found, 1) * branch).mean((2, 3))


def test_concatenations_that_repeat_each_other_are_chained() -> None:
    torch.manual_seed(0)
    module = _Dense().eval()
    graph = capture(module, (2, 10, 10), outputs="logits")
    concats = [layer for layer in graph.layers if isinstance(layer, Concat)]
    chain = [layer for layer in concats if layer.room == 10]
    assert len(concats) == 5 and len(chain) == 4
    assert [len(layer.inputs) for layer in chain] == [2, 2, 2, 2]
    assert _differ(graph, module, torch.float32) < 1e-5


def test_channels_of_another_map_are_not_written_over() -> None:
    """Half the channels of a map lie in memory like a map with room for the other half."""
    x = torch.rand((1, 4, 5, 5)).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    y = Concat("join", (0, 0), (4, 5, 5)).forward([x[:, :2], torch.zeros((1, 2, 5, 5))])
    assert torch.equal(x, before) and torch.equal(y[:, :2], before[:, :2])


def test_concat_with_room_does_not_copy_again() -> None:
    first = Concat("first", (0, 1), (3, 4, 4)).with_room(5)
    second = Concat("second", (0, 1, 3), (5, 4, 4)).continuing(2, [3])
    a, b, c = torch.rand((2, 1, 4, 4)), torch.rand((2, 2, 4, 4)), torch.rand((2, 2, 4, 4))
    start = first.forward([a, b])
    whole = second.forward([start, c])
    assert torch.equal(whole, torch.cat([a, b, c], 1)) and torch.equal(start, torch.cat([a, b], 1))
    assert whole.data_ptr() == start.data_ptr() and whole.is_contiguous(memory_format=torch.channels_last)
    # A map from elsewhere is copied; a part of a batch is not.
    for given in (start.contiguous(memory_format=torch.channels_last), torch.cat([a, b], 1)):
        assert torch.equal(second.forward([given, c]), torch.cat([a, b, c], 1))
    assert torch.equal(second.forward([first.forward([a, b])[1:], c[1:]]), torch.cat([a, b, c], 1)[1:])
