"""Cores and memory: another way than the usual one is taken only where it was measured to be clearly faster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from obeql.planner.cost import Rates
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import DenseForward, IncrementalForward
from obeql.planner.schedule import choose_engine

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
