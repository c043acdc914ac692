"""Reading a region with its changed box in one kernel, for devices on which every call costs a launch.

`paste` gathers a region and then copies boxes over it, a call for every run of windows with their box at one place.
Here every value of the region is taken from the box where that covers it, else from the view: one launch whatever the
windows, and no index travels to the device, only where the boxes lie. In Triton where it is installed, else in PyTorch;
both are the same function, and tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from obeql.executor.devices import device_of
from obeql.executor.kernels.box_position import Place, Region
from obeql.executor.kernels.paste import View

__all__ = ["FusedRead", "read_in_torch"]

_Reader = Callable[[View, Tensor | None, Region, Place, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class FusedRead:
    """How the windows of a batch get a region of a value in one kernel; the counterpart of `paste.Read`.

    `images` int64 (n,) says whose map each window reads.
    """

    region: Region
    box: Place
    images: Tensor

    @property
    def n_bytes(self) -> int:
        """Nothing is kept for the read alone: where boxes lie is the batch's."""
        return 0

    def clean(self, view: View) -> Tensor:
        """Return the region of the clean maps, (n, C, height, width), channels-last."""
        return _reader(view.rows.device.type)(view, None, self.region, self.box, self.images)

    def run(self, view: View, value: Tensor) -> Tensor:
        """Return what is read of a per-window `value` (n, C, h, w): (n, C, height, width), channels-last."""
        return _reader(view.rows.device.type)(view, value, self.region, self.box, self.images)


def read_in_torch(view: View, value: Tensor | None, region: Region, box: Place, images: Tensor) -> Tensor:
    """Read `region` of maps of which `value` (n, C, h, w) is known at `box`; None: of the clean maps.

    Returns (n, C, height, width), channels-last.
    """
    device = view.rows.device
    (row_scale, col_scale), (row_shift, col_shift) = region.scale, region.shift
    rows = (region.tops * row_scale - row_shift)[:, None] + torch.arange(region.height, device=device)  # (n, height)
    cols = (region.lefts * col_scale - col_shift)[:, None] + torch.arange(region.width, device=device)  # (n, width)
    outside = view.height * view.width
    inside = ((rows >= 0) & (rows < view.height))[:, :, None] & ((cols >= 0) & (cols < view.width))[:, None, :]
    places = torch.where(inside, rows[:, :, None] * view.width + cols[:, None, :], outside)
    places = places + (images * (outside + 1))[:, None, None]
    clean = view.rows.index_select(0, places.view(-1)).view(*places.shape, -1)  # (n, height, width, C)
    if value is None:
        return clean.permute(0, 3, 1, 2)
    rows, cols = rows - box.tops[:, None], cols - box.lefts[:, None]
    within = ((rows >= 0) & (rows < box.height))[:, :, None] & ((cols >= 0) & (cols < box.width))[:, None, :]
    number = torch.arange(len(images), device=device)[:, None, None]
    changed = value.permute(0, 2, 3, 1)[
        number, rows.clamp(0, box.height - 1)[:, :, None], cols.clamp(0, box.width - 1)[:, None, :]
    ]
    return torch.where(within[..., None], changed, clean).permute(0, 3, 1, 2)


@cache
def _reader(kind: str) -> _Reader:
    """Return the function that reads on a kind of device: Triton's where it compiles for it and is installed."""
    if device_of(torch.device(kind)).has_triton:
        with suppress(ImportError):
            from obeql.executor.kernels.triton_read import read_in_triton  # noqa: PLC0415

            return read_in_triton
    return read_in_torch
