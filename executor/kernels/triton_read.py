"""`fused_read` as a Triton kernel. Importing this module raises ImportError where Triton is not installed.

With the variable TRITON_INTERPRET=1 set before the import it runs on the CPU, slowly, which is how tests compare it
with its twin in PyTorch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from obeql.executor.kernels.box_position import Place, Region
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
    region_tops_ptr,
    region_lefts_ptr,
    box_tops_ptr,
    box_lefts_ptr,
    n_positions,
    n_channels,
    map_height,
    map_width,
    region_height,
    region_width,
    row_scale,
    col_scale,
    row_shift,
    col_shift,
    box_height,
    box_width,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    POSITIONS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = position < n_positions
    window = position // (region_height * region_width)
    place = position % (region_height * region_width)
    row = tl.load(region_tops_ptr + window, mask=known, other=0) * row_scale - row_shift + place // region_width
    col = tl.load(region_lefts_ptr + window, mask=known, other=0) * col_scale - col_shift + place % region_width
    box_row = row - tl.load(box_tops_ptr + window, mask=known, other=0)
    box_col = col - tl.load(box_lefts_ptr + window, mask=known, other=0)
    changed = known & (box_row >= 0) & (box_row < box_height) & (box_col >= 0) & (box_col < box_width)
    inside = (row >= 0) & (row < map_height) & (col >= 0) & (col < map_width)
    outside = map_height * map_width
    image = tl.load(images_ptr + window, mask=known, other=0)
    view_row = image * (outside + 1) + tl.where(inside, row * map_width + col, outside)
    stored = channel < n_channels
    clean = tl.load(
        rows_ptr + view_row[:, None] * n_channels + channel[None, :],
        mask=(known & ~changed)[:, None] & stored[None, :],
        other=0,
    )
    at = window.to(tl.int64) * stride_n + box_row * stride_h + box_col * stride_w
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
    n_positions = n * region.height * region.width
    out = view.rows.new_empty((n, region.height, region.width, n_channels))
    if out.numel() == 0:
        return out.permute(0, 3, 1, 2)
    changed: Any = view.rows if value is None else value
    strides = (0, 0, 0, 0) if value is None else value.stride()
    height, width = (0, 0) if value is None else (box.height, box.width)
    grid = (triton.cdiv(n_positions, _POSITIONS), triton.cdiv(n_channels, _CHANNELS))
    with _current(view.rows.device):
        _kernel[grid](
            view.rows,
            changed,
            out,
            images,
            region.tops,
            region.lefts,
            box.tops,
            box.lefts,
            n_positions,
            n_channels,
            view.height,
            view.width,
            region.height,
            region.width,
            *region.scale,
            *region.shift,
            height,
            width,
            *strides,
            POSITIONS=_POSITIONS,
            CHANNELS=_CHANNELS,
        )
    return out.permute(0, 3, 1, 2)


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Make the device current, as Triton wants it; the interpreter needs none."""
    if device.type == "cpu":
        return nullcontext()
    context: AbstractContextManager[Any] = getattr(torch, device.type).device(device.index)
    return context
