"""Cores and memory: another way than the usual one is taken only where it was measured to be clearly faster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.batches import Batches, GroupProduct, Groups, ListedGroups
from obeql.planner.physical.cost import Rates
from obeql.planner.physical.costing import lane_batch
from obeql.planner.physical.plan import DenseForward, IncrementalForward
from obeql.planner.physical.schedule import choose_engine

GRID = WindowGrid.over((64, 64), (16, 16), (4, 4))
RATES = Rates(n_lanes=4)
WHOLE, ROOM = frozenset({"choose_engine"}), 10**10


@pytest.fixture
def network(catalog: Any) -> Network:
    network: Network = catalog.models["vgg"].network
    return network


def dense(network: Network, rates: Rates, *off: str, memory: int = ROOM) -> DenseForward:
    engine, _ = choose_engine(network, GRID, rates, memory, None, WHOLE | set(off))
    assert isinstance(engine, DenseForward)
    return engine


def boxes(network: Network, rates: Rates, *off: str) -> IncrementalForward:
    engine, _ = choose_engine(network, GRID, rates, ROOM, None, frozenset(off))
    assert isinstance(engine, IncrementalForward)
    return engine


def test_usual_way(network: Network) -> None:
    for rates in (RATES, replace(RATES, boxes_in_turn=0.9, maps_in_lanes=0.95, plain_memory=1.1)):
        assert boxes(network, rates).n_lanes == 4
        assert dense(network, rates).n_lanes == 1 and dense(network, rates).channels_last


def test_boxes_in_turn(network: Network) -> None:
    rates = replace(RATES, boxes_in_turn=0.5)
    assert boxes(network, rates).n_lanes == 1
    assert boxes(network, rates, "choose_threads").n_lanes == 4


def test_whole_maps_in_lanes(network: Network) -> None:
    rates = replace(RATES, maps_in_lanes=0.5)
    usual, lanes = dense(network, RATES), dense(network, rates)
    assert lanes.n_lanes == 4 and lanes.cost.seconds == pytest.approx(0.5 * usual.cost.seconds, rel=0.1)
    assert dense(network, rates, "choose_threads").n_lanes == 1
    # One window in each lane has to fit.
    little = dense(network, rates, memory=int(2 * usual.least_bytes))
    assert little.n_lanes == 1 and little.cost.memory <= 2 * usual.least_bytes
    assert little.cost.seconds == pytest.approx(dense(network, RATES, memory=int(2 * usual.least_bytes)).cost.seconds)


def test_plain_memory(network: Network) -> None:
    rates = replace(RATES, plain_memory=0.5, on_cpu=False)
    assert not dense(network, rates).channels_last
    assert dense(network, rates, "choose_layout").channels_last


def groups(*windows_and_sizes: tuple[int, float]) -> Groups:
    """Groups of an axis in a network of one layer: the windows of each, and its positions there."""
    counts, sizes = zip(*windows_and_sizes, strict=True)
    return Groups(np.array(counts, float), np.array(sizes, float)[:, None])


def batches(n_lanes: int, size: int = 100, together: int = 1) -> Batches:
    """A second a position, half a second a batch."""
    return Batches(np.array([1.0]), 0.5, size, n_lanes, together)


def test_lanes_wait_for_the_longest_batch() -> None:
    pairs = GroupProduct((groups((2, 3.0), (2, 1.0)), groups((1, 1.0))))
    assert batches(1).seconds(pairs) == pytest.approx(2 * 3 + 2 * 1 + 2 * 0.5)
    # One lane has the six seconds of the larger boxes, the other one waits four of them.
    assert batches(2).idle_seconds(pairs) == pytest.approx(4)
    assert batches(2).seconds(pairs) == pytest.approx(9 + 4)
    # In batches of one window: 3 and 1 seconds in each lane.
    assert batches(2, size=1).idle_seconds(pairs) == 0
    # Of two images the batches are twice as large, and so is the wait, of which each image has half.
    assert batches(2, together=2).idle_seconds(pairs) == pytest.approx(4)


def test_listed_windows_are_counted_group_by_group() -> None:
    listed = ListedGroups((groups((2, 3.0), (1, 5.0)), groups((2, 2.0), (1, 1.0))))
    assert batches(1).seconds(listed) == pytest.approx(2 * 3 * 2 + 5 * 1 + 2 * 0.5)
    assert batches(1, size=1).count(listed) == 3


def test_many_batches_keep_all_lanes_busy() -> None:
    pairs = GroupProduct((groups((101, 3.0)), groups((1, 1.0))))
    assert batches(2, size=1).idle_seconds(pairs) == 0


def test_sums_over_clean_maps_are_counted_once_an_image(network: Network) -> None:
    rates = replace(RATES, n_lanes=1)
    before, _ = choose_engine(network, GRID, rates, ROOM)
    after, _ = choose_engine(network, GRID, replace(rates, sums_s=1e-4), ROOM)
    assert isinstance(before, IncrementalForward) and isinstance(after, IncrementalForward)
    on_boxes = [layer for i, layer in enumerate(network.layers) if before.regions[i] and layer.reach == "sum"]
    assert after.cost.seconds - before.cost.seconds == pytest.approx(1e-4 if on_boxes else 0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("n_windows", "n_lanes", "expected"),
    [
        (10, 2, 5),  # every lane has as many
        (441, 2, 128),  # larger batches would leave a lane waiting for the last one
        (441, 1, 441),
        (3200, 2, 400),  # several for each lane
        (100_000, 2, 512),
        (100_000, 1, 512),
    ],
)
def test_large_batches_are_for_lanes_that_get_several(n_windows: int, n_lanes: int, expected: int) -> None:
    assert lane_batch(512, n_windows, n_lanes) == expected
