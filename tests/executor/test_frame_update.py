"""Images computed from one another give what whole passes give, whatever differs between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from obeql.executor.network.capture.capture import capture
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators import frame_update
from obeql.executor.operators.changed_boxes import changed_boxes, joined_boxes
from obeql.executor.operators.frame_update import FrameUpdateRun
from obeql.planner.physical.frames import Box, FrameUpdate

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIZE = (3, 40, 33)


class Branching(nn.Module):
    """What a view may be: read twice, handed on as it is, a part of another, put together, summed to one position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.mean = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.gate = nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a, b = x.chunk(2, 1)
        x = torch.cat([self.left(a) + b, b], 1)
        x = self.pool(x) + self.mean(self.pool(x))
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.last(x.mean((2, 3)))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(6, 8, 3, dilation=2),
        nn.Hardswish(), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(48, 5),
    )  # fmt: skip


@pytest.fixture(scope="module", params=[Branching, plain])
def graph(request: pytest.FixtureRequest) -> LayerGraph:
    torch.manual_seed(0)
    found = capture(request.param().eval(), SIZE)
    assert not found.reason
    return found.to(CPU, torch.float64)


def always(graph: LayerGraph) -> FrameUpdateRun:
    """Return a run that updates whatever the estimate says."""
    return FrameUpdateRun(graph, replace(FrameUpdate.of(graph.network(), 1e12), why_whole="", box_s=0.0, pass_s=1e9))


@settings(max_examples=25, deadline=None)
@given(changes=st.lists(st.lists(st.tuples(*[st.integers(0, 39)] * 4), max_size=4), min_size=3, max_size=8))
def test_updates_equal_whole_passes(graph: LayerGraph, changes: list[list[tuple[int, int, int, int]]]) -> None:
    run = always(graph)
    rng = np.random.default_rng(len(changes))
    image = torch.from_numpy(rng.standard_normal((1, *SIZE)))
    with torch.inference_mode():
        for boxes in changes:
            image = image.clone()
            for top, left, height, width in boxes:
                part = image[0, :, top : top + height, left : left + width]
                part += torch.from_numpy(rng.standard_normal(part.shape))
            before = image.clone()
            found = run.forward(image)
            assert torch.equal(image, before), "the caller's image is not written to"
            assert torch.allclose(found, graph.forward(image), rtol=1e-9, atol=1e-11)
    assert run.count.updated == len(changes) - 2
    assert run.count.whole == 2


def test_float32_does_not_drift(graph: LayerGraph) -> None:
    run = always(replace(graph).to(CPU, torch.float32))
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, *SIZE), generator=generator)
    with torch.inference_mode():
        for number in range(60):
            image = image.clone()
            image[..., number % 30 : number % 30 + 6, 4:9] = torch.randn(3, 6, 5, generator=generator)
            found = run.forward(image)
        assert torch.allclose(found.double(), graph.forward(image.double()), rtol=1e-5, atol=1e-6)


def test_images_that_are_unlike_keep_no_views(graph: LayerGraph) -> None:
    run = FrameUpdateRun(graph, FrameUpdate.of(graph.network(), 1e12))
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for _ in range(3):
            image = torch.randn((1, *SIZE), generator=generator, dtype=torch.float64)
            assert torch.equal(run.forward(image), graph.forward(image))
    assert (run.count.whole, run.count.updated) == (3, 0)
    assert not run._views


def test_of_a_row_of_unlike_images_fewer_and_fewer_are_compared(
    graph: LayerGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FrameUpdateRun(graph, replace(FrameUpdate.of(graph.network(), 1e12), why_whole=""))
    compared: list[int] = []

    def counted(differs: np.ndarray) -> list[Box]:
        compared.append(run.count.whole)
        return changed_boxes(differs)

    monkeypatch.setattr(frame_update, "changed_boxes", counted)
    with torch.inference_mode():
        for _ in range(70):
            run.forward(torch.randn((1, *SIZE), dtype=torch.float64))
    assert compared == [1, 3, 7, 15, 31, 47, 63]


def test_networks_where_an_update_cannot_pay_say_why() -> None:
    class Everywhere(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft2(x).abs().mean((2, 3))

    assert "one pixel costs a whole pass" in FrameUpdate.of(capture(Everywhere(), SIZE).network(), 1e12).why_whole
    network = capture(plain().eval(), SIZE).network()
    assert FrameUpdate.of(network, 10.0).why_whole == "views do not fit"
    assert "on this device" in FrameUpdate.of(network, 0.0).why_whole


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 30)] * 4), max_size=20), st.integers(1, 3))
def test_boxes_hold_all_that_differs(changes: list[tuple[int, int, int, int]], n_axes: int) -> None:
    differs = np.zeros((32, 31, 9)[:n_axes], bool)
    for change in changes:
        starts = [start % size for start, size in zip(change, differs.shape, strict=False)]
        differs[tuple(slice(start, start + 1 + start // 9) for start in starts)] = 1
    for boxes in (found := changed_boxes(differs), joined_boxes(found, lambda some: 40.0 * len(some) + _pixels(some))):
        held = np.zeros_like(differs)
        for box in boxes:
            held[tuple(slice(*extent) for extent in box)] = 1
        assert not (differs & ~held).any()
        assert len(boxes) <= 12
        assert bool(boxes) == bool(differs.any())


def _pixels(boxes: list[tuple[tuple[int, int], ...]]) -> float:
    return float(sum(np.prod([stop - start for start, stop in box]) for box in boxes))


def test_two_things_that_move_far_apart_are_two_boxes() -> None:
    differs = np.zeros((100, 100), bool)
    differs[5:9, 5:9] = differs[80:90, 70:72] = 1
    assert sorted(changed_boxes(differs)) == [((5, 9), (5, 9)), ((80, 90), (70, 72))]


def test_volumes_are_updated_too() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 8, 3), nn.AdaptiveAvgPool3d(1)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3)).eval()
    graph = capture(module, (1, 9, 12, 10))
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        placed = graph.to(CPU, dtype)
        run = always(placed)
        image = torch.randn((1, 1, 9, 12, 10), dtype=dtype)
        with torch.inference_mode():
            for number in range(6):
                image = image.clone()
                image[..., number : number + 3, 2:5, 1:4] += 1
                assert torch.allclose(run.forward(image), placed.forward(image), rtol=tolerance, atol=tolerance)
        assert run.count.updated == 4
