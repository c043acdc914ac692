"""Captum's `Occlusion`: against a plain loop by its definition, and against Captum itself where it is installed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from obeql.compat.captum import Occlusion
from tests.compat.conftest import Captures

pytestmark = pytest.mark.usefixtures("one_thread")


def network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4),
    ).eval()  # fmt: skip


def images(n: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 3, 17, 20, generator=torch.Generator().manual_seed(1), dtype=dtype)


def by_hand(
    forward: Callable[[Tensor], Tensor], x: Tensor, window: tuple[int, ...], strides: tuple[int, ...], fill: Any
) -> Tensor:
    """The mean, over the windows that hide an element, of output - output with the window hidden; `forward` gives (N,).

    Float64 (N, ...).
    """
    total = torch.zeros(x.shape, dtype=torch.float64)
    count = torch.zeros(x.shape, dtype=torch.float64)
    starts = [range(0, s - w + t, t) for s, w, t in zip(x.shape[1:], window, strides, strict=True)]
    with torch.no_grad():
        clean = forward(x)
        for corner in itertools.product(*starts):
            where = (slice(None), *(slice(at, at + w) for at, w in zip(corner, window, strict=True)))
            hidden = x.clone()
            hidden[where] = torch.as_tensor(fill).expand_as(x)[where] if isinstance(fill, Tensor) else fill
            total[where] += (clean - forward(hidden)).reshape(-1, *[1] * (x.dim() - 1)).double()
            count[where] += 1
    return total / count


WINDOWS = [((3, 5, 7), (3, 3, 4)), ((1, 6, 6), (1, 5, 6)), ((2, 4, 20), (1, 4, 3)), ((3, 17, 20), (1, 1, 1))]
FILLS = [0, 0.5, -1, torch.rand(1, 3, 17, 20), torch.rand(3, 1, 1)]


@pytest.mark.parametrize(("window", "strides"), WINDOWS)
@pytest.mark.parametrize("fill", FILLS, ids=["zero", "half", "minus", "picture", "color"])
def test_on_boxes_it_is_the_plain_loop(engine: Captures, window: Any, strides: Any, fill: Any) -> None:
    net, x = network(), images()
    found = Occlusion(net).attribute(x, window, strides=strides, baselines=fill, target=2)
    assert len(engine) == 1
    assert found.dtype == torch.float32 and found.shape == x.shape and found.is_contiguous()
    expected = by_hand(lambda batch: net(batch)[:, 2], x, window, strides, fill)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def volume_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(4, 4, 3, padding=(0, 1, 1)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 4),
    ).eval()  # fmt: skip


def test_windows_of_a_volume_are_the_plain_loop(engine: Captures) -> None:
    net, x = volume_network(), torch.rand(2, 1, 8, 9, 11, generator=torch.Generator().manual_seed(1))
    window, strides = (1, 3, 4, 5), (1, 2, 4, 3)
    found = Occlusion(net).attribute(x, window, strides=strides, baselines=0.5, target=2)
    assert len(engine) == 1 and not engine[0].reason
    expected = by_hand(lambda batch: net(batch)[:, 2], x, window, strides, 0.5)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


class Two(nn.Module):
    """Two inputs and a factor."""

    def forward(self, first: Tensor, second: Tensor, factor: float = 1.0) -> Tensor:
        return torch.stack([first.flatten(1).sum(1) * factor, second.flatten(1).prod(1)], dim=1)


class Deep(nn.Module):
    """An output with three axes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :24].reshape(-1, 2, 3, 4) ** 2


def cases() -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """Arguments as name -> (forward function, inputs, keyword arguments)."""
    net, x = network(), images()
    grid: dict[str, Any] = {"sliding_window_shapes": (3, 6, 5), "strides": (3, 5, 5)}
    volume = torch.rand(2, 1, 5, 6, 4)
    pair = torch.rand(2, 3, 4), torch.rand(2, 5)
    both: dict[str, Any] = {"sliding_window_shapes": ((2, 2), (3,)), "strides": ((1, 2), 2)}
    training = network().train()
    training[1].momentum = 0.0
    return {
        "target of each image": (net, x, {**grid, "target": [0, 3]}),
        "target tensor": (net, x, {**grid, "target": torch.tensor([1, 2])}),
        "target scalar tensor": (net, x, {**grid, "target": torch.tensor(1)}),
        "target tuple": (net, x, {**grid, "target": (1,)}),
        "negative target": (net, x, {**grid, "target": -1}),
        "all outputs": (net, x, grid),
        "batched": (net, x, {**grid, "target": 1, "perturbations_per_eval": 5}),
        "default stride": (net, x[:, :, :9, :9], {"sliding_window_shapes": (3, 7, 8), "target": 0}),
        "lambda": (lambda batch: net(batch)[:, 1], x, grid),
        "bound method": (net.forward, x, {**grid, "target": 1, "perturbations_per_eval": 3}),
        "training": (training, x, {**grid, "target": 1}),
        "float64": (network().double(), images(dtype=torch.float64), {**grid, "target": 1}),
        "one value a batch": (lambda batch: net(batch).sum(), x, grid),
        "a number": (lambda batch: float(net(batch).sum()), x, grid),
        "integer outputs": (lambda batch: net(batch).argmax(1), x, {**grid, "perturbations_per_eval": 4}),
        "an output that is no number": (lambda batch: net(batch)[:, 0].log(), x, grid),
        "volume": (
            Deep(), volume, {"sliding_window_shapes": (1, 2, 3, 2), "strides": (1, 2, 2, 2), "target": (1, 2, 0)},
        ),
        "targets of N-D outputs": (
            Deep(), volume, {"sliding_window_shapes": (1, 2, 3, 2), "strides": 1, "target": [(1, 2, 0), (0, 1, 3)]},
        ),
        "part of an N-D output": (Deep(), volume, {"sliding_window_shapes": (1, 5, 6, 4), "target": 1}),
        "two inputs": (Two(), pair, {**both, "target": 0}),
        "two inputs, batched": (Two(), pair, {**both, "target": 1, "perturbations_per_eval": 4, "baselines": (0.5, 1)}),
        "additional arguments": (Two(), pair[0], {
            "sliding_window_shapes": (2, 2), "additional_forward_args": (pair[1], 3.0), "target": 0,
            "perturbations_per_eval": 2,
        }),
        "one input in a tuple": (net, (x,), {**grid, "target": 1, "baselines": (torch.rand(1, 3, 17, 20),)}),
        "integers": (lambda a: a.sum(1).float(), torch.arange(8).reshape(2, 4), {"sliding_window_shapes": (2,)}),
        "half a baseline on integers": (
            lambda a: a.sum(1).float(), torch.arange(8).reshape(2, 4),
            {"sliding_window_shapes": (2,), "baselines": 0.5},
        ),
        "an axis alone": (lambda a: a * 2, torch.rand(3), {"sliding_window_shapes": ((),)}),
        "a value that is no number": (net, x.where(x < 0.99, float("nan")), {**grid, "target": 1}),
        "bytes": (lambda a: net(a / 255), (255 * x).to(torch.uint8), {**grid, "target": 1, "baselines": 7}),
        "half": (network().half(), images(dtype=torch.float16), {**grid, "target": 1}),
        "no image": (net, x[:0], {**grid, "target": 1}),
        "columns first": (net, x.permute(0, 1, 3, 2), {**grid, "target": 1}),
        "repeated": (net, x[:1].expand(2, -1, -1, -1), {**grid, "target": 1}),
        "requiring gradients": (net, x.clone().requires_grad_(), {**grid, "target": 1}),
        "no parameters": (lambda: torch.ones(2, 1), x, {**grid, "target": 0}),
    }  # fmt: skip


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("forced", [False, True], ids=["plainly", "on boxes"])
def test_as_captum(name: str, forced: bool, request: pytest.FixtureRequest) -> None:
    captum = pytest.importorskip("captum.attr", exc_type=ImportError)
    if forced:
        request.getfixturevalue("engine")
    forward, inputs, options = cases()[name]
    found = Occlusion(forward).attribute(inputs, **options)
    expected = captum.Occlusion(forward).attribute(inputs, **options)
    assert type(found) is type(expected)
    for ours, its in zip(*((each if isinstance(each, tuple) else (each,)) for each in (found, expected)), strict=True):
        assert (ours.shape, ours.dtype, ours.device) == (its.shape, its.dtype, its.device)
        assert ours.requires_grad == its.requires_grad and not ours.is_inference()
        torch.testing.assert_close(ours, its, atol=1e-5, rtol=1e-6, equal_nan=True)


GRID = {"sliding_window_shapes": (3, 6, 5)}
FAULTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "stride over window": ({**GRID, "strides": (3, 7, 5), "target": 0}, AssertionError, "larger than the window"),
    "strides of too few axes": ({**GRID, "strides": (3, 5), "target": 0}, AssertionError, "a tuple of 3"),
    "no stride": ({**GRID, "strides": "5", "target": 0}, AssertionError, "one integer"),
    "window over image": ({"sliding_window_shapes": (3, 18, 5), "target": 0}, AssertionError, "does not fit the input"),
    "window of too few axes": ({"sliding_window_shapes": (6, 5), "target": 0}, AssertionError, "a tuple of 3 integers"),
    "two windows": ({"sliding_window_shapes": ((3, 6, 5),) * 2, "target": 0}, AssertionError, "2 windows for 1 inputs"),
    "list as window": ({"sliding_window_shapes": [3, 6, 5], "target": 0}, AssertionError, "a tuple of 3 integers"),
    "number as window": ({"sliding_window_shapes": 6, "target": 0}, TypeError, "a tuple of integers, not int"),
    "empty window": ({"sliding_window_shapes": (), "target": 0}, IndexError, r"\(\(\),\)"),
    "target out of range": ({**GRID, "target": 4}, IndexError, "target .*4.* is out of range"),
    "targets out of range": ({**GRID, "target": [0, 9]}, RuntimeError, r"target \[0, 9\] is out of range"),
    "target tuple out of range": ({**GRID, "target": [(0,), (9,)]}, IndexError, "is out of range"),
    "too many indices": ({**GRID, "target": (0, 1)}, AssertionError, "more indices than the output"),
    "too few targets": ({**GRID, "target": [0]}, AssertionError, "1 entries for 2 rows"),
    "target tensor of another size": ({**GRID, "target": torch.zeros(3, dtype=torch.int64)}, AssertionError, "2 rows"),
    "target of another type": ({**GRID, "target": "cat"}, AssertionError, "not str"),
    "list of another type": ({**GRID, "target": ["cat", "dog"]}, AssertionError, "integers or tuples, not str"),
    "baselines of another type": ({**GRID, "baselines": "black", "target": 0}, AssertionError, "not str"),
    "too few baselines": ({**GRID, "baselines": (), "target": 0}, IndexError, "0 entries for 1 inputs"),
    "no windows in a batch": ({**GRID, "perturbations_per_eval": 0, "target": 0}, AssertionError, "at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_raises_what_captum_raises(name: str) -> None:
    options, kind, sentence = FAULTS[name]
    with pytest.raises(kind, match=sentence):
        Occlusion(network()).attribute(images(), **options)
    captum = pytest.importorskip("captum.attr", exc_type=ImportError)
    with pytest.raises(kind):
        captum.Occlusion(network()).attribute(images(), **options)


def test_what_is_no_tensor_and_no_number_is_said() -> None:
    with pytest.raises(AssertionError, match="not list"):
        Occlusion(network()).attribute([images()], (3, 6, 5), target=0)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="a tensor or a number, not str"):
        Occlusion(lambda x: "cat").attribute(images(), (3, 6, 5))


def test_one_number_has_no_targets() -> None:
    with pytest.raises(IndexError, match="the output is one number"):
        Occlusion(lambda x: x.sum()).attribute(images(), (3, 6, 5), target=0)


def test_one_value_a_batch_needs_one_window_a_batch() -> None:
    with pytest.raises(AssertionError, match="perturbations_per_eval=1"):
        Occlusion(lambda x: x.sum()).attribute(images(), (3, 6, 5), perturbations_per_eval=2)


def test_a_module_on_another_device_is_named() -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="The module is on meta and the input on cpu"):
        Occlusion(network().to("meta")).attribute(images(), (3, 6, 5), target=0)


def test_shapes_without_values_give_one() -> None:
    found = Occlusion(network().to("meta")).attribute(images().to("meta"), (3, 6, 5), strides=(3, 5, 5), target=0)
    assert found.is_meta and found.shape == images().shape


def test_there_is_no_future() -> None:
    with pytest.raises(NotImplementedError, match="attribute_future"):
        Occlusion(network()).attribute_future()
    assert Occlusion.get_name() == "Occlusion" and not Occlusion(network()).has_convergence_delta()


def test_the_bar_counts_batches(capsys: pytest.CaptureFixture[str]) -> None:
    Occlusion(network()).attribute(
        images(), (3, 6, 5), strides=(3, 5, 5), target=0, perturbations_per_eval=5, show_progress=True
    )
    assert "Occlusion attribution" in (bar := capsys.readouterr().err) and "5/5" in bar


def test_modes_and_gradients_stay_as_they_are(engine: Captures) -> None:
    net, x = network(), images().requires_grad_()
    found = Occlusion(net).attribute(x, (3, 6, 5), strides=(3, 5, 5), target=0)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and x.grad is None
    assert not found.requires_grad and all(parameter.grad is None for parameter in net.parameters())
    (found * x).sum().backward()  # the map may be used in a graph
    found += 1
