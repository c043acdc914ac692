"""How the windows of one batch read values: gathers and copies on a CPU, one kernel each elsewhere.

Part of `incremental_forward`, which asks for the reads of every layer while it works a batch out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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

    `boxes` are the windows' boxes by layer; `images` (n,) the numbers of their images; `size` gives the (height, width)
    of a layer's map. What the device is told of all of it goes there in one copy.
    """

    def __init__(
        self, boxes: Mapping[int, Boxes], images: Ints, size: Callable[[int], tuple[int, int]], device: torch.device
    ) -> None:
        self._boxes = boxes
        self._numbers = images
        self._size = size
        self._device = device
        self._fuses = device_of(device).fuses_reads
        starts = [each for box in boxes.values() for each in (box.tops, box.lefts)]
        told = device_of(device).upload(np.stack([images, *starts]))
        #: the numbers of the windows' images, int64 (n,), on the device
        self.images: Tensor = told[0]
        #: the boxes of each layer, on the device
        self.places = {
            layer: Place(told[1 + 2 * k], told[2 + 2 * k], box.height, box.width)
            for k, (layer, box) in enumerate(boxes.items())
        }

    def of_image(self) -> AnyRead:
        """Read maps of the image's size at the windows' own boxes."""
        box = self._boxes[0]
        if self._fuses:
            return FusedRead(Region.of(self.places[0], None), self.places[0], self.images)
        return plan_read(self._size(0), box, Boxes(box.tops, box.lefts, 0, 0), self._numbers, self._device)

    def of_input(self, value: int, layer: int, window: tuple[AxisWindow, AxisWindow] | None) -> AnyRead:
        """Read what `layer`, which has such a window, needs of the output of the layer `value`."""
        region, box = _read_by(self._boxes[layer], window), self._boxes[value]
        if self._fuses and not region.same_as(box):
            return FusedRead(Region.of(self.places[layer], window), self.places[value], self.images)
        return plan_read(self._size(value), region, box, self._numbers, self._device)

    def of_whole(self, value: int) -> AnyRead:
        """Read the whole maps of a layer's output."""
        box, (height, width) = self._boxes[value], self._size(value)
        zeros = np.zeros(len(self._numbers), np.int64)
        everywhere = Boxes(zeros, zeros, height, width)
        if self._fuses and not everywhere.same_as(box):
            return FusedRead(Region.whole(self.places[value], height, width), self.places[value], self.images)
        return plan_read(self._size(value), everywhere, box, self._numbers, self._device)


def _read_by(box: Boxes, window: tuple[AxisWindow, AxisWindow] | None) -> Boxes:
    """Return what a layer of such a window reads for its output boxes."""
    if window is None:
        return box
    rows, cols = window
    return Boxes(
        box.tops * rows.stride - rows.pad,
        box.lefts * cols.stride - cols.pad,
        (box.height - 1) * rows.stride + rows.extent,
        (box.width - 1) * cols.stride + cols.extent,
    )
