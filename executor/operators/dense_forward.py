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
    """Copies of image (1, C, H, W) with one window each hidden by fill (C, 1, 1) or (C, H, W): (n, C, H, W).

    `windows` (n,) are flat window numbers, row by row. Values under a window are replaced, never multiplied.
    """
    batch = image.new_empty((len(windows), *image.shape[1:])).contiguous(memory_format=torch.channels_last)
    batch.copy_(image)  # a copy even for one window: the image itself must not be written to
    n_cols = len(grid.cols)
    for k, number in enumerate(windows):
        row, col = divmod(int(number), n_cols)
        top, left = grid.rows.starts[row], grid.cols.starts[col]
        height, width = grid.rows.lengths[row], grid.cols.lengths[col]
        inside = (slice(None), slice(top, top + height), slice(left, left + width))
        batch[k][inside] = fill if fill.shape[1:] == (1, 1) else fill[inside]
    return batch


class DenseRun:
    """The operator prepared for one network, grid and plan; runs image after image."""

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
            numbers = np.arange(self.grid.n_windows)
        else:
            numbers = np.flatnonzero(windows.reshape(-1))
        clock = None if self._clock is None else self._clock.run
        for start in range(0, len(numbers), self.engine.batch):
            part = numbers[start : start + self.engine.batch]
            values = {0: occlude(clean.image, fill, self.grid, part)}
            done(part, self.graph.forward_from(values, self._order, clock))
            give_back()
