"""What a window takes in memory while it is computed: bytes of activations beyond the weights and the clean pass.

`schedule` chooses batches by it. All numbers are float32's, of one window in one lane.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from obeql.planner.geometry import LayerSpec, Network
from obeql.planner.physical.cost import read_size

__all__ = ["BoxMemory", "box_memory", "cell_bytes", "fitting", "most_kept", "whole_map_bytes"]

Ints = npt.NDArray[np.int64]

#: Bytes of one activation, and of one entry of an array that says where a region lies.
_VALUE, _INDEX = 4, 8
#: Bytes of where boxes lie that are kept from one image to the next: at most so many, and this share of the memory.
_KEPT_BYTES, _KEPT_SHARE = 64e6, 1 / 8


def whole_map_bytes(network: Network, layers: Iterable[int] | None = None) -> float:
    """Return the most bytes that one image takes on its way through `layers`, or the whole network, on whole maps.

    At every layer: all values that a later one of `layers` reads, the layer's own, and as much again for what a
    kernel lays out anew; for the whole network at least three of the largest map.
    """
    order = list(range(len(network.layers)) if layers is None else layers)
    n_bytes = [_VALUE * math.prod(layer.shape) for layer in network.layers]
    last = {i: i for i in order}
    inside = set(order)
    for i in order:
        for j in network.layers[i].inputs:
            last[j] = i
    peak = 0
    live = sum(n_bytes[j] for j in last if j not in inside)  # what comes from outside
    for i in order:
        live += n_bytes[i]
        peak = max(peak, live + n_bytes[i])
        live -= sum(n_bytes[j] for j in {i, *network.layers[i].inputs} if last[j] == i)
    return float(max(peak, 3 * max(n_bytes)) if layers is None else peak)


@dataclass(frozen=True, slots=True)
class BoxMemory:
    """Bytes of a window of an `IncrementalForward`: on boxes, on whole maps, and kept from the ones to the others."""

    #: largest tensor on boxes: what a layer reads, or its output
    widest: float
    #: the arrays that say where regions lie
    places: float
    #: peak on boxes, with the arrays that say where regions lie
    boxes: float
    #: whole maps put together from boxes, which wait until there are enough windows for the rest of the network
    crossing: float
    #: peak of the rest of the network, what crosses among it
    maps: float

    def of(self, batch: int, tail_batch: int) -> float:
        """Return the bytes of a lane that runs `batch` windows on boxes at a time and `tail_batch` on whole maps."""
        waiting = self.crossing * max(batch, tail_batch)
        joined = self.crossing * tail_batch if tail_batch > batch else 0.0  # the parts, and their concatenation
        return waiting + max(self.boxes * batch, self.maps * tail_batch + joined)

    def batches(self, budget: float, batch: int, tail_batch: int) -> tuple[int, int]:
        """Return the largest batches up to those asked for whose memory is within `budget`, or one window each."""
        fitted = fitting(budget / 2, self.boxes + self.crossing, batch)
        rest = min(
            fitting(budget - self.boxes * fitted, self.crossing, tail_batch),
            fitting(budget - self.crossing * fitted, self.maps, tail_batch),
            fitting(budget, 2 * self.crossing + self.maps, tail_batch),
        )
        return fitted, rest


def box_memory(network: Network, regions: Sequence[bool], sizes: Ints) -> BoxMemory:
    """Return what one window takes whose boxes have `sizes` (axes, layers)."""
    areas = sizes.prod(axis=0)
    boxed = [i for i, on in enumerate(regions) if on]
    rest = [i for i, on in enumerate(regions) if not on]
    crossing = {j for i in rest for j in network.layers[i].inputs if regions[j]}
    last: dict[int, int] = {}
    for i in boxed:
        for j in network.layers[i].inputs:
            last[j] = i
    output = {i: float(_VALUE * network.layers[i].shape[0] * areas[i]) for i in boxed}
    reads = {i: _read(network, i, sizes[:, i].tolist()) for i in boxed if i}
    places = _INDEX * sum(n for _, n in reads.values())
    places += _INDEX * sum(math.prod(network.layers[j].shape[1:]) for j in crossing)
    places += areas[0] * (1 + _INDEX)  # which positions a window hides, and where they lie
    peak = live = 0.0
    for i in boxed:
        read = _VALUE * reads[i][0] if i else 2 * output[0]
        live += output[i]
        # a kernel may lay out what it reads, or its output, anew
        peak = max(peak, live + read + max(read, output[i]))
        live -= sum(output[j] for j in set(network.layers[i].inputs) if last[j] == i)
        if i not in last:
            live -= output[i]
    return BoxMemory(
        widest=max([*output.values(), *(_VALUE * n for n, _ in reads.values())]),
        places=float(places),
        boxes=peak + float(places),
        crossing=float(sum(_VALUE * math.prod(network.layers[j].shape) for j in crossing)),
        maps=whole_map_bytes(network, rest) if rest else 0.0,
    )


def _read(network: Network, index: int, sizes: Sequence[float]) -> tuple[float, float]:
    """Return the values and positions that a layer reads of its inputs' maps to compute a box of `sizes` of its own."""
    layer: LayerSpec = network.layers[index]
    if layer.reach == "sum" or (layer.window is None and len(layer.inputs) == 1):
        return 0.0, 0.0  # the input's box is all that is read: nothing is gathered
    area = math.prod(read_size(layer, axis, size) for axis, size in enumerate(sizes))
    return sum(network.layers[j].shape[0] for j in layer.inputs) * area, len(layer.inputs) * area


def most_kept(budget: float) -> float:
    """Return how many bytes of where boxes lie that may be kept out of `budget`."""
    return min(_KEPT_BYTES, _KEPT_SHARE * max(0.0, budget))


def cell_bytes(n_windows: Sequence[int], n_classes: int) -> float:
    """Return bytes of the cells of an image, `n_windows` of each grid: its maps, and the planes of the grid at work.

    Two numbers a window and class, one of them of twice the size, and the arg-max class of a window.
    """
    each = [_VALUE * n * (3 * n_classes + 1) for n in n_windows]
    return float(sum(each) + max(each))


def fitting(budget: float, bytes_each: float, most: int) -> int:
    """Return as many windows of `bytes_each` as `budget` holds: one at least, `most` at most."""
    return int(max(1, min(most, budget // max(1.0, bytes_each))))
