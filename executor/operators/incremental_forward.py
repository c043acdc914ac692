"""IncrementalForward: recompute only the boxes that each window changes.

Each layer's output for the clean image is a materialised view. For a batch of windows with equal box sizes a layer
reads the region its output boxes need (clean values with the changed box pasted in), runs without padding, and so
on until the plan turns to whole maps. After Krypton (Nakandala et al., SIGMOD 2019, section 3), with true boxes
instead of one upper bound and for any captured network.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.executor.devices import device_of
from obeql.executor.devices.allocator import give_back
from obeql.executor.devices.lanes import run_in_lanes
from obeql.executor.devices.stopwatch import Stopwatch
from obeql.executor.kernels.box_position import Place
from obeql.executor.kernels.box_sum import BoxSum, PrefixSums, plan_box_sum
from obeql.executor.kernels.paste import Boxes, View
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers.reduce import GlobalMean
from obeql.executor.operators.batch_reads import AnyRead, BatchReads
from obeql.executor.operators.clean_pass import CleanPass
from obeql.executor.operators.coarse_first import coarse_levels, coarse_order
from obeql.executor.operators.layer_timer import Clock, LayerTimer, layer_runner
from obeql.executor.operators.region_masks import masks_in_boxes
from obeql.executor.operators.window_fill import Fill, WindowFill
from obeql.planner.boxes import AxisGroup
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.box_groups import box_plan
from obeql.planner.physical.costing import lane_batch
from obeql.planner.physical.plan import IncrementalForward

__all__ = ["IncrementalRun", "Part"]

T = TypeVar("T")
Windows = npt.NDArray[np.int64]
Views = dict[tuple[int, float], View]
#: Windows that are told of all at once take no longer.
_PROMPT_S = 1.0
#: What of all windows is in the first pieces of all lanes, as a divisor; and batches that are too few to be ordered.
_FIRST_LOOKS, _FEW_PARTS = 20, 6


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One layer on one batch: how each input is read, from which view, and where the output boxes lie."""

    layer: int
    reads: tuple[tuple[int, tuple[int, float], AnyRead], ...]
    place: Place
    #: how the whole map is put together for layers that need it, None if none does
    crossing: AnyRead | None
    #: inputs nobody reads after this layer
    spent: tuple[int, ...]
    #: for a layer that sums its input: where the input's boxes lie in the clean map's prefix sums
    box_sum: BoxSum | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some windows of one group: their places in the group of each axis, the numbers of their images, and flat window
    numbers over all images.
    """

    group: tuple[AxisGroup, ...]
    places: tuple[Windows, ...]
    images: Windows
    windows: Windows

    @property
    def n_positions(self) -> int:
        """Positions of all layers on boxes: what decides how long the part takes, about."""
        return int(self.positions.sum())

    @property
    def positions(self) -> Windows:
        """Return the positions of each layer, (layers,)."""
        area: Windows = np.prod([axis.sizes for axis in self.group], axis=0)
        return len(self.windows) * area


@dataclass(frozen=True, slots=True, eq=False)
class _Clean:
    """What windows are computed against: of N images their views, what hides each, and prefix sums of clean maps.

    `fill` (N, C, 1, ...) where a window is hidden by one value a channel, else a view of (N, C, ...), or what works it
    out.
    """

    views: Views
    fill: Tensor | View | WindowFill
    sums: dict[int, PrefixSums]


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Some windows of one group: the numbers of their images, the windows' own boxes, and the layers to run."""

    images: Tensor
    box: Boxes
    hidden: Tensor | None
    #: reads a map of the image's size at the windows' boxes
    image_read: AnyRead
    steps: tuple[_Step, ...]

    @property
    def n_bytes(self) -> int:
        """Return what is held of it, beside the few bytes of its objects."""
        reads = [self.image_read, *(read for step in self.steps for _, _, read in step.reads)]
        places = (0 if self.hidden is None else self.hidden.nbytes) + 16 * len(self.images) * (1 + len(self.steps))
        return places + sum(read.n_bytes for read in reads)


class IncrementalRun:
    """The operator prepared for one network, grid and plan; runs image after image, or several together.

    `graph` must be on the device and in the dtype of the run. With a `clock` every layer is timed. With
    `several` runs to come, what is worked out for the first is kept for the others.
    """

    def __init__(
        self,
        graph: LayerGraph,
        grid: WindowGrid,
        engine: IncrementalForward,
        clock: LayerTimer | None = None,
        several: bool = False,
    ) -> None:
        self.graph = graph
        self.grid = grid
        self.engine = engine
        self.boxes = box_plan(graph.network(), grid, engine)
        self.on_boxes = [i for i, on in enumerate(engine.regions) if on]
        self.whole = [i for i, on in enumerate(engine.regions) if not on]
        self._clock = clock
        self._stopwatch = Stopwatch(torch.device("cpu"))
        #: seconds that all runs so far have computed on a CPU, without what other processes took
        self.busy_s = 0.0
        self._keeps = several
        self._levels = coarse_levels(grid)
        #: the order of the batches of all windows, by numbers of images and lanes
        self._orders: dict[tuple[int, int], Windows] = {}
        readers: dict[int, list[int]] = {i: [] for i in self.on_boxes}
        for k, layer in enumerate(graph.layers):
            for j in layer.inputs:
                if j in readers:
                    readers[j].append(k)
        #: values computed on boxes that layers on whole maps read
        self.crossing = [j for j in self.on_boxes if any(not engine.regions[k] for k in readers[j])]
        self._last = {j: max((k for k in ks if engine.regions[k]), default=-1) for j, ks in readers.items()}
        self._outside = {
            j: sorted({graph.layers[k].outside for k in ks if graph.layers[k].window is not None} or {0.0})
            for j, ks in readers.items()
        }
        #: by how many images go together and the number of the piece
        self._kept: dict[tuple[int, int], list[_Batch]] = {}
        self._kept_bytes = 0
        self._keeping = threading.Lock()  # lanes plan pieces side by side

    @property
    def needed(self) -> list[tuple[int, float]]:
        """Return the materialised views this operator reads: (layer, value outside the map)."""
        return [(j, outside) for j in self.on_boxes for outside in self._outside[j]]

    def run(
        self,
        clean: CleanPass,
        fill: Fill,
        windows: npt.NDArray[np.bool_] | None,
        done: Callable[[Windows, T], None],
        finish: Callable[[Windows, Tensor], T],
    ) -> None:
        """Compute the logits of the wanted windows of the images of `clean`.

        `fill` is what hides the images: (C, 1, ...) or of an image's shape, for all of them, or (N, ...), each its own;
        or what works it out from each window. `windows` (N, *grid's shape) selects windows, None all of them. `finish`
        is called with flat window numbers (n,), image by image, and their logits (n, K), batch by batch, in the lane
        that computed them; `done`, in this thread, with the window numbers and what `finish` returned.
        """
        n_images = len(clean.image)
        seconds, sums = self._stopwatch.timed(lambda: self.sums(clean))
        self._spent(seconds)
        image = _Clean(clean.views, _as_read(fill, clean.image), sums)
        n_lanes = self.engine.n_lanes
        clock = None if self._clock is None else partial(self._clock.run, n_lanes=n_lanes)
        keeps = self._keeps and windows is None
        if n_lanes > 1 and self._is_few(self._n_wanted(windows, n_images)):
            # Boxes side by side, and the rest of the network once, with all cores.
            parts = sorted(self.parts(windows, n_images, n_lanes), key=lambda part: -part.n_positions)
            maps: list[dict[int, Tensor]] = []

            def on_boxes(number: int, part: Part, stop: threading.Event) -> list[dict[int, Tensor]]:
                return self._on_boxes(image, (n_images, number) if keeps else None, [part], layer_runner(clock, stop))

            boxes = (partial(on_boxes, *each) for each in enumerate(parts))
            run_in_lanes(boxes, n_lanes, maps.extend, self._spent)
            numbers = np.concatenate([part.windows for part in parts])
            alone = None if self._clock is None else self._clock.run
            seconds, logits = self._stopwatch.timed(lambda: self._finish(len(numbers), maps, layer_runner(alone)))
            self._spent(seconds)
            give_back()
            # A few small operators, for which waking all cores would take longer than the work.
            run_in_lanes([lambda stop: finish(numbers, logits)], n_lanes, partial(done, numbers), self._spent)
            return

        def piece(number: int, parts: Sequence[Part], stop: threading.Event) -> tuple[Windows, T]:
            kept_as = (n_images, number) if keeps else None
            windows, logits = self._piece(image, kept_as, parts, layer_runner(clock, stop))
            return windows, finish(windows, logits)

        pieces = (partial(piece, *each) for each in enumerate(self._pieces(windows, n_images, n_lanes)))
        run_in_lanes(pieces, n_lanes, lambda found: done(*found), self._spent)

    def _spent(self, seconds: float) -> None:
        self.busy_s += seconds

    def sums(self, clean: CleanPass) -> dict[int, PrefixSums]:
        """Return the prefix sums of every map that a layer on boxes sums."""
        summed = {j for i in self.on_boxes if self.graph.layers[i].reach == "sum" for j in self.graph.layers[i].inputs}
        return {j: PrefixSums.of(clean.views[j, self._outside[j][0]]) for j in sorted(summed)}

    # ---- pieces of work: which windows go together -------------------------------------------------------------

    def positions(self, wanted: npt.NDArray[np.bool_] | None) -> tuple[npt.NDArray[np.float64], int]:
        """Return what a run over an image computes: positions of each layer on boxes, (layers,), and its batches."""
        computed = np.zeros(len(self.graph.layers))
        n_batches = 0
        for part in self.parts(wanted):
            computed += part.positions
            n_batches += 1
        return computed, n_batches

    def _pieces(self, wanted: npt.NDArray[np.bool_] | None, n_images: int, n_lanes: int) -> Iterator[list[Part]]:
        """Yield consecutive batches until there are enough windows for a batch on whole maps.

        A lane gets several pieces, so that none waits long for the last one; its first is smaller, so that something is
        to be seen soon.
        """
        n_wanted = self._n_wanted(wanted, n_images)
        least = lane_batch(self.engine.batch, n_wanted, n_lanes)
        most = max(least, min(self.engine.tail_batch, n_wanted // (4 * n_lanes)))
        piece: list[Part] = []
        n_windows = 0
        is_soon = self._seconds(n_wanted) <= _PROMPT_S
        first = most if is_soon else min(most, max(least, n_wanted // (_FIRST_LOOKS * n_lanes)))
        n_pieces = 0
        parts = self.parts(wanted, n_images, n_lanes)
        for part in parts if is_soon else self._coarse_first(list(parts), wanted is None, n_images, n_lanes):
            if piece and n_windows + len(part.windows) > (most if n_pieces >= n_lanes else first):
                yield piece
                n_pieces += 1
                piece, n_windows = [], 0
            piece.append(part)
            n_windows += len(part.windows)
        if piece:
            yield piece

    def _coarse_first(self, parts: list[Part], whole: bool, n_images: int, n_lanes: int) -> list[Part]:
        """Return the batches, those first that show most of the map; `whole` says that they are of all windows."""
        if len(parts) < _FEW_PARTS:
            return parts
        order = self._orders.get((n_images, n_lanes)) if whole else None
        if order is None:
            order = coarse_order(self.grid, [part.windows % self.grid.n_windows for part in parts])
            if whole:
                self._orders[n_images, n_lanes] = order
        return [parts[number] for number in order.tolist()]

    def _n_wanted(self, wanted: npt.NDArray[np.bool_] | None, n_images: int) -> int:
        return n_images * self.grid.n_windows if wanted is None else int(wanted.sum())

    def _is_few(self, n_windows: int) -> bool:
        """Return whether so many windows pass the rest of the network in one batch, and soon enough to be told of."""
        return n_windows <= self.engine.tail_batch and self._seconds(n_windows) <= _PROMPT_S

    def _seconds(self, n_windows: int) -> float:
        """Return the estimated seconds of so many windows."""
        return self.engine.cost.seconds / max(1e-9, self.engine.share * self.grid.n_windows) * n_windows

    def parts(self, wanted: npt.NDArray[np.bool_] | None, n_images: int = 1, n_lanes: int = 1) -> Iterator[Part]:
        """Yield the wanted windows as batches, group after group; in a group, a window of all images, then the next."""
        batch = lane_batch(self.engine.batch, self._n_wanted(wanted, n_images), n_lanes)
        for group in self.boxes.groups:
            places, images, windows = self.boxes.windows_of(group, n_images)
            numbers = images * self.grid.n_windows + windows
            if wanted is not None:
                keep = wanted.reshape(-1)[numbers]
                places, images, numbers = tuple(each[keep] for each in places), images[keep], numbers[keep]
            # Equal parts instead of full batches and a small rest. Of a group that makes several, windows that lie
            # far apart come first; the order of aligned neighbors is kept among them.
            n_parts = -(-len(numbers) // batch)
            order = np.arange(len(numbers))
            if n_parts > 1:
                order = np.argsort(self._levels[numbers % self.grid.n_windows], kind="stable")
            for part in np.array_split(order, n_parts) if n_parts else ():
                yield Part(group, tuple(each[part] for each in places), images[part], numbers[part])

    def _piece(
        self, image: _Clean, number: tuple[int, int] | None, parts: Sequence[Part], run_layer: Clock
    ) -> tuple[Windows, Tensor]:
        """Compute the windows of one piece: on boxes batch by batch, then on whole maps together."""
        maps = self._on_boxes(image, number, parts, run_layer)
        windows = np.concatenate([part.windows for part in parts])
        logits = self._finish(len(windows), maps, run_layer)
        give_back()
        return windows, logits

    def _on_boxes(
        self, image: _Clean, number: tuple[int, int] | None, parts: Sequence[Part], run_layer: Clock
    ) -> list[dict[int, Tensor]]:
        """Run the layers on boxes; returns for each part the whole maps that the rest of the network reads."""
        device = next(iter(image.views.values())).rows.device
        kept = None if number is None else self._kept.get(number)
        maps = []
        for batch in kept or self._planned(number, parts, device):
            maps.append(self._boxed(image, batch, run_layer))
            give_back()
        return maps

    def _planned(self, number: tuple[int, int] | None, parts: Sequence[Part], device: torch.device) -> Iterator[_Batch]:
        """Work out the batches of a piece, and keep them under its number where other images will run it again."""
        kept: list[_Batch] = []
        fits = number is not None
        try:
            for part in parts:
                batch = self._batch(part, device)
                yield batch
                fits = fits and self._reserve(batch.n_bytes)
                if fits:
                    kept.append(batch)
                del batch
        finally:
            with self._keeping:
                if number is not None and len(kept) == len(parts) and number not in self._kept:
                    self._kept[number] = kept
                else:
                    self._kept_bytes -= sum(each.n_bytes for each in kept)

    def _reserve(self, n_bytes: int) -> bool:
        """Take so many of the bytes that may be kept, of all lanes together, and return whether they were there."""
        with self._keeping:
            fits = self._kept_bytes + n_bytes <= self.engine.kept_bytes
            self._kept_bytes += n_bytes if fits else 0
        return fits

    # ---- batches: what to do, without any numbers of an image --------------------------------------------------

    def _batch(self, part: Part, device: torch.device) -> _Batch:
        starts = np.stack([axis.starts[:, at] for axis, at in zip(part.group, part.places, strict=True)], axis=1)
        sizes = np.stack([axis.sizes for axis in part.group], axis=1).tolist()  # layer by layer, axis by axis
        boxes = {i: Boxes(starts[i], tuple(sizes[i])) for i in self.on_boxes}
        reading = BatchReads(boxes, part.images, self._size, device)
        steps = []
        for i in self.on_boxes:
            layer = self.graph.layers[i]
            reads = []
            box_sum = None
            if layer.reach == "sum":
                (j,) = layer.inputs
                box_sum = plan_box_sum(self._size(j), reading.places[j], reading.images)
            for j in layer.inputs if box_sum is None else ():
                # A layer without a sliding window reads inside the map, where every view is the same.
                outside = layer.outside if layer.window is not None else self._outside[j][0]
                reads.append((j, (j, outside), reading.of_input(j, i, layer.window)))
            spent = tuple(j for j in sorted(set(layer.inputs)) if self._last[j] == i)
            crossing = None
            if i in self.crossing:
                crossing = reading.of_whole(i)
            steps.append(_Step(i, tuple(reads), reading.places[i], crossing, spent, box_sum))
        hidden = self._hidden(part, boxes[0], device)
        return _Batch(reading.images, boxes[0], hidden, reading.of_image(), tuple(steps))

    def _size(self, layer: int) -> tuple[int, ...]:
        return self.graph.layers[layer].shape[1:]

    def _hidden(self, part: Part, box: Boxes, device: torch.device) -> Tensor | None:
        """Return which positions of the image's boxes the windows hide, bool (n, 1, ...); None if all of them."""
        inside = []
        for grid, axis, at, starts, size in zip(
            self.grid.axes, part.group, part.places, box.starts, box.sizes, strict=True
        ):
            windows = axis.windows[at]
            start = np.asarray(grid.starts)[windows] - starts
            stop = start + np.asarray(grid.lengths)[windows]
            position = np.arange(size)
            inside.append((position >= start[:, None]) & (position < stop[:, None]))
        masks = masks_in_boxes(self.grid, part.windows % self.grid.n_windows, box.starts, box.sizes)
        if masks is None and all(each.all() for each in inside):
            return None
        hidden = np.ones((len(part.windows), 1), bool)
        for each in inside:
            hidden = hidden[..., None] & each.reshape(len(each), *(1,) * (hidden.ndim - 1), -1)
        if masks is not None:
            hidden &= masks
        return device_of(device).upload(hidden)

    # ---- execution --------------------------------------------------------------------------------------------

    def _boxed(self, image: _Clean, batch: _Batch, run_layer: Clock) -> dict[int, Tensor]:
        """Run all layers on boxes; returns the whole maps (n, C, ...) that the rest of the network reads."""
        values: dict[int, Tensor] = {}
        crossing: dict[int, Tensor] = {}
        for number, step in enumerate(batch.steps):
            give_back(number)
            run_layer(step.layer, partial(self._step, step, image, batch, values, crossing))
        return crossing

    def _step(
        self,
        step: _Step,
        image: _Clean,
        batch: _Batch,
        values: dict[int, Tensor],
        crossing: dict[int, Tensor],
    ) -> Tensor:
        """Run one layer on boxes, and put its whole maps together where layers on whole maps read them."""
        if step.layer == 0:
            value = self._occluded(image, batch)
        else:
            layer = self.graph.layers[step.layer]
            if step.box_sum is not None and isinstance(layer, GlobalMean):
                (j,) = layer.inputs
                sums = image.sums[j]
                n_positions = math.prod(self._size(j))
                value = layer.forward_change(step.box_sum.whole(sums), step.box_sum.run(sums), values[j], n_positions)
            else:
                inputs = [read.run(image.views[key], values[j]) for j, key, read in step.reads]
                value = layer.forward_region(inputs, step.place)
        values[step.layer] = value
        if step.crossing is not None:
            crossing[step.layer] = step.crossing.run(image.views[step.layer, self._outside[step.layer][0]], value)
        for j in step.spent:
            del values[j]
        return value

    def _occluded(self, image: _Clean, batch: _Batch) -> Tensor:
        """Return the fill, in the windows' own extents; box positions beyond a window keep the image."""
        box, view = batch.box, image.views[0, self._outside[0][0]]
        if isinstance(image.fill, WindowFill):
            value = image.fill.values(batch.image_read.clean(view), batch.hidden)
        elif isinstance(image.fill, View):
            value = batch.image_read.clean(image.fill)
        else:
            value = image.fill[batch.images].expand(-1, -1, *box.sizes)
        if batch.hidden is None:
            return value
        return torch.where(batch.hidden, value, batch.image_read.clean(view))

    def _finish(self, n_windows: int, maps: Sequence[dict[int, Tensor]], run_layer: Clock) -> Tensor:
        """Run the rest of the network on whole maps, for several batches together; returns logits (n, K)."""
        values = {j: torch.cat([part[j] for part in maps]) if len(maps) > 1 else maps[0][j] for j in self.crossing}
        size = self.engine.tail_batch
        logits = [
            self.graph.forward_from({j: v[start : start + size] for j, v in values.items()}, self.whole, run_layer)
            for start in range(0, n_windows, size)
        ]
        return torch.cat(logits) if len(logits) > 1 else logits[0]


def _as_read(fill: Fill, images: Tensor) -> Tensor | View | WindowFill:
    """Return a fill of images (N, C, ...) in the form that batches read it in."""
    if isinstance(fill, WindowFill):
        return fill
    fills = fill if fill.dim() == images.dim() else fill.expand(len(images), *fill.shape)
    return fills if max(fills.shape[2:]) == 1 else View.of(fills, 0.0)
