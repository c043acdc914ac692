"""Driving capture and the operators without a session: forced engine choices, and the plain forms they must equal."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from obeql.executor.network.capture.capture import capture
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.dense_forward import DenseRun, as_computed
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Cost, DenseForward, IncrementalForward

NOTHING = Cost(0.0, 0.0, 0.0)


def dense_engine(batch: int = 8) -> DenseForward:
    return DenseForward(batch, NOTHING)


def incremental_engine(
    graph: LayerGraph, stop: int | None = None, groups: tuple[int, ...] = (2, 2), batch: int = 8, tail_batch: int = 8
) -> IncrementalForward:
    """Boxes on every layer that can have them before layer `stop`, None for the last."""
    network = graph.network()
    regions = region_layers(network, len(network.layers) if stop is None else stop)
    return IncrementalForward(regions, groups, batch, tail_batch, NOTHING)


def window_logits(
    graph: LayerGraph,
    grid: WindowGrid,
    engine: DenseForward | IncrementalForward,
    image: Tensor,
    fill: Tensor,
    windows: npt.NDArray[np.bool_] | None = None,
) -> Tensor:
    """Logits (N * windows, K) by an operator over images (N, C, H, W); rows of windows that were not asked for are NaN.

    Each row is written once.
    """
    run = (
        IncrementalRun(graph, grid, engine) if isinstance(engine, IncrementalForward) else DenseRun(graph, grid, engine)
    )
    before = image.clone()
    n_windows = len(image) * grid.n_windows
    result = image.new_full((n_windows, graph.layers[-1].shape[0]), float("nan"))
    times_done = np.zeros(n_windows, int)
    with torch.inference_mode():
        clean = materialise(graph, image, run.needed)

        def done(numbers: npt.NDArray[np.int64], logits: Tensor) -> None:
            times_done[numbers] += 1
            result[torch.from_numpy(numbers)] = logits

        run.run(clean, fill, windows, done, as_computed)
    asked = np.ones(n_windows, bool) if windows is None else windows.reshape(-1)
    assert np.array_equal(times_done, asked.astype(int)), "every asked window is computed once"
    assert torch.equal(image.nan_to_num(), before.nan_to_num()), "the image is not written to"
    return result


def brute_force(
    module: nn.Module,
    image: Tensor,
    fill: Tensor,
    grid: WindowGrid,
    windows: npt.NDArray[np.bool_] | None = None,
    together: int = 1,
) -> Tensor:
    """Logits (windows, K) by a loop over windows that runs the module itself, on so many hidden images at a time.

    Rows of windows that were not asked for are NaN.
    """
    asked = np.ones(grid.shape, bool) if windows is None else windows
    hidden = []
    extents = [[slice(s, s + n) for s, n in zip(axis.starts, axis.lengths, strict=True)] for axis in grid.axes]
    for place, box in zip(np.ndindex(grid.shape), itertools.product(*extents), strict=True):
        if asked[place]:
            mask = torch.zeros(image.shape[2:], dtype=torch.bool)
            mask[box] = True
            hidden.append(torch.where(mask, fill[None].expand_as(image), image))
    with torch.inference_mode():
        logits = torch.full_like(module(image), float("nan")).repeat(asked.size, 1)
        places = torch.from_numpy(np.flatnonzero(asked))
        for start in range(0, len(hidden), together):
            logits[places[start : start + together]] = module(torch.cat(hidden[start : start + together]))
    return logits


def lively(module: nn.Module) -> nn.Module:
    """Eval mode with batch norms that do something."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d) and part.running_mean is not None:
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.uniform_(part.bias, -0.5, 0.5)
    return module.eval()


def assert_same(module: nn.Module, graph: LayerGraph, shape: tuple[int, ...] = (3, 13, 17)) -> None:
    """The graph is the module in float64, whatever the number of images."""
    wide, original = graph.to(torch.device("cpu"), torch.float64), copy.deepcopy(module).double()
    for part in original.modules():  # tensors that no module registered
        for key, value in vars(part).items():
            if isinstance(value, Tensor):
                setattr(part, key, value.double())
    for n_images in (1, 2, 5):
        x = torch.rand(n_images, *shape, generator=torch.Generator().manual_seed(n_images), dtype=torch.float64)
        with torch.inference_mode():
            expected = original(x.clone())
            got = wide.forward(x)
        scale = float(expected.abs().max())
        assert scale > 0
        assert float((got - expected).abs().max()) <= 1e-11 * scale


def captured(build: Callable[[], nn.Module], shape: tuple[int, ...] = (3, 13, 17)) -> tuple[nn.Module, LayerGraph]:
    """The module and its graph, having checked that capture left the module as it was."""
    torch.manual_seed(0)
    module = lively(build())
    next(module.parameters(), torch.empty(0)).requires_grad_(False)
    state = copy.deepcopy(module.state_dict())
    flags = [(p.requires_grad, p.grad) for p in module.parameters()]
    modes = [part.training for part in module.modules()]
    graph = capture(module, shape)
    assert modes == [part.training for part in module.modules()]
    assert flags == [(p.requires_grad, p.grad) for p in module.parameters()]
    assert list(state) == list(module.state_dict())
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in state.items())
    return module, graph


def kinds(graph: LayerGraph) -> tuple[str, ...]:
    return tuple(layer.kind for layer in graph.layers[1:])


@pytest.fixture(scope="session")
def drive() -> SimpleNamespace:
    """The functions above, for tests that cannot import this file."""
    return SimpleNamespace(
        dense_engine=dense_engine,
        incremental_engine=incremental_engine,
        window_logits=window_logits,
        brute_force=brute_force,
        captured=captured,
        assert_same=assert_same,
        kinds=kinds,
    )
