"""MONAI's `OcclusionSensitivity`: against a plain loop by its definition, and MONAI itself where it is installed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from obeql.compat.monai import OcclusionSensitivity
from tests.compat.conftest import Captures
from tests.compat.test_captum import network, volume_network

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def picture(channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(1, channels, 23, 19, generator=torch.Generator().manual_seed(1), dtype=dtype)


def steep(channels: int = 3) -> nn.Module:
    """A network whose probabilities differ from window to window."""
    net = network(channels)
    net[8].weight.data *= 20
    return net


def by_hand(net: nn.Module, x: Tensor, hide: Callable[[Tensor], Tensor], mask: tuple[int, ...], step: int) -> Tensor:
    """The mean of the softmax over the windows that hide a pixel, the last window shifted inward; (K, H, W, ..)."""
    _, _, *sizes = x.shape
    starts = (
        [min(number * step, size - side) for number in range(math.ceil((size - side) / step) + 1)]
        for size, side in zip(sizes, mask, strict=True)
    )
    total, count = torch.zeros(4, *sizes, dtype=torch.float64), torch.zeros(sizes)
    for corner in itertools.product(*starts):
        where = tuple(slice(start, start + side) for start, side in zip(corner, mask, strict=True))
        hidden = x.clone()
        hidden[:, :, *where] = hide(hidden[:, :, *where])
        with torch.no_grad():
            total[:, *where] += net(hidden).softmax(1)[0].view(-1, *(1 for _ in sizes))
        count[where] += 1
    return total / count


@pytest.mark.parametrize("forced", [False, True], ids=["plainly", "on boxes"])
@pytest.mark.parametrize("mode", [0.25, "mean_img", "mean_patch"])
def test_it_is_the_plain_loop(mode: Any, forced: bool, request: pytest.FixtureRequest) -> None:
    captures = request.getfixturevalue("engine") if forced else []
    net, x = steep(), picture()
    hide: dict[Any, Callable[[Tensor], Tensor]] = {
        0.25: lambda patch: torch.full_like(patch, 0.25),
        "mean_img": lambda patch: torch.full_like(patch, float(x.mean())),
        "mean_patch": lambda patch: patch * patch.mean(),
    }
    found, best = OcclusionSensitivity(net, mask_size=(6, 6), overlap=0.5, mode=mode, verbose=False)(x)
    assert len(captures) == forced
    torch.testing.assert_close(
        found[0].double().as_subclass(Tensor), by_hand(net, x, hide[mode], (6, 6), 3), atol=1e-5, rtol=0
    )
    assert torch.equal(best, found.argmax(1, keepdim=True)) and best.dtype == torch.int64


def test_windows_of_a_volume_are_the_plain_loop(engine: Captures) -> None:
    net, x = volume_network(), torch.rand(1, 1, 8, 9, 10, generator=torch.Generator().manual_seed(1))
    occlusion = OcclusionSensitivity(
        net,
        mask_size=(4, 4, 4),
        overlap=0.5,
        mode="mean_patch",
        activate=lambda logits: logits.softmax(1),
        verbose=False,
    )
    found, _ = occlusion(x)
    assert len(engine) == 1 and not engine[0].reason
    expected = by_hand(net, x, lambda patch: patch * patch.mean(), (4, 4, 4), 2)
    torch.testing.assert_close(found[0].double().as_subclass(Tensor), expected, atol=1e-5, rtol=0)


class Adjusted(nn.Module):
    """A network with another argument, and none for two dimensions alone."""

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        flat = x.flatten(1)
        return gain * torch.stack([flat.sum(1), (flat**2).sum(1), flat[:, ::2].sum(1)], dim=1) / flat.shape[1]


CALLS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], Callable[[], Tensor], dict[str, Any]]] = {
    "defaults": (steep, {}, picture, {}),
    "gray": (lambda: steep(1), {}, lambda: picture(1), {}),
    "box": (steep, {"mask_size": 6}, picture, {"b_box": [2, 15, 3, 17]}),
    "open box": (steep, {"mask_size": (5, 7), "overlap": 0.3}, picture, {"b_box": [-1, -1, 4, 9]}),
    "small box": (steep, {"mask_size": 9}, picture, {"b_box": [2, 3, 3, 4]}),
    "no overlap": (steep, {"mask_size": 7, "overlap": (0.5, 0.0), "n_batch": 5}, picture, {}),
    "raw outputs": (steep, {"mask_size": 6, "activate": False, "mode": "mean_img"}, picture, {}),
    "own activation": (steep, {"mask_size": 6, "activate": torch.tanh, "mode": 0.5, "n_batch": 3}, picture, {}),
    "whole image": (steep, {"mask_size": (23, 19), "mode": "mean_patch"}, picture, {}),
    "pixels": (steep, {"mask_size": 1, "overlap": 0.0, "n_batch": 200}, lambda: picture()[:, :, :6, :7], {}),
    "training": (lambda: steep().train(), {"mask_size": 6, "mode": 0.0}, picture, {}),
    "float64": (lambda: steep().double(), {"mask_size": 6}, lambda: picture(dtype=torch.float64), {}),
    "argument": (Adjusted, {"mask_size": 6}, picture, {"gain": 3.0}),
    "volume": (Adjusted, {"mask_size": (3, 4, 5)}, lambda: torch.rand(1, 1, 6, 7, 8), {"b_box": [1, 3, -1, -1, 2, 7]}),
    "signal": (Adjusted, {"mask_size": 4}, lambda: torch.rand(1, 3, 20), {}),
    "columns first": (steep, {"mask_size": 6}, lambda: picture().permute(0, 1, 3, 2), {}),
    "no number": (steep, {"mask_size": 6, "mode": 0.0}, lambda: picture().where(picture() < 0.99, float("nan")), {}),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("forced", [False, True], ids=["plainly", "on boxes"])
def test_as_monai(name: str, forced: bool, request: pytest.FixtureRequest) -> None:
    monai = pytest.importorskip("monai.visualize", exc_type=ImportError)
    if forced:
        request.getfixturevalue("engine")
    make, options, image, more = CALLS[name]
    net, x = make(), image()
    modes = [part.training for part in net.modules()]
    found = OcclusionSensitivity(net, verbose=False, **options)(x, **more)
    assert [part.training for part in net.modules()] == modes
    expected = monai.OcclusionSensitivity(net, verbose=False, **options)(x, **more)
    for ours, its in zip(found, expected, strict=True):
        assert type(ours) is type(its)
        assert (ours.shape, ours.dtype, ours.device) == (its.shape, its.dtype, its.device)
        assert not ours.requires_grad and not ours.is_inference()
    torch.testing.assert_close(
        *(each[0].as_subclass(Tensor) for each in (found, expected)), atol=1e-5, rtol=0, equal_nan=True
    )
    # Where two classes are as likely, rounding chooses.
    differs = (found[1] != expected[1]).as_subclass(Tensor)
    top = expected[0].as_subclass(Tensor).topk(2, dim=1).values
    assert bool(((top[:, :1] - top[:, 1:])[differs] < 1e-5).all())


FAULTS: dict[str, tuple[dict[str, Any], Callable[[], Tensor], dict[str, Any], type[Exception], str]] = {
    "unknown mode": ({"mode": "blur"}, picture, {}, NotImplementedError, "mode is one of gaussian"),
    "two images": ({}, lambda: torch.rand(2, 3, 23, 19), {}, ValueError, "a batch of 2"),
    "no image": ({}, lambda: torch.rand(3, 23), {}, ValueError, r"its shape is \(3, 23\)"),
    "bytes": (
        {"mode": 0.0},
        lambda: (255 * picture()).to(torch.uint8),
        {},
        RuntimeError,
        r"torch.uint8.*give x\.float",
    ),
    "an array": ({}, lambda: picture().numpy(), {}, TypeError, "not ndarray; torch.as_tensor"),
    "large mask": ({"mask_size": 24}, picture, {}, ValueError, "24x24 is larger than the image of 23x19"),
    "mask of three axes": ({"mask_size": (3, 3, 3)}, picture, {}, ValueError, "each of 2 spatial axes; 3 were given"),
    "overlap of one": ({"overlap": 1.0}, picture, {}, ValueError, "below 1"),
    "overlaps of three axes": ({"overlap": (0.1, 0.1, 0.1)}, picture, {}, ValueError, "overlap is one number, or"),
    "no batch": ({"n_batch": 0}, picture, {}, ValueError, "n_batch is at least 1"),
    "whole number as mode": ({"mode": 0}, picture, {}, TypeError, "write a number as a float"),
    "argument that it has not": ({}, picture, {"gain": 2}, TypeError, "gain"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_raises_what_monai_raises(name: str) -> None:
    options, image, more, kind, sentence = FAULTS[name]
    net = network()
    with pytest.raises(kind, match=sentence):
        OcclusionSensitivity(net, verbose=False, **options)(image(), **more)
    monai = pytest.importorskip("monai.visualize", exc_type=ImportError)
    with pytest.raises(kind):
        monai.OcclusionSensitivity(net, verbose=False, **options)(image(), **more)


@pytest.mark.parametrize(
    ("options", "box", "sentence"),
    [
        ({"mask_size": 0}, None, "mask_size is at least 1"),
        ({"mask_size": -6}, None, "mask_size is at least 1"),
        ({}, [1, 2, 3], "for each of 2 axes"),
        ({"mask_size": 3}, [30, 40, 0, 5], "holds nothing of an image of 23x19"),
    ],
)
def test_sizes_that_cannot_be_are_named(options: dict[str, Any], box: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        OcclusionSensitivity(network(), verbose=False, **options)(picture(), box)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 0"):
        OcclusionSensitivity(network(), verbose=False)(picture()[:0])


def test_outputs_of_another_shape_are_named() -> None:
    with pytest.raises(ValueError, match=r"returns \(16, 4, 1\)"):
        OcclusionSensitivity(nn.Sequential(network(), nn.Unflatten(1, (4, 1))), mask_size=5, verbose=False)(picture())


def test_a_function_hides(engine: Captures) -> None:
    net, x = steep(), picture()
    half = OcclusionSensitivity(net, mask_size=6, overlap=0.5, mode=lambda image, patch: patch * 0.5, verbose=False)(x)[
        0
    ]
    assert not engine
    expected = by_hand(net, x, lambda patch: patch * 0.5, (6, 6), 3)
    torch.testing.assert_close(half[0].double().as_subclass(Tensor), expected, atol=1e-5, rtol=0)


def test_the_bar_counts_batches(capsys: pytest.CaptureFixture[str], engine: Captures) -> None:
    OcclusionSensitivity(network(), mask_size=6, overlap=0.0, n_batch=5, mode=0.0)(picture())
    OcclusionSensitivity(network(), mask_size=6, overlap=0.0, n_batch=5, mode=lambda x, patch: patch)(picture())
    bars = capsys.readouterr().err.split("\n")
    assert len(bars) == 3 and all("| 4/4 " in bar for bar in bars[:2])
