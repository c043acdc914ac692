"""MONAI's `OcclusionSensitivity`: its constructor, its call, its numbers; faster where a module runs incrementally.

`from obeql.compat.monai import OcclusionSensitivity` in place of `from monai.visualize import OcclusionSensitivity`.
Windows come from `monai_windows` and go through `live_network`, or through the module itself.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from obeql.compat.live_network import live_network
from obeql.compat.monai_windows import Faded, TimesMean, as_many, fading_kernel, importance, starts, windows
from obeql.executor.operators.window_fill import WindowFill
from obeql.planner.grid import AxisGrid, WindowGrid

__all__ = ["OcclusionSensitivity"]

_MODES = ("gaussian", "mean_patch", "mean_img")


@dataclass(frozen=True, slots=True)
class _Area:
    """The part of an image that windows lie in: one (start, size) and one window length an axis."""

    sides: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]

    @property
    def where(self) -> tuple[slice, ...]:
        return tuple(slice(start, start + size) for start, size in self.sides)


class OcclusionSensitivity:
    """Show what a network says of an image while one part of it after the other is hidden.

    The interface of `monai.visualize.OcclusionSensitivity` 1.6. `mask_size` is the side of a window, or one an axis;
    `overlap` the share of it that the next window hides too; `n_batch` the windows in a batch; `verbose` draws a bar.
    `mode` is what hides: `gaussian`, `mean_patch`, `mean_img`, a float, or a function of the image and the window.
    `activate` makes probabilities of outputs: a sigmoid for images of one channel, else a softmax; or a function.

    Raises NotImplementedError for another mode.
    """

    def __init__(
        self,
        nn_module: nn.Module,
        mask_size: int | Sequence[int] = 16,
        n_batch: int = 16,
        verbose: bool = True,
        mode: str | float | Callable[..., Tensor] = "gaussian",
        overlap: float | Sequence[float] = 0.6,
        activate: bool | Callable[..., Tensor] = True,
    ) -> None:
        if isinstance(mode, str) and mode not in _MODES:
            raise NotImplementedError(f"mode is one of {', '.join(_MODES)}, a float or a function, not {mode!r}.")
        self.nn_module = nn_module
        self.mask_size = mask_size
        self.n_batch = n_batch
        self.verbose = verbose
        self.overlap = overlap
        self.activate = activate
        self.mode = mode

    def __call__(self, x: Tensor, b_box: Sequence[int] | None = None, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the map (1, K, H, W, ..) of outputs with windows hidden, and the largest class (1, 1, H, W, ..).

        `x` is one image (1, C, H, W, ..). `b_box` (min, max, min, max, ..) limits the map, -1 to the image's border;
        `kwargs` go to the module. Both are MONAI's tensors where MONAI is loaded. Where the module runs incrementally,
        batches are chosen by memory and measured speed.

        Raises TypeError for what is no tensor, RuntimeError for whole numbers, ValueError for no image or several, a
        window larger than the image or the box, and sizes or an overlap that do not fit; and what the module raises.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x is a tensor (1, C, H, W), not {type(x).__name__}; torch.as_tensor(x) makes one.")
        if x.dim() < 3:
            raise ValueError(f"x is one image, (1, C, H, W), or a signal or volume; its shape is {tuple(x.shape)}.")
        if not x.is_floating_point():
            raise RuntimeError(f"x holds {x.dtype}, of which no mean can be taken: give x.float().")
        if x.shape[0] != 1:
            raise ValueError(f"x is one image, (1, C, H, W), but has a batch of {x.shape[0]}; call it once an image.")
        area = self._area(x, b_box)
        overlaps = as_many(self.overlap, x.dim() - 2, "overlap")
        if self.n_batch < 1:
            raise ValueError(f"n_batch is at least 1, not {self.n_batch}.")
        if any(not 0 <= overlap < 1 for overlap in overlaps):
            raise ValueError(f"overlap is at least 0 and below 1, not {self.overlap}.")
        axes = [
            starts(size, length, overlap)
            for (_, size), length, overlap in zip(area.sides, area.lengths, overlaps, strict=True)
        ]
        with _in_eval_mode(self.nn_module):
            outputs = self._outputs(x, area, axes, kwargs)
            blended = self._blended(x, area, windows(axes, area.lengths), outputs)
            if b_box is not None:
                blended = _cropped(x, area, blended, b_box)
            blended = _as_monai(blended)
            return blended, blended.argmax(dim=1, keepdim=True)

    def _area(self, x: Tensor, b_box: Sequence[int] | None) -> _Area:
        """Return where windows lie: the image, or the box with half a window around it."""
        n_axes, sizes = x.dim() - 2, tuple(x.shape[2:])
        lengths = as_many(self.mask_size, n_axes, "mask_size")
        if any(length < 1 for length in lengths):
            raise ValueError(f"mask_size is at least 1 along each axis, not {self.mask_size}.")
        sides = tuple((0, size) for size in sizes)
        if b_box is not None:
            if len(b_box) != 2 * n_axes:
                raise ValueError(f"b_box has a least and a largest value for each of {n_axes} axes, not {list(b_box)}.")
            found = []
            for low, high, length, size in zip(b_box[::2], b_box[1::2], lengths, sizes, strict=True):
                edge = (length - 1) // 2
                start, stop = max(low - edge, 0), size if high == -1 else min(high + edge, size)
                if start >= stop:
                    raise ValueError(f"b_box {list(b_box)} holds nothing of an image of {_by(sizes)}.")
                found.append((start, stop - start))
            sides = tuple(found)
            lengths = tuple(min(length, size) for length, (_, size) in zip(lengths, sides, strict=True))
        if any(length > size for length, (_, size) in zip(lengths, sides, strict=True)):
            raise ValueError(f"The mask of {_by(lengths)} is larger than the image of {_by(sizes)}.")
        return _Area(sides, lengths)

    def _outputs(
        self, x: Tensor, area: _Area, axes: Sequence[Sequence[int]], kwargs: dict[str, Any]
    ) -> Iterator[Tensor]:
        """Yield the outputs (n, K) of windows, `n_batch` at a time, activated."""
        placed = windows(
            [[start + at for at in axis] for axis, (start, _) in zip(axes, area.sides, strict=True)], area.lengths
        )
        fill = self._fill(x, area)
        with tqdm(total=-(-len(placed) // self.n_batch), disable=not self.verbose) as bar:
            found = None if kwargs or fill is None else self._incremental(x, area, axes, fill, bar)
            for first in range(0, len(placed), self.n_batch):
                if found is not None:
                    yield self._activated(x, found[first : first + self.n_batch])
                    continue
                batch = self._hidden(x, fill, placed[first : first + self.n_batch])
                yield self._activated(x, self.nn_module(batch, **kwargs))
                bar.update()

    def _incremental(
        self, x: Tensor, area: _Area, axes: Sequence[Sequence[int]], fill: Tensor | WindowFill, bar: Any
    ) -> Tensor | None:
        """Return the outputs (windows, K) of all windows; None where the incremental engine does not apply."""
        if x.dim() not in (4, 5) or not isinstance(self.nn_module, nn.Module):
            return None
        plain = x.as_subclass(torch.Tensor)
        returned = self.nn_module(plain.clone())  # into which it may write
        network = live_network(self.nn_module, plain, returned, math.prod(map(len, axes)))
        if network is None:
            return None
        axis_grids = [
            AxisGrid(size, tuple(start + at for at in axis), (length,) * len(axis))
            for size, axis, length, (start, _) in zip(x.shape[2:], axes, area.lengths, area.sides, strict=True)
        ]
        strides = [
            axis[1] - axis[0] if len(axis) > 1 else length for axis, length in zip(axes, area.lengths, strict=True)
        ]
        grid = WindowGrid(tuple(axis_grids), tuple(area.lengths), tuple(strides), "cover")
        outputs = network.outputs(
            self.nn_module, plain, fill, grid, returned, lambda share: bar.update(int(share * bar.total) - bar.n)
        )
        return None if outputs is None else outputs[:, 0]

    def _fill(self, x: Tensor, area: _Area) -> Tensor | WindowFill | None:
        """Return what hides windows; None for a function of the user."""
        if callable(self.mode):
            return None
        if isinstance(self.mode, float) or self.mode == "mean_img":
            value = self.mode if isinstance(self.mode, float) else float(x.mean())
            return torch.full((1, x.shape[1], *[1] * (x.dim() - 2)), value, dtype=x.dtype, device=x.device)
        if self.mode == "gaussian":
            return Faded(fading_kernel(area.lengths, x))
        if self.mode == "mean_patch":
            return TimesMean()
        raise TypeError(f"mode is a name, a float or a function, not {self.mode!r}; write a number as a float.")

    def _hidden(self, x: Tensor, fill: Tensor | WindowFill | None, placed: Sequence[tuple[slice, ...]]) -> Tensor:
        """Return copies of the image, (n, C, H, W, ..), each with one window hidden."""
        batch = torch.repeat_interleave(x, len(placed), 0)
        for row, where in enumerate(placed):
            at = (slice(row, row + 1), slice(None), *where)
            pixels = batch[at]
            if isinstance(fill, WindowFill):
                batch[at] = fill.values(pixels, None)
            elif fill is not None:
                batch[at] = pixels * 0 + fill  # as MONAI does it, which keeps what is no number
            elif callable(self.mode):
                batch[at] = self.mode(x, pixels)
        return batch

    def _activated(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Return probabilities, as MONAI reads outputs: by the channels of the image."""
        if callable(self.activate):
            return self.activate(outputs)
        if not self.activate:
            return outputs
        return outputs.sigmoid() if x.shape[1] == 1 else outputs.softmax(1)

    def _blended(
        self, x: Tensor, area: _Area, placed: Sequence[tuple[slice, ...]], outputs: Iterator[Tensor]
    ) -> Tensor:
        """Return the map (1, K, *area), float32: each window's outputs where it lies, averaged where they overlap."""
        weights = importance(area.lengths, self.mode == "gaussian", x)
        sizes = [size for _, size in area.sides]
        counts = torch.zeros(sizes, dtype=x.dtype, device=x.device)
        total: Tensor | None = None
        number = 0
        for batch in outputs:
            if not isinstance(batch, Tensor) or batch.dim() != 2:
                shape = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
                raise ValueError(f"The module returns {shape} for a batch of windows; (N, classes) is needed.")
            if total is None:
                total = torch.zeros((1, batch.shape[1], *sizes), dtype=x.dtype, device=x.device)
            for row in batch.as_subclass(torch.Tensor):
                where = placed[number]
                total[0][(slice(None), *where)].addcmul_(row.to(x.dtype).reshape(-1, *[1] * len(sizes)), weights)
                counts[where] += weights
                number += 1
        assert total is not None  # there is a window
        return total.div_(counts).float()  # whatever the image is


def _cropped(x: Tensor, area: _Area, blended: Tensor, b_box: Sequence[int]) -> Tensor:
    """Return the part of the map that a box asks for."""
    whole = torch.zeros((*blended.shape[:2], *x.shape[2:]), dtype=blended.dtype, device=blended.device)
    whole[(slice(None), slice(None), *area.where)] = blended
    where = [
        slice(max(low, 0), max(high if high > 0 else size, low, 0))
        for low, high, size in zip(b_box[::2], b_box[1::2], x.shape[2:], strict=True)
    ]
    return whole[(slice(None), slice(None), *where)].contiguous()


@contextmanager
def _in_eval_mode(module: Any) -> Iterator[None]:
    """Leave out gradients and put a module into evaluation mode; afterwards each of its parts is as it was."""
    parts = [(part, part.training) for part in module.modules()] if isinstance(module, nn.Module) else []
    try:
        with torch.no_grad():
            if hasattr(module, "eval"):
                module.eval()
            yield
    finally:
        if parts and parts[0][1]:
            module.train()
        for part, training in parts:
            part.training = training


def _as_monai(found: Tensor) -> Any:
    """Return a tensor of MONAI's class where a program uses MONAI."""
    loaded = sys.modules.get("monai.data.meta_tensor")
    return found if loaded is None else loaded.MetaTensor(found)


def _by(sizes: Sequence[Any]) -> str:
    return "x".join(str(size[1] if isinstance(size, tuple) else size) for size in sizes)
