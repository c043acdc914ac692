"""What an image costs that is computed from the last one: the boxes of pixels that differ, pushed through the layers.

Before: a network, and boxes that the executor finds in the pixels. After: `obeql.executor.operators.frame_update` runs
the boxes, or the whole network where they do not pay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from obeql.planner.boxes import Spans, axis_spans
from obeql.planner.geometry import Network
from obeql.planner.grid import AxisGrid
from obeql.planner.physical.cost import Rates, clean_pass_seconds, layer_seconds, positions

__all__ = ["Box", "FrameUpdate"]

#: Pixels [start, end) along every axis.
Box = tuple[tuple[int, int], ...]

#: An update that is estimated at more of a pass than this is not worth the risk of a wrong estimate.
_PAYS = 0.85
#: What a box costs at a layer beside its positions, in calls: it is read, padded, computed and written alone. And how
#: often its weights go through memory: read, written in another order, read again.
_CALLS, _WEIGHT_PASSES = 3.0, 3.0


@dataclass(frozen=True, slots=True, eq=False)
class FrameUpdate:
    """Forward images one after another, each from the last one where few pixels differ.

    `regions[i]` says whether layer i runs on boxes; the others run on whole maps. `kept_bytes` are those of the views
    that are kept from image to image.
    """

    network: Network
    regions: tuple[bool, ...]
    kept_bytes: float
    #: why every image goes through the whole network; empty where a change of few pixels costs less
    why_whole: str
    #: estimated seconds of one position of each layer on boxes, and of what a box costs beside them: calls, and
    #: weights that are brought into the order which its size needs
    position_s: npt.NDArray[np.float64]
    box_s: float
    #: estimated seconds of an image's layers on whole maps, and of a whole pass
    tail_s: float
    pass_s: float

    @classmethod
    def of(cls, network: Network, memory: float) -> FrameUpdate:
        """Return the operator for a network on a CPU, by typical rates, where views may take so many bytes."""
        rates = Rates()
        regions: list[bool] = []
        for layer in network.layers:
            # A sum over the map is cheap on the whole of it, and what follows has no boxes.
            local = layer.reach in ("source", "pointwise", "local") and layer.is_map
            regions.append(local and all(regions[j] for j in layer.inputs))
        seconds = [layer_seconds(network, i, rates) + (rates.call_s if i else 0) for i in range(len(network.layers))]
        boxed = [(s, layer) for s, layer, on in zip(seconds, network.layers, regions, strict=True) if on]
        kept_bytes = 4.0 * sum(math.prod(layer.shape) for _, layer in boxed)
        box_s = _CALLS * rates.call_s * len(boxed)
        box_s += _WEIGHT_PASSES * sum(layer.weight_bytes for _, layer in boxed) / rates.bytes_per_s
        tail_s = sum(seconds) - sum(s for s, _ in boxed)
        pass_s = clean_pass_seconds(network, rates)
        why_whole = ""
        if kept_bytes > memory:
            why_whole = "views of the last image are not kept on this device" if not memory else "views do not fit"
        elif tail_s + box_s >= _PAYS * pass_s:
            share = (tail_s + box_s) / pass_s
            why_whole = "a change of one pixel costs " + (f"{share:.0%} of a pass" if share < 1 else "a whole pass")
        position_s = np.array([s / positions(layer) for s, layer in zip(seconds, network.layers, strict=True)])
        return cls(network, tuple(regions), kept_bytes, why_whole, position_s * regions, box_s, tail_s, pass_s)

    def spans(self, boxes: Sequence[Box]) -> tuple[Spans, ...]:
        """Return which positions of every layer boxes of pixels change, an axis each."""
        found = []
        for axis, size in enumerate(self.network.size):
            starts = tuple(box[axis][0] for box in boxes)
            lengths = tuple(box[axis][1] - box[axis][0] for box in boxes)
            found.append(axis_spans(self.network, axis, AxisGrid(size, starts, lengths), self.regions))
        return tuple(found)

    def share(self, spans: Sequence[Spans]) -> float:
        """Return what an update of these boxes is estimated to cost, in whole passes."""
        sizes = np.prod([each.sizes for each in spans], axis=0)  # (layers, boxes)
        seconds = float(self.position_s @ sizes.sum(axis=1)) + self.box_s * sizes.shape[1] + self.tail_s
        return float(seconds / self.pass_s)

    def largest_box(self) -> Box:
        """Return the largest box in the middle of the image, of its proportions, that pays; one pixel at least."""
        least, most = 0, 64
        while most - least > 1:
            tried = (least + most) // 2
            pays = self.pays(self.share(self.spans([self._box_of(tried)])))
            least, most = (tried, most) if pays else (least, tried)
        return self._box_of(least)

    def _box_of(self, part: int) -> Box:
        """Return the box in the middle of the image whose sides are so many 64ths of the image's."""
        lengths = [max(1, size * part // 64) for size in self.network.size]
        starts = [(size - length) // 2 for size, length in zip(self.network.size, lengths, strict=True)]
        return tuple((start, start + length) for start, length in zip(starts, lengths, strict=True))

    def pays(self, share: float) -> bool:
        """Tell whether an update of this share of a pass is worth it."""
        return share < _PAYS
