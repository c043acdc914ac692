"""One window at a time, wherever it lies: what the network says with it hidden, for a patch that moves with a hand.

Beside `executor`, which computes whole grids; the session's `probe` asks here. The clean pass is made once and kept, a
window then recomputes the boxes that it changes. Boxes have one size for all places of a patch, because a library that
compiles kernels for a shape takes longer for a new one than for the work.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from obeql.errors import QueryTypeError
from obeql.executor.devices import arithmetic
from obeql.executor.devices.lanes import run_in_lanes
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.clean_pass import CleanPass, materialise
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.executor.operators.window_fill import Fill
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Cost, IncrementalForward

__all__ = ["WindowProbe"]

#: Shares of the layers that may run on boxes; which is fastest is found out while windows are computed.
_SHARES = (0.25, 0.5, 0.75, 1.0)
#: Windows of a way that are computed before it is judged; the first one compiles and is not counted.
_TRIES = 3
#: Patch sizes whose boxes are kept.
_MOST_KEPT = 24
#: of a single window, which nothing is planned by
_NO_COST = Cost(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Way:
    """How a window is computed: the layers on boxes, none of which means the whole network, and with how many cores.

    In one of several `lanes` it has one core for itself; with one lane, all cores share the work of each layer.
    """

    regions: tuple[bool, ...] | None
    lanes: int


@dataclass(slots=True)
class _Trial:
    """The seconds that windows of about one size took, way by way."""

    seconds: dict[_Way, list[float]] = field(default_factory=dict)

    def next_of(self, ways: list[_Way]) -> _Way:
        """Return the way to take now: one that is not judged yet, or the fastest."""
        for way in ways:
            if len(self.seconds.get(way, ())) < _TRIES:
                return way
        return min(ways, key=lambda way: min(self.seconds[way][1:]))


class WindowProbe:
    """The network's outputs for one image, pixels (1, C, *size) on a device, with any one box of it hidden.

    `fill`, (1, C, 1, ..), (1, C, *size) or what works it out, is what hides it. Raises what the network raises; numbers
    are those of `IncrementalForward`, which are those of the whole network.
    """

    def __init__(self, graph: LayerGraph, pixels: Tensor, fill: Fill, threads: int) -> None:
        self._graph = graph
        self._fill = fill
        network = graph.network()
        n_layers = len(network.layers)
        depths = () if network.whole else tuple(region_layers(network, math.ceil(s * n_layers)) for s in _SHARES)
        found = dict.fromkeys(regions for regions in depths if sum(regions) > 1)
        counts = (threads, 1) if threads > 1 and pixels.device.type == "cpu" else (1,)
        self._ways = [_Way(regions, n) for n in counts for regions in (*found, None)]
        self._runs: OrderedDict[tuple[tuple[int, ...], tuple[bool, ...]], IncrementalRun] = OrderedDict()
        self._trials: dict[int, _Trial] = {}
        with arithmetic("float32", pixels.device):
            needed = [key for regions in found for key in self._run((1,) * (pixels.dim() - 2), regions, pixels).needed]
            self._clean: CleanPass = materialise(graph, pixels, needed)
        self._runs.clear()

    @property
    def clean_logits(self) -> Tensor:
        """Return the logits (1, K) of the image itself."""
        return self._clean.logits

    def logits(self, *box: int) -> Tensor:
        """Return the logits (1, K) with a box of the model's input hidden: its starts, then its extents.

        Raises QueryTypeError for a box that does not lie in the input.
        """
        size = tuple(self._clean.image.shape[2:])
        place, patch = box[: len(size)], box[len(size) :]
        inside = len(box) == 2 * len(size) and all(
            0 <= start < start + extent <= n for start, extent, n in zip(place, patch, size, strict=True)
        )
        if not inside:
            shown = "x".join(map(str, size))
            raise QueryTypeError(f"the box {box} does not lie in the model's input of {shown}")
        trial = self._trials.setdefault(round(2 * math.log2(math.prod(patch))), _Trial())
        way = trial.next_of(self._ways)
        started = time.perf_counter()
        with arithmetic("float32", self._clean.image.device):
            (found,) = self._found(way, place, patch)
        took = trial.seconds.setdefault(way, [])
        if len(took) < _TRIES:
            took.append(time.perf_counter() - started)
        return found

    def _found(self, way: _Way, place: tuple[int, ...], patch: tuple[int, ...]) -> list[Tensor]:
        """Compute a window the way that is asked for: in a lane, which keeps its thread from one call to the next."""
        found: list[Tensor] = []
        run_in_lanes([lambda _: self._computed(way.regions, place, patch)], way.lanes, found.append)
        return found

    def _computed(self, regions: tuple[bool, ...] | None, place: tuple[int, ...], patch: tuple[int, ...]) -> Tensor:
        image = self._clean.image
        if regions is None:
            hidden = image.clone()
            extents = [slice(start, start + extent) for start, extent in zip(place, patch, strict=True)]
            box = (slice(None), slice(None), *extents)
            fill = self._fill
            hidden[box] = fill.expand_as(image)[box] if isinstance(fill, Tensor) else fill.values(image[box], None)
            return self._graph.forward(hidden)
        run = self._run(patch, regions, image)
        wanted = np.zeros((1, *run.grid.shape), bool)
        wanted[(0, *place)] = True
        found: list[Tensor] = []
        run.run(self._clean, self._fill, wanted, lambda _, logits: found.append(logits), lambda _, logits: logits)
        return found[0]

    def _run(self, patch: tuple[int, ...], regions: tuple[bool, ...], image: Tensor) -> IncrementalRun:
        """Return the operator for a patch of this size at any place, prepared once."""
        key = patch, regions
        run = self._runs.pop(key, None)
        if run is None:
            each = (1,) * len(patch)
            grid = WindowGrid.over(tuple(image.shape[2:]), patch, each)
            run = IncrementalRun(self._graph, grid, IncrementalForward(regions, each, 1, 1, _NO_COST))
        self._runs[key] = run
        while len(self._runs) > _MOST_KEPT:
            self._runs.popitem(last=False)
        return run
