"""FrameUpdate: forward images one after another, each from the last one where few pixels differ.

PREDICT runs it: over the frames of a camera that stands still it computes what moves. The outputs of the layers for the
last image are materialised views, as in `incremental_forward`, which are brought up to date in place. After Nakandala
et al., "Incremental and Approximate Computations for Accelerating Deep CNN Inference" (TODS 2020), with several true
boxes instead of one, and exact: a position is kept only where all that it reads is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from obeql.executor.kernels.box_position import Place
from obeql.executor.kernels.memory_format import channels_last
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.changed_boxes import changed_boxes, joined_boxes
from obeql.planner.boxes import Spans
from obeql.planner.geometry import read_span
from obeql.planner.physical.frames import FrameUpdate

__all__ = ["FrameCount", "FrameUpdateRun"]

#: Images of a row of unlike ones of which one is compared with the one before it.
_MOST_UNCOMPARED = 16


@dataclass(slots=True)
class FrameCount:
    """What a run did: images that went through the whole network, and those that were updated from the last one.

    `computed` are the multiply-accumulates of the updated ones over those of whole passes, added up.
    """

    whole: int = 0
    updated: int = 0
    computed: float = 0.0


class FrameUpdateRun:
    """The operator for a network that is on its device. It keeps the last image: one thread runs it.

    Views are kept from the second image on whose pixels hardly differ from the last one's. Of images that are unlike,
    fewer and fewer are compared, at last one of sixteen.
    """

    def __init__(self, graph: LayerGraph, operator: FrameUpdate) -> None:
        self.graph = graph
        self.operator = operator
        self.count = FrameCount()
        self._order = [i for i, on in enumerate(operator.regions) if on]
        self._whole = [i for i, on in enumerate(operator.regions) if not on]
        self._last: Tensor | None = None
        self._views: dict[int, Tensor] = {}
        #: comparisons in a row after which a whole pass was cheaper, and images that go uncompared now
        self._in_vain = self._uncompared = 0

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (1, K) of an image (1, C, ...)."""
        spans = None
        if self._uncompared:
            self._uncompared -= 1
        else:
            spans = self._changed(image)
            self._in_vain = 0 if spans is not None else self._in_vain + 1
            self._uncompared = 0 if self._in_vain < 2 else min(2 ** (self._in_vain - 1), _MOST_UNCOMPARED) - 1
        self._last = image
        if spans is None:
            self._views.clear()
            self.count.whole += 1
            return self.graph.forward(image)
        if not self._views:
            self.count.whole += 1
            views, logits = self.graph.materialise(image, self._order)
            # A layer may hand on what it reads, or a part of it, and the image is the caller's: views are written to.
            self._views = {i: channels_last(view.clone()) for i, view in views.items()}
            return logits
        self.count.updated += 1
        self._update(image, spans)
        return self.graph.forward_from(self._views, self._whole)

    def _changed(self, image: Tensor) -> Sequence[Spans] | None:
        """Return which positions of each layer differ from the last image's; None where a whole pass is cheaper."""
        operator = self.operator
        if operator.why_whole or self._last is None or self._last.shape != image.shape:
            return None
        differs = (self._last != image).any(dim=1)[0]
        boxes = joined_boxes(changed_boxes(differs.cpu().numpy()), lambda some: operator.share(operator.spans(some)))
        spans = operator.spans(boxes)
        return spans if operator.pays(operator.share(spans)) else None

    def _update(self, image: Tensor, spans: Sequence[Spans]) -> None:
        """Bring the views up to date, layer by layer: all boxes of a layer before any of the next."""
        macs = 0.0
        for i in self._order:
            spec = self.operator.network.layers[i]
            for box in range(spans[0].first.shape[1]):
                extents = [(int(each.first[i, box]), int(each.end[i, box])) for each in spans]
                into = (slice(None), slice(None), *(slice(*extent) for extent in extents))
                self._views[i][into] = image[into] if i == 0 else self._computed(i, extents)
                size = 1.0
                for (start, stop), whole in zip(extents, spec.shape[1:], strict=True):
                    size *= (stop - start) / whole
                macs += size * spec.macs
        macs += sum(self.operator.network.layers[i].macs for i in self._whole)
        self.count.computed += macs / max(1, self.operator.network.macs)

    def _computed(self, i: int, extents: Sequence[tuple[int, int]]) -> Tensor:
        """Return a layer's values at a box, from views of its inputs that are up to date."""
        layer = self.graph.layers[i]
        inputs = [self._read(j, extents, i) for j in layer.inputs]
        starts = torch.tensor([[start] for start, _ in extents], device=inputs[0].device)
        return layer.forward_region(inputs, Place(starts, tuple(stop - start for start, stop in extents)))

    def _read(self, j: int, extents: Sequence[tuple[int, int]], reader: int) -> Tensor:
        """Return what a layer reads of a view to compute a box; what lies outside the map has the layer's own value."""
        layer, view = self.graph.layers[reader], self._views[j]
        inside, beyond = [slice(None), slice(None)], []
        for axis, (first, end) in enumerate(extents):
            size = view.shape[2 + axis]
            start, stop = (first, end) if layer.window is None else read_span(first, end, layer.window[axis])
            inside.append(slice(max(0, start), min(size, stop)))
            beyond.append((max(0, -start), max(0, stop - size)))
        region = view[tuple(inside)]
        if not any(map(any, beyond)):
            return channels_last(region)
        return F.pad(region, [n for pair in reversed(beyond) for n in pair], value=layer.outside)
