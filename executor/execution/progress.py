"""How far a statement is: `Progress`, which callbacks are given, and the reader of events that counts it.

Made between batches, and by the session before the first of them. Without torch, so that a callback can be told that
torch is being loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from obeql.executor.execution.events import CellsComputed, Event, ImagesStored, ImageStarted, RunStarted
from obeql.planner.cells import MapCells

if TYPE_CHECKING:
    from obeql.executor.execution.preview import Preview

__all__ = ["OnProgress", "Progress", "ProgressReader", "Unit"]

Unit = Literal["windows", "images", "maps", "models"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a statement is. Windows count over all images and grids of a run; images that failed count as done.

    Before the first window `phase` says what is being done instead, such as loading a network; it is empty while
    windows are computed. What is stored already is found out after that, so that `total` may be less then. `unit` is
    what is counted: windows, images of PREDICT, maps of EVALUATE.

    `done` counts windows that are computed, `images_done` the images whose maps (or whose failure) are stored durably,
    whatever happens to the process from now on: the first so many of the run, unless several worker processes share
    it. `image` is the one at work, from 0 (of several together the first, and the last once they are done); with
    workers, the number of those that are finished.
    """

    done: int
    total: int
    image: int
    n_images: int
    shown: str
    seconds: float
    estimated_seconds: float
    #: of a map that is refined: levels computed, its bound, and the maps as they stand, just after each level; at level
    #: 0 as a proxy guesses them, without a bound
    level: int = 0
    bound: float | None = None
    partial: tuple[MapCells, ...] = ()
    #: the map at work, of the first class asked for; None between images
    preview: Preview | None = field(default=None, compare=False, repr=False)
    images_done: int = 0
    phase: str = ""
    unit: Unit = "windows"
    #: of what is done, how much was stored already when the statement began
    reused: int = 0
    #: of WITHIN: the seconds that the statement may take, and those that are left of them
    within_s: float | None = None
    left_s: float = 0.0

    @property
    def rate(self) -> float:
        """Windows computed, or what else is counted, a second so far."""
        return (self.done - self.reused) / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float:
        """Seconds left: those of WITHIN, else by the rate so far once there is one, by the plan's estimate before."""
        if self.within_s is not None:
            return self.left_s
        if self.done <= self.reused or self.rate <= 0:
            return self.estimated_seconds
        return (self.total - self.done) / self.rate


OnProgress = Callable[[Progress], None]


@dataclass
class ProgressReader:
    """Listens to a run and calls a callback with how far it is, when an image is begun and after each batch.

    `n_kept` images, of `windows_kept` windows together, are there from the run that is continued: they count as done.
    `raised` is what the callback raised, which is not ours to word.
    """

    call: OnProgress
    n_kept: int = 0
    windows_kept: int = 0
    raised: BaseException | None = None
    _run: RunStarted = field(default_factory=lambda: RunStarted(0, 0, 0.0, time.perf_counter()))
    _images_done: int = 0
    _reused: int = 0

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._run = event
            case ImagesStored(n_images=n_images):
                self._images_done = n_images
            case ImageStarted(number=number, shown=shown, done=done):
                self._tell(CellsComputed(number, shown, done, min(done, self._reused)))
            case CellsComputed(reused=reused):
                self._reused = reused
                self._tell(event)

    def _tell(self, event: CellsComputed) -> None:
        run, now = self._run, time.perf_counter()
        progress = Progress(
            done=event.done + self.windows_kept,
            total=run.n_windows + self.windows_kept,
            image=event.number + self.n_kept,
            n_images=run.n_images + self.n_kept,
            shown=event.shown,
            seconds=now - run.started,
            estimated_seconds=run.estimated_seconds,
            level=event.level,
            bound=event.bound,
            partial=event.maps,
            preview=event.preview,
            images_done=self._images_done + self.n_kept,
            reused=event.reused + self.windows_kept,
            within_s=run.within_s,
            left_s=0.0 if run.within_s is None else max(0.0, run.deadline - now),
        )
        try:
            self.call(progress)
        except BaseException as error:
            self.raised = error
            raise
