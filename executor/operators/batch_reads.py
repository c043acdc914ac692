"""How the windows of one batch read values: gathers and copies on a CPU, one kernel each elsewhere.

Part of `incremental_forward`, which asks for the reads of every layer while it works a batch out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from obeql.executor.devices import device_of
from obeql.executor.kernels.box_position import Place, Region
from obeql.executor.kernels.fused_read import FusedRead
from obeql.executor.kernels.paste import Boxes, Ints, Read, plan_read
from obeql.planner.geometry import AxisWindow

__all__ = ["AnyRead", "BatchReads"]

AnyRead = Read | FusedRead


class BatchReads:
    """Works out the reads of a batch of n windows with one box a layer.

    `boxes` are the windows' boxes by layer; `images` (n,) the numbers of their images; `size` gives that
    of a layer's map. What the device is told of all of it goes there in one copy.
    """

    def __init__(
        self, boxes: Mapping[int, Boxes], images: Ints, size: Callable[[int], tuple[int, ...]], device: torch.device
    ) -> None:
        self._boxes = boxes
        self._numbers = images
        self._size = size
        self._device = device
        self._fuses = device_of(device).fuses_reads
        told = device_of(device).upload(np.concatenate([images[None], *(box.starts for box in boxes.values())]))
        #: the numbers of the windows' images, int64 (n,), on the device
        self.images: Tensor = told[0]
        #: the boxes of each layer, on the device
        starts = told[1:].view(len(boxes), -1, len(images))
        self.places = {
            layer: Place(start, box.sizes) for start, (layer, box) in zip(starts, boxes.items(), strict=True)
        }

    def of_image(self) -> AnyRead:
        """Read maps of the image's size at the windows' own boxes."""
        box = self._boxes[0]
        if self._fuses:
            return FusedRead(Region.of(self.places[0], None), self.places[0], self.images)
        return plan_read(self._size(0), box, Boxes(box.starts, (0,) * len(box.sizes)), self._numbers, self._device)

    def of_input(self, value: int, layer: int, window: Sequence[AxisWindow] | None) -> AnyRead:
        """Read what `layer`, which has such a window, needs of the output of the layer `value`."""
        region, box = self._boxes[layer].read_by(window), self._boxes[value]
        if self._fuses and not region.same_as(box):
            return FusedRead(Region.of(self.places[layer], window), self.places[value], self.images)
        return plan_read(self._size(value), region, box, self._numbers, self._device)

    def of_whole(self, value: int) -> AnyRead:
        """Read the whole maps of a layer's output."""
        box, size = self._boxes[value], self._size(value)
        everywhere = Boxes(np.zeros_like(box.starts), size)
        if self._fuses and not everywhere.same_as(box):
            return FusedRead(Region.whole(self.places[value], size), self.places[value], self.images)
        return plan_read(self._size(value), everywhere, box, self._numbers, self._device)
