"""Gates frozen at their unoccluded values: on boxes as on whole maps, and right to first order, whatever makes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from obeql.executor.network.capture.capture import capture
from obeql.executor.network.first_order import guessing_graph
from obeql.executor.network.first_order.gradients import FirstOrder, score_of_logits
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.proxy_forward import ProxyRun
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Cost, IncrementalForward, ProxyForward
from obeql.planner.physical.proxies.frozen_gates import frozen, gates

SIZE, WIDTH = 24, 6
GRID = WindowGrid.over((SIZE, SIZE), (6, 6), (3, 3))

Gate = Callable[[Tensor, Tensor], Tensor]
#: how a map and what its means give are put together
FORMS: dict[str, Gate] = {
    "excite": lambda x, means: x * torch.sigmoid(means),
    "gate first": lambda x, means: nn.functional.hardsigmoid(means) * x,
    "add": lambda x, means: x + means,
    "from the largest": lambda x, means: x * torch.sigmoid(means + torch.amax(x, (2, 3), keepdim=True)),
    "shared": lambda x, means: (x * torch.sigmoid(means)) + torch.relu(x + torch.sigmoid(means)),
    "saturated": lambda x, means: x * nn.functional.hardsigmoid(means + 50.0),
}


class Block(nn.Module):
    """A convolution, and a gate by two products with the means of its map."""

    def __init__(self, n_in: int, form: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, WIDTH, 3, 2, 1)
        self.squeeze, self.widen = nn.Conv2d(WIDTH, 3, 1), nn.Conv2d(3, WIDTH, 1)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        means = self.widen(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return FORMS[self.form](x, 3.0 * means)


class Gated(nn.Module):
    """Two blocks, a convolution, the mean over positions, five classes."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(3, form), Block(WIDTH, form))
        self.last, self.head = nn.Conv2d(WIDTH, 8, 3, 1, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.last(self.blocks(x))).mean((2, 3)))
        return logits


def graph_of(form: str) -> LayerGraph:
    torch.manual_seed(3)
    module = Gated(form).eval().double()
    return capture(module, (3, SIZE, SIZE)).to(torch.device("cpu"), torch.float64)


def an_image() -> Tensor:
    return torch.rand((1, 3, SIZE, SIZE), dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def run_of(graph: LayerGraph) -> tuple[ProxyRun, ProxyForward]:
    network = frozen(graph.network(), 2)
    engine = IncrementalForward(region_layers(network, len(network.layers)), (2, 2), 8, 8, Cost(0.0, 0.0, 0.0))
    proxy = ProxyForward("freeze_gates", engine, 0.3)
    return ProxyRun(graph, GRID, [proxy], "log_odds"), proxy


def occluded(image: Tensor, fill: Tensor) -> Tensor:
    hidden = image.repeat(GRID.n_windows, 1, 1, 1)
    places = ((top, left) for top in GRID.rows.starts for left in GRID.cols.starts)
    for one, (top, left) in zip(hidden, places, strict=True):
        one[:, top : top + 6, left : left + 6] = fill
    return hidden


def scores_of(graph: LayerGraph, images: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return score_of_logits(graph.forward(images), [2, 0], graph.activation, "log_odds").numpy()


def guesses(graph: LayerGraph, around: FirstOrder) -> LayerGraph:
    return guessing_graph(graph, run_of(graph)[1], around)


@pytest.mark.parametrize("form", FORMS)
def test_windows_on_boxes_give_what_whole_maps_give(form: str) -> None:
    graph = graph_of(form)
    run, proxy = run_of(graph)
    image, fill = an_image(), torch.zeros((3, 1, 1), dtype=torch.float64)
    around = run.around(image, [2, 0])
    assert isinstance(around, FirstOrder) and len(around.gradients) == len(gates(graph.network())) >= 2
    with torch.inference_mode():
        whole = guesses(graph, around).forward(occluded(image, fill)).numpy()
    np.testing.assert_allclose(run.changes(proxy, around, image, fill, None), whole, atol=1e-9)
    # Boxes go on behind the gates.
    assert sum(proxy.engine.regions) > sum(region_layers(graph.network(), len(graph.layers)))
    exact = scores_of(graph, occluded(image, fill))
    assert np.corrcoef(whole[:, 0], exact[:, 0])[0, 1] > 0.9


@pytest.mark.parametrize("form", FORMS)
def test_what_is_left_out_falls_with_the_square_of_the_change(form: str) -> None:
    graph = graph_of(form)
    run, _ = run_of(graph)
    image = an_image()
    around = run.around(image, [2, 0])
    assert isinstance(around, FirstOrder)
    step = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    errors = []
    for size in (1e-3, 1e-4):
        changed = image + size * step
        with torch.inference_mode():
            found = guesses(graph, around).forward(changed).numpy()
        errors.append(float(np.abs(found - scores_of(graph, changed)).max()))
    assert errors[1] < 0.03 * errors[0] + 1e-12


def test_a_gate_that_is_saturated_stays_as_it_is_and_guesses_are_exact() -> None:
    graph = graph_of("saturated")
    run, proxy = run_of(graph)
    image, fill = an_image(), torch.zeros((3, 1, 1), dtype=torch.float64)
    around = run.around(image, [2, 0])
    assert isinstance(around, FirstOrder)
    found = run.changes(proxy, around, image, fill, None)
    np.testing.assert_allclose(found, scores_of(graph, occluded(image, fill)), atol=1e-9)


def test_only_the_windows_asked_for_are_guessed() -> None:
    graph = graph_of("excite")
    run, proxy = run_of(graph)
    image, fill = an_image(), torch.zeros((3, 1, 1), dtype=torch.float64)
    around = run.around(image, [1])
    assert isinstance(around, FirstOrder)
    some = np.array([0, 7, 20])
    found = run.changes(proxy, around, image, fill, some)
    assert np.isfinite(found[some]).all() and int(np.isnan(found).sum()) == GRID.n_windows - 3
