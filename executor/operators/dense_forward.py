"""DenseForward: run the whole network for every window. Exact by construction; the reference for the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.executor.devices import device_of
from obeql.executor.devices.allocator import give_back
from obeql.executor.devices.lanes import run_in_lanes
from obeql.executor.kernels.memory_format import as_positions, channels_last, from_positions
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.clean_pass import CleanPass
from obeql.executor.operators.coarse_first import coarse_levels
from obeql.executor.operators.layer_timer import LayerTimer, layer_runner
from obeql.executor.operators.region_masks import masks_in_boxes
from obeql.executor.operators.window_fill import Fill, WindowFill
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import DenseForward
from obeql.planner.regions import RegionGrid

__all__ = ["DenseRun", "as_computed", "occlude"]

T = TypeVar("T")
Windows = npt.NDArray[np.int64]


def as_computed(windows: Windows, logits: Tensor) -> Tensor:
    """Hand on the logits of a batch as they are: for `run` of an operator, where nothing is made of them."""
    return logits


def occlude(image: Tensor, fill: Fill, grid: WindowGrid, windows: Windows) -> Tensor:
    """Return copies of images (N, C, ...) with one window each hidden by the image's fill: (n, C, ...).

    `fill` is (C, 1, ...) or of an image's shape, of all images, or (N, ...), each its own; or what works it out.
    `windows` (n,) are flat window numbers, image by image, the last axis fastest. Values under a window are replaced,
    never multiplied.
    """
    images, places = np.divmod(windows, grid.n_windows)
    if isinstance(fill, WindowFill):
        return _occlude_one_by_one(image, fill, grid, images, places)
    fills = fill if fill.dim() == image.dim() else fill.expand(len(image), *fill.shape)
    if device_of(image.device).is_asynchronous:
        return _occlude_at_once(image, fills, grid, images, places)
    n_images, n_channels, *size = image.shape
    pixels = as_positions(image).reshape(n_images, -1)
    batch = pixels.index_select(0, torch.from_numpy(images)).view(-1, *size, n_channels)
    # NumPy writes a small window in a fifth of the time that a call of PyTorch takes.
    values, hidden = _as_array(batch), _as_array(as_positions(fills))
    is_plain = max(fills.shape[2:]) == 1
    is_listed = isinstance(grid, RegionGrid)
    extents = [[slice(s, s + n) for s, n in zip(axis.starts, axis.lengths, strict=True)] for axis in grid.axes]
    at = zip(*(place.tolist() for place in grid.places(places)), strict=True)
    for k, (number, place) in enumerate(zip(images.tolist(), at, strict=True)):
        box = tuple(axis[i] for axis, i in zip(extents, place, strict=True))
        found = hidden[number] if is_plain else hidden[(number, *box)]
        mask = grid.mask(int(places[k])) if is_listed else None
        if mask is not None:
            found = np.where(mask[..., None], found, values[(k, *box)])
        values[(k, *box)] = found
    return from_positions(batch)


def _occlude_one_by_one(image: Tensor, fill: WindowFill, grid: WindowGrid, images: Windows, places: Windows) -> Tensor:
    """Do what `occlude` does with values that are worked out from each window."""
    batch = image[torch.from_numpy(images).to(image.device)]
    at = zip(*(place.tolist() for place in grid.places(places)), strict=True)
    for k, place in enumerate(at):
        starts = [(axis.starts[i], axis.lengths[i]) for axis, i in zip(grid.axes, place, strict=True)]
        box = (slice(k, k + 1), slice(None), *(slice(start, start + n) for start, n in starts))
        mask = grid.mask(int(places[k]))
        inside = None if mask is None else torch.from_numpy(mask[None, None]).to(image.device)
        values = fill.values(batch[box], inside)
        batch[box] = values if inside is None else torch.where(inside, values, batch[box])
    return channels_last(batch)


def _as_array(x: Tensor) -> npt.NDArray[Any]:
    """Return the memory of a tensor on the CPU; the bits of bfloat16, which NumPy does not know."""
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def _occlude_at_once(image: Tensor, fills: Tensor, grid: WindowGrid, images: Windows, places: Windows) -> Tensor:
    """Do what `occlude` does in a few calls however many the windows, for devices where every call costs a launch."""
    told = [images]
    for axis, at in zip(grid.axes, grid.places(places), strict=True):
        start = np.asarray(axis.starts)[at]
        told += [start, start + np.asarray(axis.lengths)[at]]
    number, *bounds = device_of(image.device).upload(np.stack(told))
    size = image.shape[2:]
    hidden = torch.ones((), dtype=torch.bool, device=image.device)
    for along, (start, stop) in enumerate(zip(bounds[::2], bounds[1::2], strict=True)):
        position = torch.arange(size[along], device=image.device)
        inside = (position >= start[:, None]) & (position < stop[:, None])  # (n, size)
        hidden = hidden & inside.view(len(inside), 1, *(n if k == along else 1 for k, n in enumerate(size)))
    masks = masks_in_boxes(grid, places, np.zeros((len(size), len(places)), np.int64), tuple(size))
    if masks is not None:
        hidden = hidden & device_of(image.device).upload(masks)
    return channels_last(torch.where(hidden, fills[number], image[number]))


class DenseRun:
    """The operator prepared for one network, grid and plan; runs image after image, or several together."""

    def __init__(
        self, graph: LayerGraph, grid: WindowGrid, engine: DenseForward, clock: LayerTimer | None = None
    ) -> None:
        self.graph = graph if engine.channels_last else graph.in_plain_memory()
        self.grid = grid
        self.engine = engine
        self._clock = clock
        self._order = range(1, len(graph.layers))
        #: seconds that all runs so far have computed on a CPU, without what other processes took
        self.busy_s = 0.0
        self._levels = coarse_levels(grid)

    @property
    def needed(self) -> list[tuple[int, float]]:
        """Return no views: windows are computed from the image itself."""
        return []

    def run(
        self,
        clean: CleanPass,
        fill: Fill,
        windows: npt.NDArray[np.bool_] | None,
        done: Callable[[Windows, T], None],
        finish: Callable[[Windows, Tensor], T],
    ) -> None:
        """Compute the logits of the wanted windows; arguments as in `IncrementalRun.run`."""
        if windows is None:
            numbers = np.arange(len(clean.image) * self.grid.n_windows)
        else:
            numbers = np.flatnonzero(windows.reshape(-1))
        numbers = numbers[np.argsort(self._levels[numbers % self.grid.n_windows], kind="stable")]
        clock = None if self._clock is None else partial(self._clock.run, n_lanes=self.engine.n_lanes)

        def batch(part: Windows, stop: threading.Event) -> tuple[Windows, T]:
            values = occlude(clean.image, fill, self.grid, part)
            if not self.engine.channels_last:
                values = values.contiguous()
            logits = self.graph.forward_from({0: values}, self._order, layer_runner(clock, stop))
            give_back()
            return part, finish(part, logits)

        # As many batches for each lane, so that none waits for the last one.
        n_batches = -(-len(numbers) // (self.engine.batch * self.engine.n_lanes)) * self.engine.n_lanes
        parts = (part for part in np.array_split(numbers, max(1, n_batches)) if len(part))
        pieces = (partial(batch, part) for part in parts)
        run_in_lanes(pieces, self.engine.n_lanes, lambda found: done(*found), self._spent)

    def _spent(self, seconds: float) -> None:
        self.busy_s += seconds
