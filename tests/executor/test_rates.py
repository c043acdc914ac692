"""Measured rates: one number a layer, positive where a layer runs on boxes, and the line they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from obeql.executor.calibration.rates import _line, measure_rates
from obeql.executor.network.capture.capture import capture
from obeql.planner.physical.cost import Rates

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("is_rough", [False, True])
def test_rates_of_a_small_network(is_rough: bool) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 256, 4)
    )
    graph = capture(network.eval(), (3, 32, 32))
    rates = measure_rates(graph, torch.device("cpu"), torch.float32, is_rough=is_rough)
    on_boxes = [layer.reach in ("local", "pointwise") for layer in graph.layers]
    assert len(rates.layer_s) == len(rates.box_s) == len(rates.box_batch_s) == len(graph.layers)
    assert all(seconds > 0 for seconds in rates.layer_s[1:])
    assert [seconds > 0 for seconds in rates.box_s[1:]] == on_boxes[1:]
    assert Rates.from_json(rates.to_json()) == rates


def test_other_ways_to_use_cores_and_memory_are_measured() -> None:
    torch.set_num_threads(2)  # put back by the fixture
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    rates = measure_rates(capture(network.eval(), (3, 32, 32)), torch.device("cpu"), torch.float32)
    assert rates.n_lanes == 2 and rates.boxes_in_turn > 0 and rates.maps_in_lanes > 0
    assert rates.plain_memory == 0  # a CPU's packed kernels are channels-last


def test_a_line_through_two_points() -> None:
    def point(positions: float, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        return np.array([positions]), np.array([seconds])

    slope, offset = _line(point(10, 3.0), point(100, 12.0))
    assert slope == pytest.approx(0.1) and offset == pytest.approx(2.0)
    slope, offset = _line(point(10, 0.5), point(100, 12.0))  # a steeper line than through nothing: no offset
    assert slope == pytest.approx(0.12) and offset == 0
    slope, offset = _line(point(10, 15.0), point(100, 12.0))  # an interruption in the small one
    assert slope == pytest.approx(0.12) and offset == 0
    slope, offset = _line(point(1, 3.0), point(1, 3.0))  # a global mean: one position however many windows
    assert slope == pytest.approx(3.0) and offset == 0
