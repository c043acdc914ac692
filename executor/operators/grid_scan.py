"""All windows of one grid over one image, or over several: an operator's logits become planes of cells.

Between `executor`, which goes through the images, and the operators, which compute windows. A batch that does not fit
in memory is answered by a smaller one; windows already done are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.errors import DeviceError
from obeql.executor.devices import device_of
from obeql.executor.devices.stopwatch import Stopwatch
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.cached_cells import KnownCells
from obeql.executor.operators.clean_pass import CleanPass
from obeql.executor.operators.dense_forward import DenseRun
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.executor.operators.layer_timer import LayerTimer
from obeql.executor.operators.logits import as_stored, logit_and_others, top_class
from obeql.executor.operators.skip_unchanged import unchanged_windows
from obeql.executor.operators.window_fill import Fill
from obeql.planner.catalog import Activation
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Engine, IncrementalForward

__all__ = ["GridScan", "Planes", "Windows"]

Windows = npt.NDArray[np.int64]

#: Fewer windows than this share of what an engine was planned for at once cost more each.
_PLANNED_SHARE = 0.25
#: what allocators say when there is no more memory; CUDA raises OutOfMemoryError, the CPU a plain RuntimeError
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "bad_alloc")


@dataclass(slots=True, eq=False)
class Planes:
    """The cells of a grid over an image, on the CPU: `logit` and `others` (windows, classes), int32 `top`.

    NaN and -1 where a window was not computed. `exact` (windows,) says which were where others are reconstructed or
    left out, and `quality` what is then stated of each class's map; None and empty where all were computed.
    """

    logit: Tensor
    others: Tensor
    top: Tensor
    exact: npt.NDArray[np.bool_] | None = None
    quality: tuple[dict[str, Any], ...] = ()

    @classmethod
    def empty(cls, n_windows: int, n_classes: int, device: torch.device | None = None) -> Planes:
        """Return the planes without any cell computed."""
        logit = torch.full((n_windows, n_classes), float("nan"), dtype=torch.float32, device=device)
        wide = torch.float64 if device is None else device_of(device).wide_dtype
        return cls(logit, logit.to(wide), torch.full((n_windows,), -1, dtype=torch.int32, device=device))

    def of_classes(self, classes: slice) -> Planes:
        """Return these cells, of some of the classes."""
        if classes.indices(self.logit.shape[1]) == (0, self.logit.shape[1], 1):
            return self
        return replace(
            self, logit=self.logit[:, classes], others=self.others[:, classes], quality=self.quality[classes]
        )

    def cpu(self) -> Planes:
        """Return these cells, on the CPU."""
        return replace(self, logit=self.logit.cpu(), others=self.others.cpu(), top=self.top.cpu())

    def of_windows(self, windows: npt.NDArray[np.intp]) -> Planes:
        """Return these cells, of some of the windows; `windows` may name one several times."""
        at = torch.from_numpy(windows).to(self.logit.device)
        exact = None if self.exact is None else self.exact[windows]
        return replace(self, logit=self.logit[at], others=self.others[at], top=self.top[at], exact=exact)

    def only_computed(self) -> Planes | None:
        """Return these cells with `exact` true where they have numbers; None where none has."""
        exact = (~(self.logit.isnan() | self.others.isnan()).any(dim=1) & (self.top >= 0)).numpy()
        return replace(self, exact=exact) if exact.any() else None

    def over(self, known: KnownCells) -> Planes:
        """Return these cells where nothing was known, what was known elsewhere."""
        logit, others = torch.from_numpy(known.logit), torch.from_numpy(known.others)
        top = torch.from_numpy(known.top)
        return Planes(
            torch.where(logit.isnan(), self.logit, logit),
            torch.where(others.isnan(), self.others, others),
            torch.where(top < 0, self.top, top),
        )


class GridScan:
    """One grid of a plan, prepared for image after image, or for several together.

    With `skips` windows that hide nothing have the cells of the clean pass; `n_skipped` counts them over all images.
    """

    def __init__(
        self,
        graph: LayerGraph,
        grid: WindowGrid,
        engine: Engine,
        clock: LayerTimer | None = None,
        several: bool = False,
        skips: bool = True,
    ) -> None:
        self.graph = graph
        self.grid = grid
        self.engine = engine
        self.n_skipped = 0
        self._clock = clock
        self._several = several
        self._skips = skips
        self._operator = self._prepared()
        #: of the calls that computed about as many windows at once as the engine was planned for: what they were
        #: estimated to take, and how long they kept the device busy, on "boxes" and on whole "maps"
        self.pace: dict[str, tuple[float, float]] = {}
        #: the cells of the images at work, one image after the other, on the device; NaN where not computed yet
        self._cells: Planes | None = None
        self._n_classes: list[int] = []

    @property
    def needed(self) -> list[tuple[int, float]]:
        """Return the materialised views the operator reads."""
        return self._operator.needed

    def compute(
        self,
        clean: CleanPass,
        fill: Fill,
        classes: Sequence[Sequence[int]],
        activation: Activation,
        tell: Callable[[int], None],
        wanted: npt.NDArray[np.bool_] | None = None,
    ) -> list[Planes]:
        """Compute windows of N images, those that are `wanted` (N, windows); None for all. One `Planes` an image.

        `fill` as operators take it. `classes` are those asked of each image. `tell` is called with the number of
        windows that are done or not wanted, of all images. Raises DeviceError when not even one window at a time
        fits in memory.
        """
        n_images, n_windows, device = len(clean.image), self.grid.n_windows, clean.image.device
        self._cells = None  # first, as others may ask for them
        self._n_classes = [len(asked) for asked in classes]
        n_classes = max(self._n_classes)
        # Images that ask for fewer classes than others repeat their first one.
        ids = torch.tensor([[*asked, *[asked[0]] * (n_classes - len(asked))] for asked in classes], device=device)
        # Cells stay on the device until all are there: fetching each batch would make a GPU wait.
        cells = self._cells = Planes.empty(n_images * n_windows, n_classes, device)
        left = np.ones(n_images * n_windows, bool) if wanted is None else wanted.reshape(-1).copy()
        told: list[Exception] = []  # what `tell` raised: not the memory of this device, whatever it says

        def finish(windows: Windows, logits: Tensor) -> Planes:
            asked = ids if n_images == 1 else ids[torch.from_numpy(windows // n_windows).to(device)]
            z, rest = logit_and_others(logits, asked, activation)
            return Planes(*as_stored(z, rest), top_class(logits))

        def take(windows: Windows, found: Planes) -> None:
            index = torch.from_numpy(windows).to(device)
            cells.logit[index] = found.logit
            cells.others[index] = found.others
            cells.top[index] = found.top
            left[windows] = False
            try:
                tell(len(left) - int(left.sum()))
            except (RuntimeError, MemoryError) as error:
                told.append(error)
                raise

        if self._skips:
            skipped = np.flatnonzero(unchanged_windows(clean.image, fill, self.grid).reshape(-1) & left)
            self.n_skipped += len(skipped)
            if len(skipped):
                found = finish(np.arange(n_images) * n_windows, clean.logits)
                take(skipped, found.of_windows(skipped // n_windows))
        n_left, before, started = int(left.sum()), self._operator.busy_s, time.perf_counter()
        while left.any():
            todo = None if left.all() else left.reshape(n_images, *self.grid.shape).copy()
            short = self._memory_lacked(partial(self._operator.run, clean, fill, todo, take, finish), told)
            if short is not None:  # once the error is let go of, and with it the tensors of the batch that failed
                self._shrink(device, short)
        self._cells = cells.cpu()
        of_thread = Stopwatch(device, own_code=bool(self.graph.reason)).is_of_thread
        busy_s = self._operator.busy_s - before if of_thread else time.perf_counter() - started
        self._note_pace(n_left, n_images, busy_s)
        return [planes for number in range(n_images) if (planes := self.partial(number)) is not None]

    @staticmethod
    def _memory_lacked(run: Callable[[], None], told: Sequence[Exception]) -> str | None:
        """Run batches; return what the allocator said where memory ended them. Errors that were `told` are raised."""
        try:
            run()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error) or error in told:
                raise
            return str(error) or type(error).__name__
        return None

    def _note_pace(self, n_computed: int, n_images: int, busy_s: float) -> None:
        engine, planned = self.engine, self.engine.share * self.grid.n_windows  # of an image
        whole_s = engine.cost.seconds / planned * n_computed if planned else 0.0
        if whole_s <= 0 or n_computed < _PLANNED_SHARE * planned * n_images:
            return
        # What took longer than estimated is not known: both parts are taken to.
        share = 1.0
        if isinstance(engine, IncrementalForward):
            on_maps = sum(s for s, on in zip(engine.layer_s, engine.regions, strict=False) if not on)
            share = min(1.0, on_maps / engine.cost.seconds)
        for where, part in (("boxes", 1.0 - share), ("maps", share)):
            expected, busy = self.pace.get(where, (0.0, 0.0))
            self.pace[where] = expected + part * whole_s, busy + part * busy_s

    def partial(self, number: int) -> Planes | None:
        """Return cells of one of the images at work that are computed by now, on the device; None before the first."""
        if self._cells is None:
            return None
        at = slice(number * self.grid.n_windows, (number + 1) * self.grid.n_windows)
        cells = Planes(self._cells.logit[at], self._cells.others[at], self._cells.top[at])
        return cells.of_classes(slice(self._n_classes[number]))

    def computed(self, number: int, known: KnownCells | None) -> Planes | None:
        """Return `partial` on the CPU, with those that are `known`, and with `exact`; None where there are none."""
        cells = self.partial(number)
        if cells is None:
            return None
        planes = cells.cpu()
        return (planes if known is None else planes.over(known)).only_computed()

    def _prepared(self) -> IncrementalRun | DenseRun:
        if isinstance(self.engine, IncrementalForward):
            return IncrementalRun(self.graph, self.grid, self.engine, self._clock, self._several)
        return DenseRun(self.graph, self.grid, self.engine, self._clock)

    def _shrink(self, device: torch.device, reason: str) -> None:
        """Halve the batches, for this image and the ones after it; `reason` is what the allocator said."""
        engine = self.engine
        largest = max(engine.batch, engine.tail_batch) if isinstance(engine, IncrementalForward) else engine.batch
        if largest <= 1:
            raise DeviceError(
                f"{device} has not enough memory for one window at a time; "
                f"free some memory or use another device with ON ({reason.splitlines()[0]})"
            )
        if isinstance(engine, IncrementalForward):
            self.engine = replace(engine, batch=max(1, engine.batch // 2), tail_batch=max(1, engine.tail_batch // 2))
        else:
            self.engine = replace(engine, batch=max(1, engine.batch // 2))
        self._operator = self._prepared()
        device_of(device).empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in text for words in _OUT_OF_MEMORY)
