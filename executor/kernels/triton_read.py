"""`fused_read` as a Triton kernel. Importing this module raises ImportError where Triton is not installed.

With the variable TRITON_INTERPRET=1 set before the import it runs on the CPU, slowly, which is how tests compare it
with its twin in PyTorch.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from obeql.executor.kernels.box_position import Place, Region
from obeql.executor.kernels.memory_format import from_positions
from obeql.executor.kernels.paste import View

__all__ = ["read_in_triton"]

#: Positions and channels that one program writes; a power of two each.
_POSITIONS, _CHANNELS = 32, 64


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _kernel(  # type: ignore[no-untyped-def]
    rows_ptr,
    value_ptr,
    out_ptr,
    images_ptr,
    region_starts_ptr,
    box_starts_ptr,
    n_windows,
    n_positions,
    n_channels,
    stride_n,
    stride_c,
    map_size,
    region_size,
    scale,
    shift,
    box_size,
    strides,
    AXES: tl.constexpr,  # noqa: N803
    POSITIONS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = position < n_positions
    area = 1
    outside = 1
    for axis in tl.static_range(AXES):
        area *= region_size[axis]
        outside *= map_size[axis]
    window = position // area
    rest = position % area
    changed = known
    inside = known
    map_row = tl.zeros_like(position)
    at = window.to(tl.int64) * stride_n
    row_step = 1
    # From the last axis, along which positions follow each other, to the first.
    for axis in tl.static_range(AXES - 1, -1, -1):
        start = tl.load(region_starts_ptr + axis * n_windows + window, mask=known, other=0)
        place = start * scale[axis] - shift[axis] + rest % region_size[axis]
        rest = rest // region_size[axis]
        in_box = place - tl.load(box_starts_ptr + axis * n_windows + window, mask=known, other=0)
        changed = changed & (in_box >= 0) & (in_box < box_size[axis])
        inside = inside & (place >= 0) & (place < map_size[axis])
        map_row += place * row_step
        row_step *= map_size[axis]
        at += in_box * strides[axis]
    image = tl.load(images_ptr + window, mask=known, other=0)
    view_row = image * (outside + 1) + tl.where(inside, map_row, outside)
    stored = channel < n_channels
    clean = tl.load(
        rows_ptr + view_row[:, None] * n_channels + channel[None, :],
        mask=(known & ~changed)[:, None] & stored[None, :],
        other=0,
    )
    new = tl.load(
        value_ptr + at[:, None] + channel[None, :] * stride_c,
        mask=changed[:, None] & stored[None, :],
        other=0,
    )
    tl.store(
        out_ptr + position[:, None].to(tl.int64) * n_channels + channel[None, :],
        tl.where(changed[:, None], new, clean),
        mask=known[:, None] & stored[None, :],
    )


def read_in_triton(view: View, value: Tensor | None, region: Region, box: Place, images: Tensor) -> Tensor:
    """Read a region as `fused_read.read_in_torch` does, on a device that Triton compiles for or in its interpreter."""
    n, n_channels = len(images), view.rows.shape[1]
    n_positions = n * math.prod(region.sizes)
    out = view.rows.new_empty((n, *region.sizes, n_channels))
    if out.numel() == 0:
        return from_positions(out)
    changed: Any = view.rows if value is None else value
    strides = (0,) * (2 + len(view.shape)) if value is None else value.stride()
    sizes = (0,) * len(view.shape) if value is None else box.sizes
    grid = (triton.cdiv(n_positions, _POSITIONS), triton.cdiv(n_channels, _CHANNELS))
    with _current(view.rows.device):
        _kernel[grid](
            view.rows,
            changed,
            out,
            images,
            region.starts.contiguous(),
            box.starts.contiguous(),
            n,
            n_positions,
            n_channels,
            *strides[:2],
            view.shape,
            region.sizes,
            region.scale,
            region.shift,
            sizes,
            strides[2:],
            AXES=len(view.shape),
            POSITIONS=_POSITIONS,
            CHANNELS=_CHANNELS,
        )
    return from_positions(out)


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Make the device current, as Triton wants it; the interpreter needs none."""
    if device.type == "cpu":
        return nullcontext()
    context: AbstractContextManager[Any] = getattr(torch, device.type).device(device.index)
    return context
