"""Capture and lowering: each kind of layer and each trick with axes against the module itself, in float64."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obeql.executor.network.layers import LAYERS

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 13, 17)
HEAD = ("global_mean", "flatten", "linear")


class Net(nn.Module):
    """`body` on maps, then global mean and a linear layer; parts are found by name in `p`."""

    def __init__(self, body: Callable[[nn.ModuleDict, Tensor], Tensor], channels: int, **parts: nn.Module) -> None:
        super().__init__()
        self.p = nn.ModuleDict(parts)
        self.body = body
        self.last = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.p, x).mean((2, 3)))


def seq(channels: int, *layers: nn.Module) -> Net:
    return Net(lambda p, x: p["s"](x), channels, s=nn.Sequential(*layers))


def let(value: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Name a value inside a lambda."""
    return function(value)


def conv(a: int, b: int, k: int | tuple[int, int] = 3, **kw: object) -> nn.Conv2d:
    return nn.Conv2d(a, b, k, **kw)  # type: ignore[arg-type]


def shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def next_block(p: nn.ModuleDict, x: Tensor) -> Tensor:
    x = p["stem"](x)
    y = p["norm"](p["depthwise"](x).permute(0, 2, 3, 1))
    return x + p["two"](F.gelu(p["one"](y))).permute(0, 3, 1, 2) * 0.1


def transformed(p: nn.ModuleDict, x: Tensor) -> Tensor:
    """torchvision's transform_input."""
    channels = [torch.unsqueeze(x[:, i], 1) * (0.2 + 0.1 * i) + (0.5 - 0.2 * i) for i in range(3)]
    return p["c"](torch.cat(channels, 1))


class ScaleShift(nn.Module):
    """Learned number a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))
        self.register_buffer("shift", torch.rand(1, channels, 1, 1))
        self.unregistered = torch.rand(channels, 1, 1) + 1

    def forward(self, x: Tensor) -> Tensor:
        return (self.gamma * x - self.shift) / self.unregistered + self.unregistered


class Positional(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.table


class Attention(nn.Module):
    """Single-head self-attention over positions, with the usual views."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        weights = torch.softmax(q @ k.transpose(1, 2) / c**0.5, -1)
        return x + (weights @ v).transpose(1, 2).reshape(n, c, h, w)


class Embedding(nn.Module):
    """Adds numbers of its own to every position."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(1, *shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.values


class WithToken(nn.Module):
    """A constant token beside those of the image, which alone is read."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(3, channels, 5, stride=3)
        self.token = nn.Parameter(torch.randn(1, 1, channels))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.conv(x).flatten(2).transpose(1, 2)], 1)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0, 0])


#: name: (network, kinds of all layers after the image)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "conv without bias": (lambda: seq(4, conv(3, 4, bias=False)), ("conv", *HEAD)),
    "conv, norm, relu in one": (lambda: seq(4, conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(True)), ("conv", *HEAD)),
    "norm without numbers of its own": (
        lambda: seq(4, conv(3, 4, bias=False), nn.BatchNorm2d(4, affine=False)),
        ("conv", *HEAD),
    ),
    "group norm": (
        lambda: seq(4, conv(3, 4), nn.GroupNorm(2, 4), nn.ReLU(), conv(4, 4)),
        ("conv", "group_norm", "activation", "conv", *HEAD),
    ),
    "norm before activation before conv": (
        lambda: seq(6, conv(3, 4), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 6)),
        ("conv", "clamp", "conv", *HEAD),
    ),
    "norm of the image": (lambda: seq(4, nn.BatchNorm2d(3), conv(3, 4)), ("affine", "conv", *HEAD)),
    "groups, dilation, asymmetric everything": (
        lambda: seq(
            4, conv(3, 6, (1, 5), stride=(2, 1), padding=(0, 2)), conv(6, 4, (3, 2), groups=2, dilation=(1, 3))
        ),
        ("conv", "conv", *HEAD),
    ),
    "depthwise and relu6": (lambda: seq(6, conv(3, 6, groups=3), nn.ReLU6(True)), ("conv", *HEAD)),
    "stride beyond the kernel": (lambda: seq(4, conv(3, 4, 2, stride=4)), ("conv", *HEAD)),
    "padding on one side": (
        lambda: Net(lambda p, x: p["c"](F.pad(x, (0, 1, 0, 1))), 4, c=conv(3, 4, stride=2)),
        ("conv", *HEAD),
    ),
    "padding='same' of an even kernel": (lambda: seq(4, conv(3, 4, (2, 4), padding="same")), ("conv", *HEAD)),
    "padding by a constant, and a crop": (
        lambda: Net(lambda p, x: F.pad(p["c"](F.pad(x, (1, 2), value=0.7)), (-1, 0, -2, -1)), 4, c=conv(3, 4)),
        ("pad", "conv", "pad", *HEAD),
    ),
    "zero padding read twice": (
        lambda: Net(
            lambda p, x: let(F.pad(x, (1, 1, 1, 1)), lambda y: p["a"](y) + p["b"](y)), 4, a=conv(3, 4), b=conv(3, 4)
        ),
        ("pad", "conv", "conv", "combine", *HEAD),
    ),
    "zero padding before a max pool": (
        lambda: seq(3, nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2)),
        ("pad", "max_pool", *HEAD),
    ),
    "max pools": (
        lambda: seq(
            3, nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d((2, 1), (1, 2)), nn.MaxPool2d(2, 1, dilation=2)
        ),
        ("max_pool", "max_pool", "max_pool", *HEAD),
    ),
    "average pools": (
        lambda: seq(
            3,
            nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.AvgPool2d(2, 1, 1),
            nn.AvgPool2d((1, 3), 1, divisor_override=2),
        ),
        ("average_pool",) * 4 + HEAD,
    ),
    "adaptive pool that divides the map": (
        lambda: nn.Sequential(conv(3, 4, (2, 6)), nn.AdaptiveAvgPool2d((4, 3)), nn.Flatten(), nn.Linear(48, 5)),
        ("conv", "average_pool", "flatten", "linear"),
    ),
    "adaptive pool of uneven bins": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d((5, 6)), nn.Flatten(), nn.Linear(90, 5)),
        ("adaptive_pool", "flatten", "linear"),
    ),
    "adaptive pool to the map's own size": (
        lambda: nn.Sequential(conv(3, 2), nn.AdaptiveAvgPool2d((11, 15)), nn.Flatten(), nn.Linear(330, 5)),
        ("conv", "flatten", "linear"),
    ),
    "mean that keeps its axes": (
        lambda: nn.Sequential(conv(3, 4), Lambda(lambda x: x.mean([2, 3], keepdim=True)), conv(4, 5, 1), nn.Flatten()),
        ("conv", "global_mean", "conv", "flatten"),
    ),
    "mean of a flattened map": (
        lambda: nn.Sequential(conv(3, 5), Lambda(lambda x: x.flatten(2).mean(-1))),
        ("conv", "global_mean", "flatten"),
    ),
    "mean of a map seen as NHWC": (
        lambda: nn.Sequential(conv(3, 5), Lambda(lambda x: x.permute(0, 2, 3, 1).mean((1, 2)))),
        ("conv", "global_mean", "flatten"),
    ),
    "flatten of a map seen as NHWC": (
        lambda: nn.Sequential(conv(3, 2), Lambda(lambda x: x.permute(0, 2, 3, 1).flatten(1)), nn.Linear(330, 5)),
        ("conv", "flatten", "linear"),
    ),
    "vectors with norm and activations": (
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(663, 6),
            nn.BatchNorm1d(6),
            nn.Tanh(),
            nn.Dropout(),
            nn.LayerNorm(6),
            nn.Linear(6, 5, bias=False),
        ),
        ("flatten", "linear", "channel_norm", "linear"),
    ),
    "vectors whose elements are shuffled": (
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(663, 6),
            Lambda(lambda x: x.view(-1, 2, 3).transpose(1, 2).flatten(1)),
            nn.Linear(6, 5),
        ),
        ("flatten", "linear", "select_channels", "flatten", "linear"),
    ),
    "residual, in place": (
        lambda: Net(
            lambda p, x: let(p["a"](x), lambda a: F.relu_(p["b"](F.relu(a)).add_(a))),
            4,
            a=conv(3, 4),
            b=conv(4, 4, padding=1),
        ),
        ("conv", "activation", "conv", "combine", *HEAD),
    ),
    "scaled difference, quotient, scalars": (
        lambda: Net(
            lambda p, x: let(p["a"](x), lambda a: (2 - a) * 0.5 + (a - p["b"](x)) / (a * a + 3)),
            4,
            a=conv(3, 4),
            b=conv(3, 4),
        ),
        ("conv", "activation", "activation", "conv", "combine", "combine", "combine", "combine", *HEAD),
    ),
    "branches": (
        lambda: Net(lambda p, x: torch.cat([p["a"](x), p["b"](x), x], 1), 9, a=conv(3, 4, padding=1), b=conv(3, 2, 1)),
        ("conv", "conv", "concat", *HEAD),
    ),
    "split and cat": (
        lambda: Net(
            lambda p, x: torch.cat([p["b"](p["a"](x).split([2, 4], 1)[1]), p["a"](x).chunk(3, 1)[0]], 1),
            5,
            a=conv(3, 6),
            b=conv(4, 3, 1),
        ),
        ("conv", "select_channels", "conv", "conv", "select_channels", "concat", *HEAD),
    ),
    "every second channel, the last two": (
        lambda: Net(lambda p, x: torch.cat([p["a"](x)[:, ::2], p["a"](x)[:, -2:]], 1), 5, a=conv(3, 6)),
        ("conv", "select_channels", "conv", "select_channels", "concat", *HEAD),
    ),
    "channel shuffle": (
        lambda: Net(lambda p, x: p["b"](shuffle(p["a"](x), 2)), 4, a=conv(3, 6), b=conv(6, 4, groups=2)),
        ("conv", "select_channels", "conv", *HEAD),
    ),
    "channel shuffle before the head": (
        lambda: Net(lambda p, x: shuffle(p["a"](x), 3), 6, a=conv(3, 6)),
        ("conv", "global_mean", "select_channels", "flatten", "linear"),
    ),
    "inception's transform_input": (
        lambda: Net(transformed, 4, c=conv(3, 4)),
        ("select_channels", "activation", "activation") * 3 + ("concat", "conv", *HEAD),
    ),
    "squeeze-excite": (
        lambda: Net(
            lambda p, x: let(p["c"](x), lambda y: p["gate"](y) * y),
            4,
            c=conv(3, 4),
            gate=nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(4, 2, 1), nn.ReLU(), conv(2, 4, 1), nn.Sigmoid()),
        ),
        ("conv", "global_mean", "conv", "conv", "combine", *HEAD),
    ),
    "ConvNeXt block": (
        lambda: Net(
            next_block,
            4,
            stem=conv(3, 4, 2, stride=2),
            depthwise=conv(4, 4, 7, padding=3, groups=4),
            norm=nn.LayerNorm(4),
            one=nn.Linear(4, 8),
            two=nn.Linear(8, 4),
        ),
        ("conv", "conv", "channel_norm", "conv", "conv", "combine", *HEAD),
    ),
    "numbers a channel": (
        lambda: Net(lambda p, x: p["s"](p["c"](x)), 4, c=conv(3, 4), s=ScaleShift(4)),
        ("conv", *HEAD),
    ),
    "weights shared by two layers": (
        lambda: Net(lambda p, x: p["c"](p["c"](x)), 3, c=conv(3, 3)),
        ("conv", "conv", *HEAD),
    ),
    "one channel": (
        lambda: seq(1, conv(3, 1), nn.BatchNorm2d(1), nn.ReLU(), nn.AvgPool2d(2)),
        ("conv", "average_pool", *HEAD),
    ),
    "as many channels and classes as images in the trace": (
        lambda: nn.Sequential(conv(3, 97), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(97, 97)),
        ("conv", *HEAD),
    ),
    "dropout in eval mode": (
        lambda: seq(4, nn.Dropout(0.5), conv(3, 4), nn.Dropout2d(0.5), nn.AlphaDropout(), nn.FeatureAlphaDropout()),
        ("conv", *HEAD),
    ),
    "log_softmax at the end": (lambda: nn.Sequential(seq(4, conv(3, 4)), nn.LogSoftmax(1)), ("conv", *HEAD, "opaque")),
    "attention over positions": (
        lambda: Net(lambda p, x: p["t"](p["c"](x)), 4, c=conv(3, 4, 5, stride=3), t=Attention(4)),
        ("conv", "conv", *["select_channels"] * 3, "attention", "combine", *HEAD),
    ),
    "a spatial gate": (
        lambda: Net(lambda p, x: x * torch.sigmoid(p["c"](x)), 3, c=conv(3, 1, padding=1)),
        ("conv", "combine", *HEAD),
    ),
    "a mean over channels": (
        lambda: Net(lambda p, x: p["b"](p["a"](x) * p["a"](x).mean(1, keepdim=True)), 4, a=conv(3, 4), b=conv(4, 4)),
        ("conv", "conv", "channel_mean", "combine", "conv", *HEAD),
    ),
    "an embedding of positions": (
        lambda: Net(lambda p, x: p["b"](p["e"](p["a"](x))), 4, a=conv(3, 4), e=Embedding(4, 11, 15), b=conv(4, 4)),
        ("conv", "add_map", "conv", *HEAD),
    ),
    "a class token": (
        lambda: WithToken(4),
        (
            "conv",
            "tokens",
            "conv",
            "select_channels",
            "select_channels",
            "select_positions",
            "conv",
            "attention",
            *HEAD[1:],
        ),
    ),
}


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


#: networks with an operator that has no box rule: captured all the same, on whole maps from there
OPAQUE: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "positional weights": (
        lambda: Net(lambda p, x: p["b"](p["pos"](p["a"](x))), 4, a=conv(3, 4), pos=Positional(11, 15), b=conv(4, 4)),
        ("conv", "opaque", "conv", *HEAD),
    ),
    "positional weights of one channel": (
        lambda: Net(lambda p, x: p["pos"](p["a"](x)), 4, a=conv(3, 4), pos=Positional(1, 1, 11, 1)),
        ("conv", "opaque", *HEAD),
    ),
    "transposed convolution": (
        lambda: seq(4, conv(3, 4), nn.ConvTranspose2d(4, 4, 2, 2), nn.ReLU()),
        ("conv", "opaque", "activation", *HEAD),
    ),
    "upsampling": (lambda: seq(4, conv(3, 4), nn.Upsample(scale_factor=2, mode="bilinear")), ("conv", "opaque", *HEAD)),
    "reflection padding": (lambda: seq(4, nn.ReflectionPad2d(1), conv(3, 4)), ("opaque", "conv", *HEAD)),
    "pixel shuffles": (
        lambda: Net(
            lambda p, x: F.pixel_shuffle(p["b"](F.pixel_unshuffle(p["a"](x), 2)), 2),
            1,
            a=conv(3, 2, (2, 4)),
            b=conv(8, 4),
        ),
        ("conv", "opaque", "conv", "opaque", *HEAD),
    ),
    "a spatial crop": (lambda: Net(lambda p, x: p["c"](x)[:, :, 2:-1, :5], 4, c=conv(3, 4)), ()),
    "adaptive max pool": (lambda: nn.Sequential(conv(3, 5), nn.AdaptiveMaxPool2d(1), nn.Flatten()), ()),
    "a maximum over the map": (lambda: nn.Sequential(conv(3, 5), Lambda(lambda x: x.amax((2, 3)))), ()),
    "numbers that depend on the number of images": (
        lambda: Net(
            lambda p, x: p["c"](torch.cat([x, x.new_full((x.shape[0], 1, *x.shape[2:]), 0.5)], 1)), 4, c=conv(4, 4)
        ),
        (),
    ),
    "clamp between two learned numbers": (
        lambda: Net(lambda p, x: torch.minimum(p["c"](x), 0 * x[:, :1, 1:-1, 1:-1]), 4, c=conv(3, 4)),
        (),
    ),
}


def written_through_a_view(p: nn.ModuleDict, x: Tensor) -> Tensor:
    y = p["c"](x)
    seen = y.view(y.shape[0], 2, 2, *y.shape[2:])
    F.relu_(y)
    return seen.flatten(1, 2) * 2


def channel_set_to_zero(p: nn.ModuleDict, x: Tensor) -> Tensor:
    y = p["c"](x)
    y[:, 0] = 0
    y[:, 1:3] += 1
    return y


def read_before_and_after(p: nn.ModuleDict, x: Tensor) -> Tensor:
    y = p["c"](x)
    before = y * 2
    y.relu_()
    y += before
    return torch.cat([y, before], 1)[:, :4]


def writes_into_its_input(p: nn.ModuleDict, x: Tensor) -> Tensor:
    x.sub_(0.5).mul_(2)
    return p["c"](x)


IN_PLACE = (written_through_a_view, channel_set_to_zero, read_before_and_after, writes_into_its_input)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_lowered_and_folded(name: str, drive: SimpleNamespace) -> None:
    build, expected = NETWORKS[name]
    module, graph = drive.captured(build)
    assert not graph.reason
    drive.assert_same(module, graph)
    assert drive.kinds(graph) == expected


@pytest.mark.parametrize("name", OPAQUE)
def test_operators_without_a_box_rule_run_as_traced(name: str, drive: SimpleNamespace) -> None:
    build, expected = OPAQUE[name]
    module, graph = drive.captured(build)
    assert not graph.reason
    drive.assert_same(module, graph)
    assert "opaque" in drive.kinds(graph)
    assert not expected or drive.kinds(graph) == expected


def test_every_kind_of_layer_is_tested() -> None:
    tested = {"image", "whole", "opaque", "probabilities", "yes_no"}  # the last two: test_reading
    tested = tested | {kind for _, expected in NETWORKS.values() for kind in expected}
    assert {layer.kind for layer in LAYERS} <= tested


@pytest.mark.parametrize("body", IN_PLACE, ids=lambda body: body.__name__)
def test_writing_in_place(body: Callable[[nn.ModuleDict, Tensor], Tensor], drive: SimpleNamespace) -> None:
    module, graph = drive.captured(lambda: Net(body, 4, c=conv(3, 4)))
    assert not graph.reason
    drive.assert_same(module, graph)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.4),
    "hardswish": F.hardswish,
    "hardtanh by default": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "leaky relu": F.leaky_relu,
    "leaky relu of 0.3": lambda x: F.leaky_relu(x, 0.3),
    "softplus": lambda x: F.softplus(x, 2, 1),
    "softsign": F.softsign,
    "exp": torch.exp,
    "abs": torch.abs,
    "neg": torch.neg,
    "clamp below": lambda x: x.clamp(min=0.1),
    "clamp above": lambda x: x.clamp(max=0.1),
    "clamp": lambda x: x.clamp(-0.1, 0.2),
    "square": torch.square,
    "pow": lambda x: x**3,
    "erf": torch.erf,
    "sqrt of one more": lambda x: (x.abs() + 1).sqrt(),
    "rsqrt": lambda x: (x.abs() + 1).rsqrt(),
    "reciprocal": lambda x: 1 / (x.abs() + 1),
    "log": lambda x: (x.abs() + 1).log(),
    "hardshrink": lambda x: F.hardshrink(x, 0.1),
    "relu in place": F.relu_,
    "threshold": lambda x: F.threshold(x, 0.1, -1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_fused_and_alone(name: str, drive: SimpleNamespace) -> None:
    """Behind a convolution, and where the convolution's output has another reader."""
    function = FUNCTIONS[name]
    module, graph = drive.captured(lambda: Net(lambda p, x: function(p["c"](x)), 4, c=conv(3, 4)))
    assert not graph.reason
    drive.assert_same(module, graph)
    single = graph.to(torch.device("cpu"), torch.float32)
    x = torch.rand(2, *SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(single.forward(x), module(x), rtol=1e-5, atol=1e-5)
    module, graph = drive.captured(
        lambda: Net(lambda p, x: let(p["c"](x), lambda y: y * 2 + function(y * 1.5)), 4, c=conv(3, 4))
    )
    assert not graph.reason
    drive.assert_same(module, graph)
