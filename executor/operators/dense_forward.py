"""DenseForward: run the whole network for every window. Exact by construction; the reference for the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.executor.allocator import give_back
from obeql.executor.layer_clock import LayerClock
from obeql.executor.materialise import CleanPass
from obeql.executor.network.graph import LayerGraph
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import DenseForward

__all__ = ["DenseRun", "occlude"]

Windows = npt.NDArray[np.int64]


def occlude(image: Tensor, fill: Tensor, grid: WindowGrid, windows: Windows) -> Tensor:
    """Copies of images (N, C, H, W) with one window each hidden by the image's fill: (n, C, H, W).

    `fill` is (C, 1, 1) or (C, H, W), of all images, or (N, ...), each its own. `windows` (n,) are flat window numbers,
    image by image, row by row. Values under a window are replaced, never multiplied.
    """
    images, places = np.divmod(windows, grid.n_windows)
    # A copy even for one window: the image itself must not be written to.
    batch = image[torch.from_numpy(images).to(image.device)].contiguous(memory_format=torch.channels_last)
    fills = fill if fill.dim() == 4 else fill.expand(len(image), *fill.shape)
    n_cols = len(grid.cols)
    for k, (number, place) in enumerate(zip(images, places, strict=True)):
        fill = fills[number]
        row, col = divmod(int(place), n_cols)
        top, left = grid.rows.starts[row], grid.cols.starts[col]
        height, width = grid.rows.lengths[row], grid.cols.lengths[col]
        inside = (slice(None), slice(top, top + height), slice(left, left + width))
        batch[k][inside] = fill if fill.shape[1:] == (1, 1) else fill[inside]
    return batch


class DenseRun:
    """The operator prepared for one network, grid and plan; runs image after image, or several together."""

    def __init__(
        self, graph: LayerGraph, grid: WindowGrid, engine: DenseForward, clock: LayerClock | None = None
    ) -> None:
        self.graph = graph
        self.grid = grid
        self.engine = engine
        self._clock = clock
        self._order = range(1, len(graph.layers))

    @property
    def needed(self) -> list[tuple[int, float]]:
        """No views: windows are computed from the image itself."""
        return []

    def run(
        self,
        clean: CleanPass,
        fill: Tensor,
        windows: npt.NDArray[np.bool_] | None,
        done: Callable[[Windows, Tensor], None],
    ) -> None:
        """Compute the logits of the wanted windows; arguments as in `IncrementalRun.run`."""
        if windows is None:
            numbers = np.arange(len(clean.image) * self.grid.n_windows)
        else:
            numbers = np.flatnonzero(windows.reshape(-1))
        clock = None if self._clock is None else self._clock.run
        for start in range(0, len(numbers), self.engine.batch):
            part = numbers[start : start + self.engine.batch]
            values = {0: occlude(clean.image, fill, self.grid, part)}
            done(part, self.graph.forward_from(values, self._order, clock))
            give_back()
