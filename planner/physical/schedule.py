"""Which operator runs a grid of windows: the costed choice between whole maps and boxes.

Called by `lower` once the grid and the network are known. Every decision is by estimated seconds, unless only one of
the operators fits into the memory.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from obeql.planner.boxes import region_layers
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.cost import Rates
from obeql.planner.physical.costing import Costing
from obeql.planner.physical.dense import dense_forward
from obeql.planner.physical.incremental import incremental_forward, switch_layer
from obeql.planner.physical.plan import Engine, RejectedAlternative

__all__ = ["choose_engine"]


def choose_engine(
    network: Network,
    grid: WindowGrid,
    rates: Rates,
    memory_bytes: int | None = None,
    batch: int | None = None,
    disabled: frozenset[str] = frozenset(),
    together: int = 1,
) -> tuple[Engine, tuple[RejectedAlternative, ...]]:
    """Return the operator that runs `grid` in the fewest estimated seconds, and the ones refused.

    Costs are those of one image, of `together` whose windows share batches; memory is that of all of them.
    """
    budget = float(memory_bytes) if memory_bytes is not None else rates.free_bytes
    # Rounded down to an eighth of a power of two: what happens to be free now does not make every plan a new one.
    budget = 2.0 ** (math.floor(8 * math.log2(max(1.0, budget))) / 8)
    rates = replace(rates, free_bytes=0.0, origin="")
    return _chosen(Costing(network, grid, rates, budget, batch, disabled, together))


@lru_cache(maxsize=256)
def _chosen(costing: Costing) -> tuple[Engine, tuple[RejectedAlternative, ...]]:
    network, budget = costing.network, costing.budget
    dense = dense_forward(costing)
    if "choose_engine" in costing.disabled:
        return dense, (RejectedAlternative("IncrementalForward", "rule choose_engine is switched off"),)
    if network.whole:
        return dense, (RejectedAlternative("IncrementalForward", f"the network runs whole: {network.reason}"),)
    regions = region_layers(network, switch_layer(costing))
    if sum(regions) <= 1:
        reason = "boxes are not faster at any layer"
        if not region_layers(network, len(network.layers))[1]:
            reason = f"layer 1 ({network.layers[1].kind}) needs whole maps"
        return dense, (RejectedAlternative("IncrementalForward", reason),)
    engine = incremental_forward(costing, regions)
    if engine.least_bytes > budget >= dense.least_bytes:
        return dense, (RejectedAlternative("IncrementalForward", "needs more memory", engine.cost),)
    if dense.least_bytes > budget >= engine.least_bytes:
        return engine, (RejectedAlternative("DenseForward", "needs more memory", dense.cost),)
    if engine.cost.seconds < dense.cost.seconds:
        return engine, (RejectedAlternative("DenseForward", "estimated slower", dense.cost),)
    return dense, (RejectedAlternative("IncrementalForward", "estimated slower", engine.cost),)
