"""Recording operators: the same layers as from PyTorch's own tracing, and no guess where values would be needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from obeql.executor.network.capture import capture as capturing
from obeql.executor.network.capture.capture import capture
from obeql.executor.network.capture.record import CannotRecordError, record
from obeql.executor.network.capture.trace import TRACE_BATCH

SHAPE = (3, 11, 13)


class Counted(nn.Module):
    """A bias out of a buffer that another buffer counts up."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.bias += 1
        return (x + self.bias).mean((2, 3))


class Tokens(nn.Module):
    """A token beside each image's, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.rand(1, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat([self.token.expand(x.shape[0], -1, -1), x.flatten(2)], 2)
        return seen.mean(2)


class Buffered(nn.Module):
    """Fills a tensor that it makes for each batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(x.shape[0], 3).copy_(x.mean((2, 3))) + torch.full((len(x), 1), 2.0)


class InPlace(nn.Module):
    """Writes into values of the image, once with another view of them about."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu_().add_(1.0)
        y[:, 0].mul_(2.0)
        return y.mean((2, 3))


def recorded(run: Callable[[Tensor], Tensor]) -> fx.Graph:
    with torch.no_grad():
        return record(run, torch.empty((TRACE_BATCH, *SHAPE), device="meta"))


def block() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).eval()


def test_the_layers_are_those_of_pytorchs_own_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    module = block()
    expected = capture(module, SHAPE)
    assert not expected.reason

    def refuse(*_: object) -> fx.Graph:
        raise CannotRecordError("not today")

    monkeypatch.setattr(capturing, "_recorded", refuse)
    traced = capture(module, SHAPE)
    assert [(a.name, a.spec()) for a in traced.layers] == [(b.name, b.spec()) for b in expected.layers]


def test_plain_networks_need_no_other_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> fx.Graph:
        raise AssertionError("traced by PyTorch")

    monkeypatch.setattr(capturing, "_traced", refuse)
    assert not capture(block(), SHAPE).reason


def test_what_does_not_depend_on_the_image_is_a_constant() -> None:
    table = torch.rand(5, 3)
    graph = recorded(lambda x: F.linear(x.mean((2, 3)), (table * 2).softmax(1)))
    assert [node.op for node in graph.nodes] == ["placeholder", *["call_function"] * (len(graph.nodes) - 2), "output"]
    held = [arg for node in graph.nodes for arg in node.args if isinstance(arg, Tensor)]
    assert any(torch.equal(weight, (table * 2).softmax(1).t()) for weight in held)


@pytest.mark.parametrize("kind", [Tokens, Buffered])
def test_the_number_of_images_is_no_constant(kind: type[nn.Module]) -> None:
    module = kind().eval()
    graph = capture(module, SHAPE)
    assert not graph.reason
    x = torch.rand(5, *SHAPE)
    torch.testing.assert_close(graph.forward(x), module(x))


def test_writing_into_values_of_the_image() -> None:
    module = InPlace().eval()
    graph = capture(module, SHAPE)
    assert not graph.reason
    x = torch.rand(5, *SHAPE)
    torch.testing.assert_close(graph.forward(x), module(x))


def test_a_mean_that_is_laid_out_anew_keeps_its_shape() -> None:
    """The mean of a channels-last map, whose strides PyTorch changes afterwards."""
    seen: list[tuple[int, ...]] = []

    def run(x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), 1)
        seen.append(y.stride())
        return y.flatten(1)

    recorded(run)
    run(torch.rand(TRACE_BATCH, *SHAPE))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)),
        lambda x: x.mean((2, 3)) * float(x.max()),
        lambda x: x[x > 0].reshape(TRACE_BATCH, -1),
        lambda x: torch.ones(4, 3),
        lambda x: torch.zeros(3).add_(x.mean((0, 2, 3))),
    ],
    ids=["branch", "item", "mask", "constant", "into a constant"],
)
def test_what_is_not_followed_is_refused(run: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(Exception):  # noqa: B017 - whatever PyTorch says of tensors without values
        recorded(run)


def test_constants_that_are_written_to_are_refused_before_they_change() -> None:
    module = Counted().eval()
    with pytest.raises(CannotRecordError, match="writes into something else"):
        recorded(module)
    assert not module.bias.any()
