"""Windows that hide nothing: which they are, and that the clean pass's cells are those that computing them gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from obeql.executor.network.capture.capture import capture
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.grid_scan import GridScan
from obeql.executor.operators.skip_unchanged import unchanged_windows
from obeql.planner.grid import WindowGrid

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (20, 24)
GRID = WindowGrid.over(SIZE, (6, 8), (3, 4))
BLACK = torch.tensor([0.0, -1.0, 2.0])[:, None, None]


def scans(n: int = 1, border: int = 7) -> Tensor:
    """Images (n, 3, 20, 24) with a black border and something inside it."""
    images = BLACK.expand(n, 3, *SIZE).clone()
    inside = images[:, :, border:-border, border:-border]
    inside[:] = torch.rand(inside.shape, generator=torch.Generator().manual_seed(0)) + 3
    return images


def one_by_one(images: Tensor, fills: Tensor, grid: WindowGrid) -> npt.NDArray[np.bool_]:
    """What `unchanged_windows` says, window by window."""
    found = []
    for image, fill in zip(images, fills.expand(len(images), -1, *SIZE), strict=True):
        for top, height in zip(grid.rows.starts, grid.rows.lengths, strict=True):
            for left, width in zip(grid.cols.starts, grid.cols.lengths, strict=True):
                inside = slice(None), slice(top, top + height), slice(left, left + width)
                found.append(torch.equal(image[inside], fill[inside]))
    return np.array(found).reshape(len(images), -1)


@pytest.mark.parametrize("border", ["cover", "valid", "clip"])
def test_windows_on_a_border_of_the_fills_color(border: Any) -> None:
    grid = WindowGrid.over(SIZE, (6, 8), (3, 4), border=border)
    images = scans(2)
    images[1] += 1  # which nothing hides
    found = unchanged_windows(images, BLACK, grid)
    assert 0 < found[0].sum() < grid.n_windows and not found[1].any()
    np.testing.assert_array_equal(found, one_by_one(images, BLACK[None], grid))


def test_a_fill_of_every_image() -> None:
    images = scans(3)
    fills = torch.stack([BLACK, BLACK + 1, BLACK])
    found = unchanged_windows(images, fills, GRID)
    np.testing.assert_array_equal(found, one_by_one(images, fills, GRID))
    assert found.any(axis=1).tolist() == [True, False, True]


def test_a_fill_that_is_an_image() -> None:
    image = scans()
    fill = image.clone()
    fill[:, :, :, 12:] += 1
    np.testing.assert_array_equal(unchanged_windows(image, fill, GRID), one_by_one(image, fill, GRID))
    assert unchanged_windows(image, image[0], GRID).all()


def test_a_window_that_differs_in_one_channel_of_one_pixel() -> None:
    image = BLACK.expand(1, 3, *SIZE).clone()
    image[0, 2, 0, 0] += 1e-6
    found = unchanged_windows(image, BLACK, GRID)
    assert found.sum() == GRID.n_windows - 1 and not found[0, 0]


def test_zeros_of_two_signs_differ() -> None:
    image = torch.full((1, 3, *SIZE), -0.0)
    assert not unchanged_windows(image, torch.zeros(3, 1, 1), GRID).any()


def test_few_windows_are_computed_like_any_other() -> None:
    image = torch.rand((1, 3, *SIZE), generator=torch.Generator().manual_seed(0)) + 3
    image[:, :, :6, :8] = BLACK
    grid = WindowGrid.over(SIZE, (6, 8), (1, 1))
    assert one_by_one(image, BLACK[None], grid).sum() == 1
    assert not unchanged_windows(image, BLACK, grid).any()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("n_images", [1, 3])
def test_cells_are_those_of_computing_them(drive: SimpleNamespace, boxes: bool, n_images: int) -> None:
    graph = capture(network(), (3, *SIZE)).to(torch.device("cpu"), torch.float64)
    engine = drive.incremental_engine(graph) if boxes else drive.dense_engine()
    images = scans(n_images).double()
    images[-1] += 0 if n_images == 1 else 5
    found = {}
    for skips in (True, False):
        run = GridScan(graph, GRID, engine, skips=skips)
        clean = materialise(graph, images, run.needed)
        told: list[int] = []
        found[skips] = run.compute(clean, BLACK.double(), [[1, 3]] * n_images, "softmax", told.append)
        assert (run.n_skipped > 0) == skips and told[-1] == n_images * GRID.n_windows
        if skips:
            expected = unchanged_windows(images, BLACK.double(), GRID)
            assert run.n_skipped == expected.sum()
            for number, planes in enumerate(found[True]):
                logits = clean.logits[number].float()  # as the clean numbers of a map are kept
                at = torch.from_numpy(expected[number])
                assert bool((planes.logit[at] == logits[[1, 3]]).all())
                assert bool((planes.top[at] == int(logits.argmax())).all())
    for ours, theirs in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(ours.logit, theirs.logit)
        torch.testing.assert_close(ours.others, theirs.others)
        assert torch.equal(ours.top, theirs.top)


def test_only_wanted_windows_are_taken(drive: SimpleNamespace) -> None:
    graph = capture(network(), (3, *SIZE)).to(torch.device("cpu"), torch.float32)
    run = GridScan(graph, GRID, drive.dense_engine())
    wanted = np.zeros((1, GRID.n_windows), bool)
    wanted[0, :3] = True
    image = scans()
    (planes,) = run.compute(materialise(graph, image, run.needed), BLACK, [[0]], "softmax", lambda n: None, wanted)
    np.testing.assert_array_equal(~planes.logit[:, 0].isnan().numpy(), wanted[0])
    assert run.n_skipped == (unchanged_windows(image, BLACK, GRID) & wanted).sum()
