"""NaN inside a network comes out where PyTorch's does, though fused kernels would turn it into 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from obeql.executor.network.capture.capture import capture
from obeql.executor.network.layers.conv import Conv


class Root(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.sqrt(x)


class Quotient(nn.Module):
    def forward(self, x: Any) -> Any:
        return x / (x - x)


def network(middle: nn.Module, last: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3), middle, nn.Conv2d(8, 8, 3), last(), nn.Conv2d(8, 8, 1), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("middle", [Root, Quotient, nn.ReLU])
@pytest.mark.parametrize("last", [nn.ReLU, nn.ReLU6, nn.Hardtanh])
@pytest.mark.parametrize("weight", [0.1, float("nan"), float("inf")])
def test_outputs_are_not_finite_where_those_of_pytorch_are_not(
    middle: type[nn.Module], last: type[nn.Module], weight: float
) -> None:
    module = network(middle(), last)
    with torch.inference_mode():
        module[0].weight[0, 0, 0, 0] = weight  # type: ignore[index, operator]
        x = torch.randn(2, 3, 16, 16)
        expected = module(x)
        graph = capture(module, (3, 16, 16)).to(torch.device("cpu"), torch.float32)
        found = graph.forward(x)
        torch.testing.assert_close(found.isnan(), expected.isnan(), atol=0, rtol=0)
        _, clean = graph.materialise(x[:1], [])
        assert bool(clean.isnan().any()) == bool(expected[0].isnan().any())
    kept = [layer.keeps_nan for layer in graph.layers if isinstance(layer, Conv)]
    if kept:  # a network whose outputs are all NaN is not taken apart
        assert any(kept) is (middle is not nn.ReLU or weight != 0.1)


def test_nan_that_only_some_inputs_lead_to_passes_a_convolution() -> None:
    """What is captured is finite then, and the root becomes part of the convolution before it."""
    module = network(Root(), nn.ReLU)
    with torch.inference_mode():
        module[0].bias.fill_(1e3)  # type: ignore[index, operator, union-attr]
        graph = capture(module, (3, 16, 16)).to(torch.device("cpu"), torch.float32)
        assert [layer.keeps_nan for layer in graph.layers if isinstance(layer, Conv)] == [True] * 3
        x = 1e5 * torch.randn(2, 3, 16, 16)
        assert bool(module(x).isnan().all())
        assert bool(graph.forward(x).isnan().all())
