"""What a captured network's outputs mean, which networks run whole, and which are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obeql.errors import ModelError
from obeql.executor.network.capture.capture import capture

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 13, 17)


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# ---- what the outputs mean ----------------------------------------------------------------------------------


def _body() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))


FINAL = {
    "softmax": (lambda: nn.Sequential(_body(), nn.Flatten(), nn.Softmax(-1)), "softmax", torch.log),
    "softmax before flatten": (lambda: nn.Sequential(_body(), nn.Softmax(1), nn.Flatten()), "softmax", torch.log),
    "softmax in NHWC": (
        lambda: nn.Sequential(_body(), Lambda(lambda x: x.permute(0, 2, 3, 1).softmax(-1).flatten(1))),
        "softmax",
        torch.log,
    ),
    "sigmoid": (lambda: nn.Sequential(_body(), nn.Flatten(), nn.Sigmoid()), "sigmoid", torch.logit),
    "sigmoid before flatten": (lambda: nn.Sequential(_body(), nn.Sigmoid(), nn.Flatten()), "sigmoid", torch.logit),
}


@pytest.mark.parametrize("name", FINAL)
def test_a_final_softmax_or_sigmoid_is_taken_off(name: str, drive: SimpleNamespace) -> None:
    build, activation, inverse = FINAL[name]
    module, graph = drive.captured(build)
    assert graph.activation == activation and not graph.reason
    x = torch.rand(3, *SHAPE, dtype=torch.float64)
    with torch.inference_mode():
        logits = graph.to(torch.device("cpu"), torch.float64).forward(x)
        expected = inverse(copy.deepcopy(module).double()(x))
    if activation == "softmax":
        logits, expected = logits.log_softmax(1), expected.log_softmax(1)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    # The user may say that they are logits all the same.
    drive.assert_same(module, capture(module, SHAPE, outputs="logits"))


def test_one_output_is_a_yes_or_no(drive: SimpleNamespace) -> None:
    for tail in ((), (nn.Sigmoid(),)):
        module, graph = drive.captured(lambda tail=tail: nn.Sequential(_body(), nn.Flatten(), nn.Linear(5, 1), *tail))
        assert graph.activation == "sigmoid" and "activation" not in drive.kinds(graph)
        assert graph.network().n_classes == 2
        x = torch.rand(2, *SHAPE)
        with torch.inference_mode():
            no, yes = graph.to(torch.device("cpu"), torch.float32).forward(x).unbind(1)
            returned = module(x)[:, 0]
            torch.testing.assert_close(yes, returned.logit() if tail else returned, rtol=1e-5, atol=1e-5)
        assert torch.equal(no, -yes)


def test_probabilities_that_end_otherwise_become_logits() -> None:
    build = lambda: nn.Sequential(_body(), nn.Flatten(), Lambda(lambda x: x.softmax(1) * 1.0))  # noqa: E731
    torch.manual_seed(0)
    module = build().eval()
    graph = capture(module, SHAPE, outputs="probabilities")
    x = torch.rand(2, *SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(graph.to(torch.device("cpu"), torch.float32).forward(x), module(x).log())


# ---- what cannot be captured --------------------------------------------------------------------------------


class Branching(nn.Module):
    """Control flow that depends on pixel values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(_body(), nn.Flatten()) for _ in range(2))
        self.register_buffer("unsaved", torch.rand(5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) if float(x.mean()) > 0.5 else self.b(x)) + self.unsaved


def test_control_flow_that_depends_on_pixels_runs_whole(drive: SimpleNamespace) -> None:
    module, graph = drive.captured(Branching)
    assert drive.kinds(graph) == ("whole",)
    assert graph.reason and "\n" not in graph.reason and graph.network().whole
    assert graph.network().reason == graph.reason
    for value in (0.4, 0.6):
        x = torch.full((2, *SHAPE), value)
        with torch.inference_mode():
            assert torch.equal(graph.forward(x), module(x))
            wide = graph.to(torch.device("cpu"), torch.float64)
            expected = copy.deepcopy(module).double()(x.double())
            torch.testing.assert_close(wide.forward(x.double()), expected, rtol=1e-12, atol=1e-12)
            # To another precision and back: from the same module, not from its moved copy.
            again = wide.to(torch.device("cpu"), torch.float32)
            torch.testing.assert_close(again.forward(x), module(x))
    assert graph.network().layers[1].weight_bytes > 0


def test_a_whole_network_may_write_into_its_input(drive: SimpleNamespace) -> None:
    class Rude(Branching):
        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            return super().forward(x).view(x.shape[0], -1)

    module, graph = drive.captured(Rude)
    x = torch.rand(1, *SHAPE)
    before = x.clone()
    with torch.inference_mode():
        got = graph.forward(x)
        assert torch.equal(x, before)
        torch.testing.assert_close(got, module(x.clone()))


def test_networks_whose_output_is_not_a_function_of_the_image_are_refused() -> None:
    mixing = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False), nn.AdaptiveMaxPool2d(1), nn.Flatten()
    )
    with pytest.raises(ModelError, match="other images of its batch"):
        capture(mixing.eval(), SHAPE)
    with pytest.raises(ModelError, match="from call to call"):
        capture(nn.Sequential(_body(), Lambda(lambda x: F.dropout(x, 0.5, training=True)), nn.Flatten()), SHAPE)


def test_outputs_that_are_not_a_row_of_classes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"has shape \(2, 5, 1, 1\); a classifier's is \(2, classes\)"):
        capture(_body().eval(), SHAPE)
    with pytest.raises(ModelError, match="returns a str"):
        capture(nn.Sequential(_body(), Lambda(lambda x: "a")).eval(), SHAPE)  # type: ignore[arg-type,return-value]
    with pytest.raises(ModelError, match=r"image of 13x17 pixels and 4 channels: .*channels"):
        capture(nn.Sequential(_body(), nn.Flatten()).eval(), (4, 13, 17))


def test_of_several_outputs_the_logits_count(drive: SimpleNamespace) -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.other = (nn.Sequential(_body(), nn.Flatten()) for _ in range(2))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"other": self.other(x), "logits": self.main(x)}

    torch.manual_seed(0)
    module = Auxiliary().eval()
    graph = capture(module, SHAPE)
    assert drive.kinds(graph) == ("conv", "global_mean", "flatten")
    drive.assert_same(module.main, graph)


def test_weights_of_another_precision(drive: SimpleNamespace) -> None:
    """A float64 or bfloat16 module runs in the precision of the query; casts inside it are dropped."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        Lambda(lambda x: x.float().double()),
        nn.Conv2d(4, 5, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    module = module.double().eval()
    graph = capture(module, SHAPE)
    assert drive.kinds(graph) == ("conv", "conv", "global_mean", "flatten")
    x = torch.rand(2, *SHAPE)
    with torch.inference_mode():
        single = graph.to(torch.device("cpu"), torch.float32).forward(x)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), module(x.double()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_numbers_pass_as_in_the_module(bad: float) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.MaxPool2d(3, 2, 1),
        nn.Hardswish(),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(4, 5, 3),
        nn.SiLU(),
    )
    module = nn.Sequential(layers, nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten()).eval()
    graph = capture(module, SHAPE)
    x = torch.rand(2, *SHAPE)
    x[0, 1, 4, 4] = bad
    with torch.inference_mode():
        for dtype in (torch.float32, torch.float64):
            got = graph.to(torch.device("cpu"), dtype).forward(x.to(dtype)).float()
            torch.testing.assert_close(got, module(x), equal_nan=True, rtol=1e-5, atol=1e-6)


def test_the_graph_as_plain_numbers(drive: SimpleNamespace) -> None:
    def build() -> nn.Module:
        body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2))
        return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    _, graph = drive.captured(build)
    network = graph.network()
    assert network.size == (13, 17) and network.n_classes == 5 and not network.whole
    first = network.layers[1]
    assert (first.kind, first.reach, first.shape) == ("conv", "local", (4, 13, 17))
    assert first.macs == 4 * 3 * 9 * 13 * 17
    assert first.weight_bytes == 4 * (4 * 3 * 9 + 4)
    assert type(network).from_json(network.to_json()) == network
    assert drive.captured(build)[1].network().digest() == network.digest()
