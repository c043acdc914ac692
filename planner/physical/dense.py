"""What `DenseForward` costs: every window through the whole network, on whole maps.

Called by `schedule`, which holds it against `incremental`.
"""

from __future__ import annotations

import math

from obeql.planner.physical.cost import layer_seconds
from obeql.planner.physical.costing import Costing, lane_batch, whole_map_batch
from obeql.planner.physical.execution_layout import for_whole_maps
from obeql.planner.physical.memory import fitting, whole_map_bytes
from obeql.planner.physical.plan import Cost, DenseForward

__all__ = ["dense_forward"]


def dense_forward(costing: Costing) -> DenseForward:
    """Return the operator, its batch within the memory, with what it costs."""
    network, grid, rates = costing.network, costing.grid, costing.rates
    each = whole_map_bytes(network)
    arranged = for_whole_maps(rates, costing.disabled, costing.budget / each)
    n_lanes = arranged.n_lanes
    wanted = costing.batch or whole_map_batch(network, rates, range(1, len(network.layers)))
    fitted = fitting(costing.budget / n_lanes, each, lane_batch(wanted, costing.at_once, n_lanes))
    n_calls = math.ceil(costing.at_once / fitted) / costing.together / n_lanes
    layer_s = tuple(
        arranged.ratio * layer_seconds(network, i, rates) * grid.n_windows + (n_calls * rates.call_s if i else 0.0)
        for i in range(len(network.layers))
    )
    return DenseForward(
        fitted,
        Cost(
            macs=float(network.macs * grid.n_windows),
            bytes=float(sum(layer.work_bytes for layer in network.layers) * grid.n_windows),
            seconds=sum(layer_s),
            memory=each * fitted * n_lanes,
        ),
        layer_s,
        each,
        n_lanes,
        arranged.channels_last,
    )
