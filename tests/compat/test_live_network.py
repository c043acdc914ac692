"""A module that was captured and then changed, in any way, answers with what it computes now."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from obeql.compat import live_network
from obeql.compat.captum import Occlusion
from tests.compat.conftest import Captures
from tests.compat.test_captum import by_hand

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
GAIN = 1.0


class Net(nn.Module):
    """A small classifier of its own code."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 4)
        self.register_buffer("shift", torch.zeros(4))
        self.slope = 0.1
        self.steps = [1.0]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.leaky_relu(self.norm(self.conv(x)), self.slope)
        return GAIN * self.steps[0] * self.head(x.mean((2, 3))) + self.shift


def check(net: nn.Module, x: Tensor = X) -> None:
    found = Occlusion(net).attribute(x, (3, 4, 4), strides=(3, 3, 4), target=1)
    expected = by_hand(lambda batch: net(batch)[:, 1], x, (3, 4, 4), (3, 3, 4), 0)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def in_training(net: Net) -> None:
    net.train()
    net(torch.rand(4, 3, 12, 12)).sum().backward()
    torch.optim.SGD(net.parameters(), 0.5).step()
    net.eval()


def in_memory(net: Net) -> None:
    net.head.weight.detach().numpy()[0] = 3


def in_code(net: Net) -> None:
    net.forward = lambda x: net.head(net.conv(x).amax((2, 3)))  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[Net], object]] = {
    "weights in place": lambda net: net.head.weight.data.mul_(2),
    "weights swapped": lambda net: net.head.weight.data.copy_(net.head.weight.data.flip(0)),
    "weights through NumPy": in_memory,
    "weights replaced": lambda net: setattr(net.head, "weight", nn.Parameter(torch.ones(4, 5))),
    "state loaded": lambda net: net.load_state_dict({k: v * 1.5 for k, v in net.state_dict().items()}),
    "training": in_training,
    "buffer": lambda net: net.norm.running_var.fill_(4.0),
    "own buffer": lambda net: net.shift.add_(torch.arange(4)),
    "setting": lambda net: setattr(net, "slope", 0.9),
    "setting of a layer": lambda net: setattr(net.norm, "eps", 1.0),
    "entry of a list": lambda net: net.steps.__setitem__(0, 3.0),
    "layer replaced": lambda net: setattr(net, "conv", nn.Conv2d(3, 5, 1)),
    "code": in_code,
    "pruned": lambda net: prune.random_unstructured(net.conv, "weight", 0.5),
    "hook": lambda net: net.conv.register_forward_hook(lambda module, inputs, output: output * 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_module_answers_as_it_is_now(engine: Captures, name: str) -> None:
    net = Net()
    check(net)
    check(net)
    assert len(engine) == 1
    CHANGES[name](net)
    check(net)


def test_a_changed_global_counts(engine: Captures, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    check(net)
    monkeypatch.setitem(globals(), "GAIN", 2.0)
    check(net)
    assert len(engine) == 2


def test_each_size_is_captured_once(engine: Captures) -> None:
    net = Net()
    for size in (12, 9, 12, 9):
        check(net, X[:, :, :size, :size])
    assert len(engine) == 2


def test_what_is_kept_goes_with_the_module(engine: Captures) -> None:
    net = Net()
    check(net)
    before = len(live_network._modules)
    del net
    gc.collect()
    assert len(live_network._modules) < before


class Counting(Net):
    """A network that notes how often it was called, and reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Choosing(Net):
    """A network whose code looks at pixel values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.mean()) > 0.4 else super().forward(-x)


class Called(Net):
    """A network that does something around its forward function."""

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


@pytest.mark.parametrize(
    "make",
    [Counting, Choosing, Called, lambda: Net().train(), lambda: nn.DataParallel(Net()).eval(), lambda: Net().half()],
)
def test_what_cannot_be_run_on_boxes_runs_plainly(engine: Captures, make: Callable[[], nn.Module]) -> None:
    net = make()
    if isinstance(net, Net) and net.training:
        net.norm.momentum = 0.0
    if next(net.parameters()).dtype is torch.float16:
        assert Occlusion(net).attribute(X.half(), (3, 4, 4), strides=(3, 4, 4), target=1).dtype == torch.float32
        return
    check(net)
    check(net)


def test_a_network_that_disagrees_is_not_used(engine: Captures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_network, "_are_close", lambda found, expected: False)
    net = Net()
    check(net)
    assert len(engine) == 1


def test_a_window_that_disagrees_is_noticed(engine: Captures, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = live_network.IncrementalRun.run

    def run(
        self: live_network.IncrementalRun, clean: object, fill: object, wanted: object, done: object, finish: object
    ) -> None:
        wrong(self, clean, fill, wanted, done, lambda windows, logits: logits + 0.01)  # type: ignore[arg-type]

    monkeypatch.setattr(live_network.IncrementalRun, "run", run)
    check(Net())


def test_windows_that_hide_nothing_are_not_computed(engine: Captures) -> None:
    x = X.clone()
    x[:, :, :8] = 0
    check(Net(), x)


@pytest.fixture
def window_seconds(engine: Captures, monkeypatch: pytest.MonkeyPatch) -> Callable[[float | None], None]:
    """Say how long a window takes; to capture `Net` and to measure it is 0.1 s and 10 passes."""
    monkeypatch.setattr(live_network, "_LAYER_S", 0.1 / 3)
    monkeypatch.setattr(live_network, "_CAPTURE_PASSES", 10)

    def say(seconds: float | None) -> None:
        monkeypatch.setattr(live_network, "_window_seconds", lambda module, images: seconds)

    return say


# 12 windows a call; preparing is worth it where those asked for take 1.5 times as long.
@pytest.mark.parametrize(("window_s", "n_calls"), [(1.0, 2), (0.03, 2), (0.01, 3), (0.005, 4)])
def test_a_network_is_prepared_once_that_takes_less_than_its_windows(
    engine: Captures, window_seconds: Callable[[float | None], None], window_s: float, n_calls: int
) -> None:
    window_seconds(window_s)
    net = Net()
    for number in range(n_calls + 1):
        assert len(engine) == (number >= n_calls)
        check(net)
    assert len(engine) == 1


def test_the_images_of_a_call_count_and_those_before_a_change_do_not(
    engine: Captures, window_seconds: Callable[[float | None], None]
) -> None:
    window_seconds(0.01)
    net = Net()
    check(net, X.repeat(3, 1, 1, 1))
    assert len(engine) == 1
    net.steps[0] = 2.0
    for n_captures in (1, 1, 2):
        check(net)
        assert len(engine) == n_captures


class OneAtATime(Net):
    """A network that takes one image alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(1, 3, 12, 12))


def test_a_network_of_one_image_is_not_timed_with_several() -> None:
    assert live_network._window_seconds(OneAtATime(), X) is None
    seconds = live_network._window_seconds(Net(), X)
    assert seconds is not None and seconds > 0


def test_a_network_that_cannot_be_timed_runs_plainly(
    engine: Captures, window_seconds: Callable[[float | None], None]
) -> None:
    window_seconds(None)
    net = OneAtATime()
    check(net)
    check(net)
    assert not engine


def test_a_small_job_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(live_network, "_window_seconds", lambda module, images: seen.append(module))
    check(Net())
    assert not seen
