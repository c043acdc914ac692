"""The drop-ins with the incremental engine taken at once, whatever it would be estimated to cost."""

from __future__ import annotations

import pytest

from obeql.compat import live_network
from obeql.executor.network.graph import LayerGraph
from obeql.planner.boxes import region_layers
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.cost import Rates
from obeql.planner.physical.plan import Cost, IncrementalForward


class Captures(list[LayerGraph]):
    """The networks that were captured, in order."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """Run every module that can be captured on boxes, nothing measured; returns what was captured."""
    seen = Captures()
    capture = live_network.capture

    def noted(*args: object, **kwargs: object) -> LayerGraph:
        seen.append(capture(*args, **kwargs))
        return seen[-1]

    def on_boxes(network: Network, grid: WindowGrid, rates: Rates) -> tuple[IncrementalForward, tuple[()]]:
        return IncrementalForward(
            region_layers(network, len(network.layers)), (2,) * len(grid.axes), 16, 16, Cost(0, 0, 0)
        ), ()

    monkeypatch.setattr(live_network, "_CAPTURE_PASSES", 0)
    monkeypatch.setattr(live_network, "_RATES_PASSES", 0)
    monkeypatch.setattr(live_network, "_LAYER_S", 0.0)
    monkeypatch.setattr(live_network, "measure_rates", lambda *_, **__: Rates())
    monkeypatch.setattr(live_network, "choose_engine", on_boxes)
    monkeypatch.setattr(live_network, "capture", noted)
    return seen
