"""What an operator is costed for: the network, its windows, how fast the device is, and how much memory there is.

Made by `schedule` for one grid; `dense` and `incremental` add costs up from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.cost import Rates

__all__ = ["MAX_GPU_BATCH", "MIN_BATCH", "Costing", "lane_batch", "whole_map_batch"]

#: Bytes of one batch's largest whole map on a CPU: half of what the C library's allocator gives back to the system.
_MAP_BYTES = 16e6
#: Windows in a batch: at least, and at most on a GPU, which small batches leave idle.
MIN_BATCH, MAX_GPU_BATCH = 4, 1024
#: Windows in a batch on whole maps, at most on a CPU; and for a network whose layers are not known.
_MAX_WHOLE, _UNSEEN_BATCH = 128, 4
#: Of larger batches than this every lane is to get several, so that none waits long for the last one.
_USUAL_BATCH, _SEVERAL = 128, 4


@dataclass(frozen=True, slots=True)
class Costing:
    """One grid of windows before a network on a device, with `budget` bytes beyond the weights and the clean pass.

    `batch` is that of the options, None for any. `together` images share batches; costs are those of one of them.
    """

    network: Network
    grid: WindowGrid
    rates: Rates
    budget: float
    batch: int | None = None
    disabled: frozenset[str] = frozenset()
    together: int = 1

    @property
    def at_once(self) -> int:
        """Return the windows of all images that share batches."""
        return self.together * self.grid.n_windows


def lane_batch(batch: int, n_windows: int, n_lanes: int) -> int:
    """Return the windows in a batch of `n_windows` in all: few windows are divided among the lanes."""
    share = math.ceil(n_windows / n_lanes)
    several = max(_USUAL_BATCH, share // _SEVERAL) if n_lanes > 1 else batch
    return max(1, min(batch, share, several))


def whole_map_batch(network: Network, rates: Rates, layers: Sequence[int]) -> int:
    """Return the windows that best go through `layers` on whole maps at a time, if memory allows."""
    if not rates.on_cpu:
        return MAX_GPU_BATCH
    if network.whole:
        return _UNSEEN_BATCH
    # Larger maps are fresh pages from the system at every layer, which cost more than large batches save; but a batch
    # also reads all the weights, which should not outweigh its maps.
    near = [network.layers[j] for i in layers for j in (i, *network.layers[i].inputs)]
    by_maps = _MAP_BYTES // max([1, *(4 * math.prod(layer.shape) for layer in near)])
    weights = sum(network.layers[i].weight_bytes for i in layers)
    by_weights = weights // max(1, sum(network.layers[i].work_bytes for i in layers))
    return int(max(MIN_BATCH, min(_MAX_WHOLE, max(by_maps, by_weights))))
