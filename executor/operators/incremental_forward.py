"""IncrementalForward: recompute only the boxes that each window changes.

Each layer's output for the clean image is a materialised view. For a batch of windows with equal box sizes a layer
reads the region its output boxes need (clean values with the changed box pasted in), runs without padding, and so
on until the plan turns to whole maps. After Krypton (Nakandala et al., SIGMOD 2019, section 3), with true boxes
instead of one upper bound and for any captured network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.executor.kernels.paste import Boxes, View, read_region
from obeql.executor.materialise import CleanPass
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers import Layer, Place
from obeql.planner.boxes import AxisGroup
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import IncrementalForward
from obeql.planner.schedule import box_plan

__all__ = ["IncrementalRun"]

Windows = npt.NDArray[np.int64]
Views = dict[tuple[int, float], View]


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Some windows of one group: their row and column offsets' places in the group, and flat window numbers."""

    rows: AxisGroup
    cols: AxisGroup
    row_of: Windows
    col_of: Windows
    windows: Windows


class IncrementalRun:
    """The operator prepared for one network, grid and plan; runs image after image.

    `graph` must be on the device and in the dtype of the run.
    """

    def __init__(self, graph: LayerGraph, grid: WindowGrid, engine: IncrementalForward) -> None:
        self.graph = graph
        self.grid = grid
        self.engine = engine
        self.boxes = box_plan(graph.network(), grid, engine)
        self.on_boxes = [i for i, on in enumerate(engine.regions) if on]
        self.whole = [i for i, on in enumerate(engine.regions) if not on]
        readers: dict[int, list[int]] = {i: [] for i in self.on_boxes}
        for k, layer in enumerate(graph.layers):
            for j in layer.inputs:
                if j in readers:
                    readers[j].append(k)
        #: values computed on boxes that layers on whole maps read
        self.crossing = [j for j in self.on_boxes if any(k in set(self.whole) for k in readers[j])]
        self._last = {j: max((k for k in ks if engine.regions[k]), default=-1) for j, ks in readers.items()}
        self._outside = {
            j: {graph.layers[k].outside for k in ks if graph.layers[k].window is not None} or {0.0}
            for j, ks in readers.items()
        }

    @property
    def needed(self) -> list[tuple[int, float]]:
        """The materialised views this operator reads: (layer, value outside the map)."""
        return [(j, outside) for j in self.on_boxes for outside in sorted(self._outside[j])]

    def run(
        self,
        clean: CleanPass,
        fill: Tensor,
        windows: npt.NDArray[np.bool_] | None,
        done: Callable[[Windows, Tensor], None],
    ) -> None:
        """Compute the logits of the wanted windows of one image.

        `fill` (C, 1, 1) or (C, H, W) is what hides the image; `windows` (rows, cols) selects windows, None all of
        them. `done` is called with flat window numbers (n,) and their logits (n, K), batch by batch.
        """
        waiting: list[tuple[Windows, dict[int, Tensor]]] = []
        n_waiting = 0
        for batch in self._batches(windows):
            waiting.append((batch.windows, self._boxed(clean.views, fill, batch)))
            n_waiting += len(batch.windows)
            if n_waiting >= self.engine.tail_batch:
                self._finish(waiting, done)
                waiting, n_waiting = [], 0
        if waiting:
            self._finish(waiting, done)

    def _batches(self, wanted: npt.NDArray[np.bool_] | None) -> Iterator[_Batch]:
        n_cols = len(self.grid.cols)
        for rows in self.boxes.rows.groups:
            for cols in self.boxes.cols.groups:
                row_of, col_of = (
                    a.reshape(-1)
                    for a in np.meshgrid(np.arange(len(rows.windows)), np.arange(len(cols.windows)), indexing="ij")
                )
                numbers = rows.windows[row_of] * n_cols + cols.windows[col_of]
                if wanted is not None:
                    keep = wanted.reshape(-1)[numbers]
                    row_of, col_of, numbers = row_of[keep], col_of[keep], numbers[keep]
                # Equal parts instead of full batches and a small rest.
                n_parts = -(-len(numbers) // self.engine.batch)
                for part in np.array_split(np.arange(len(numbers)), n_parts) if n_parts else ():
                    yield _Batch(rows, cols, row_of[part], col_of[part], numbers[part])

    def _boxes(self, batch: _Batch, layer: int) -> Boxes:
        return Boxes(
            batch.rows.starts[layer][batch.row_of],
            batch.cols.starts[layer][batch.col_of],
            int(batch.rows.sizes[layer]),
            int(batch.cols.sizes[layer]),
        )

    def _boxed(self, views: Views, fill: Tensor, batch: _Batch) -> dict[int, Tensor]:
        """Run all layers on boxes; returns the whole maps (n, C, H, W) that the rest of the network reads."""
        values: dict[int, tuple[Tensor, Boxes]] = {}
        crossing: dict[int, Tensor] = {}
        for i in self.on_boxes:
            layer = self.graph.layers[i]
            box = self._boxes(batch, i)
            if i == 0:
                value = self._occluded(views, fill, batch, box)
            else:
                inputs = [self._read(views, values, j, layer, box) for j in layer.inputs]
                device = inputs[0].device
                place = Place(
                    torch.from_numpy(box.tops).to(device), torch.from_numpy(box.lefts).to(device), box.height, box.width
                )
                value = layer.forward_region(inputs, place)
            values[i] = value, box
            if i in self.crossing:
                crossing[i] = self._whole_map(views, i, value, box)
            for j in set(layer.inputs):
                if self._last[j] == i:
                    del values[j]
        return crossing

    def _occluded(self, views: Views, fill: Tensor, batch: _Batch, box: Boxes) -> Tensor:
        """The fill, in the windows' own extents; box positions beyond a window keep the image."""
        n = len(batch.windows)
        heights = np.asarray(self.grid.rows.lengths)[batch.rows.windows[batch.row_of]]
        widths = np.asarray(self.grid.cols.lengths)[batch.cols.windows[batch.col_of]]
        if fill.shape[1:] == (1, 1):
            value = fill.expand(n, -1, box.height, box.width)
        else:
            source = View.of(fill[None], 0.0)
            value = read_region(source, box, fill.new_empty((n, fill.shape[0], 0, 0)), Boxes(box.tops, box.lefts, 0, 0))
        if (heights == box.height).all() and (widths == box.width).all():
            return value
        starts = (
            np.asarray(self.grid.rows.starts)[batch.rows.windows[batch.row_of]] - box.tops,
            np.asarray(self.grid.cols.starts)[batch.cols.windows[batch.col_of]] - box.lefts,
        )
        down, right = (
            (np.arange(size) >= start[:, None]) & (np.arange(size) < (start + length)[:, None])
            for size, start, length in ((box.height, starts[0], heights), (box.width, starts[1], widths))
        )
        hidden = torch.from_numpy(down[:, None, :, None] & right[:, None, None, :]).to(fill.device)
        nothing = Boxes(box.tops, box.lefts, 0, 0)
        outside = next(iter(self._outside[0]))
        clean = read_region(views[0, outside], box, fill.new_empty((n, fill.shape[0], 0, 0)), nothing)
        return torch.where(hidden, value, clean)

    def _read(
        self,
        views: Views,
        values: dict[int, tuple[Tensor, Boxes]],
        j: int,
        layer: Layer,
        box: Boxes,
    ) -> Tensor:
        value, have = values[j]
        region = box
        outside = layer.outside
        if layer.window is not None:
            rows, cols = layer.window
            region = Boxes(
                box.tops * rows.stride - rows.pad,
                box.lefts * cols.stride - cols.pad,
                (box.height - 1) * rows.stride + rows.extent,
                (box.width - 1) * cols.stride + cols.extent,
            )
        else:
            outside = next(iter(self._outside[j]))  # the region lies inside the map: any view serves
        return read_region(views[j, outside], region, value, have)

    def _whole_map(self, views: Views, j: int, value: Tensor, box: Boxes) -> Tensor:
        view = views[j, next(iter(self._outside[j]))]
        n = len(box.tops)
        everywhere = Boxes(np.zeros(n, np.int64), np.zeros(n, np.int64), view.height, view.width)
        return read_region(view, everywhere, value, box)

    def _finish(
        self, waiting: Sequence[tuple[Windows, dict[int, Tensor]]], done: Callable[[Windows, Tensor], None]
    ) -> None:
        """Run the rest of the network on whole maps, for several batches together."""
        numbers = np.concatenate([windows for windows, _ in waiting])
        values = {
            j: torch.cat([maps[j] for _, maps in waiting]) if len(waiting) > 1 else waiting[0][1][j]
            for j in self.crossing
        }
        size = self.engine.tail_batch
        for start in range(0, len(numbers), size):
            part = {j: value[start : start + size] for j, value in values.items()}
            done(numbers[start : start + size], self.graph.forward_from(part, self.whole))
