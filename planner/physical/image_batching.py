"""How many images go through the network together: the choice `batch_images` of lowering.

One image after the other leaves batches half empty where a grid has few windows, or pays for each batch what a full
one costs. Several images share the batches of their clean passes and of their windows; they take the memory of as many
materialised views, and their maps are finished together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from obeql.planner.geometry import Network
from obeql.planner.physical.cost import Rates, clean_pass_seconds
from obeql.planner.physical.memory import whole_map_bytes
from obeql.planner.physical.plan import Engine, IncrementalForward

__all__ = ["images_per_batch"]

#: Numbers of images that are tried.
_COUNTS = (2, 4, 8, 16, 32)
#: Images together take no longer than this: what a run has finished is stored, and told, group by group.
_MOST_SECONDS = 2.0
#: Share of the memory that clean passes and their views may take.
_MEMORY_SHARE = 0.5
#: What a group of images costs however small, beside its layers: views, cells and progress are set up, lanes begin and
#: end. About what it took on two cores; where it matters, windows are so cheap that a better number changes little.
_GROUP_SECONDS = 1e-3
#: Of all numbers of images within this share of the fastest, the smallest is taken.
_WORTH_WHILE = 0.03


def images_per_batch(
    network: Network,
    rates: Rates,
    memory_bytes: float,
    n_images: int,
    engines: Callable[[int], Sequence[Engine]],
    cell_bytes: float = 0.0,
) -> int:
    """Return how many of `n_images` to compute together, 1 for one after the other.

    `engines(n)` are the operators of the grids for n images together, with the cost of one of them. `cell_bytes` are
    those of one image's cells, which are all there until the last image is done.
    """
    seconds = {1: _seconds(network, rates, engines(1), 1)}
    for count in dict.fromkeys(min(count, n_images) for count in _COUNTS):
        if count * min(seconds.values()) > _MOST_SECONDS:
            break
        chosen = engines(count)
        if count * (_clean_bytes(network, chosen) + cell_bytes) > _MEMORY_SHARE * memory_bytes:
            break
        seconds[count] = _seconds(network, rates, chosen, count)
    enough = (1 + _WORTH_WHILE) * min(seconds.values())
    return min(count for count, each in seconds.items() if each <= enough)


def _seconds(network: Network, rates: Rates, engines: Sequence[Engine], count: int) -> float:
    """Return the estimated seconds of an image, its share of the clean pass and of what a group costs included."""
    shared = clean_pass_seconds(network, rates, count) + len(engines) * _GROUP_SECONDS / count
    return shared + sum(engine.cost.seconds for engine in engines)


def _clean_bytes(network: Network, engines: Sequence[Engine]) -> float:
    """Return the bytes of an image in the clean pass: what lives at its peak, and the views that the engines read."""
    kept = {
        i for engine in engines if isinstance(engine, IncrementalForward) for i, on in enumerate(engine.regions) if on
    }
    return whole_map_bytes(network) + sum(4.0 * math.prod(network.layers[i].shape) for i in kept)
