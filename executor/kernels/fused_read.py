"""Reading a region with its changed box in one kernel, for devices on which every call costs a launch.

`paste` gathers a region and then copies boxes over it, a call for every run of windows with their box at one place.
Here every value of the region is taken from the box where that covers it, else from the view: one launch whatever the
windows, and no index travels to the device, only where the boxes lie. In Triton where it is installed, else in PyTorch;
both are the same function, and tests compare them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from obeql.executor.devices import device_of
from obeql.executor.kernels.box_position import Place, Region
from obeql.executor.kernels.memory_format import as_positions, from_positions
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
        """Return the region of the clean maps, (n, C, *sizes), channels-last."""
        return _reader(view.rows.device.type)(view, None, self.region, self.box, self.images)

    def run(self, view: View, value: Tensor) -> Tensor:
        """Return what is read of a per-window `value` (n, C, ...): (n, C, *sizes), channels-last."""
        return _reader(view.rows.device.type)(view, value, self.region, self.box, self.images)


def read_in_torch(view: View, value: Tensor | None, region: Region, box: Place, images: Tensor) -> Tensor:
    """Read `region` of maps of which `value` (n, C, ...) is known at `box`; None: of the clean maps.

    Returns (n, C, *sizes), channels-last.
    """
    device, n_axes = view.rows.device, len(view.shape)
    outside = step = math.prod(view.shape)
    places = images.view(-1, *(1,) * n_axes) * (outside + 1)
    inside = within = torch.ones((), dtype=torch.bool, device=device)
    at = torch.zeros((), dtype=torch.int64, device=device)
    changed_at = []
    for axis, extent in enumerate(view.shape):
        step //= extent
        first = region.starts[axis] * region.scale[axis] - region.shift[axis]
        position = first[:, None] + torch.arange(region.sizes[axis], device=device)
        position = position.view(len(images), *(region.sizes[k] if k == axis else 1 for k in range(n_axes)))
        inside = inside & (position >= 0) & (position < extent)
        at = at + position * step
        in_box = position - box.starts[axis].view(-1, *(1,) * n_axes)
        within = within & (in_box >= 0) & (in_box < box.sizes[axis])
        changed_at.append(in_box.clamp(0, box.sizes[axis] - 1))
    places = places + torch.where(inside, at, outside)
    clean = view.rows.index_select(0, places.view(-1)).view(*places.shape, -1)  # (n, *sizes, C)
    if value is None:
        return from_positions(clean)
    number = torch.arange(len(images), device=device).view(-1, *(1,) * n_axes)
    changed = as_positions(value)[(number, *changed_at)]
    return from_positions(torch.where(within[..., None], changed, clean))


@cache
def _reader(kind: str) -> _Reader:
    """Return the function that reads on a kind of device: Triton's where it compiles for it and is installed."""
    if device_of(torch.device(kind)).has_triton:
        with suppress(ImportError):
            from obeql.executor.kernels.triton_read import read_in_triton  # noqa: PLC0415

            return read_in_triton
    return read_in_torch
