"""What a run says of itself: `Progress` while it goes on, a `RunReport` at its end.

Made by `executor` and the workers' coordinator between batches, and by the session before the first of them. Without
torch, so that a callback can be told that torch is being loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import MapCells

if TYPE_CHECKING:
    from obeql.executor.execution.preview import Preview

__all__ = ["CancelledError", "OnProgress", "Progress", "RunReport", "Unit"]

Unit = Literal["windows", "images", "maps", "models"]


class CancelledError(Exception):
    """The user asked to stop; maps that the sink has taken are kept."""


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
    #: of a map that is refined: levels computed, its bound, and the maps as they stand, just after each level
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


@dataclass(slots=True)
class RunReport:
    """What a run did: measured seconds by part, windows computed and taken from the store, images that failed.

    `n_skipped` of the windows computed hide nothing, so that the clean pass answered for them.
    """

    n_windows: int = 0
    n_skipped: int = 0
    n_stored: int = 0
    n_maps: int = 0
    failures: list[tuple[ImageRecord, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    #: with `analyze`, measured seconds by layer for each grid, over all images
    layers: list[dict[int, float]] = field(default_factory=list)
    #: by precision, and by where: estimated seconds of the windows computed, and those that they kept the device busy
    pace: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.add(part, time.perf_counter() - started)

    @classmethod
    def sum_of(cls, reports: Sequence[RunReport]) -> RunReport:
        """Return what several workers did, without their failures."""
        total = cls()
        for report in reports:
            total.n_windows += report.n_windows
            total.n_skipped += report.n_skipped
            total.n_stored += report.n_stored
            total.n_maps += report.n_maps
            for part, seconds in report.seconds.items():
                total.add(part, seconds)
            for precision, pace in report.pace.items():
                own = total.pace.setdefault(precision, {})
                for where, (expected, busy) in pace.items():
                    before = own.get(where, (0.0, 0.0))
                    own[where] = before[0] + expected, before[1] + busy
            total.layers += [{} for _ in report.layers[len(total.layers) :]]
            for layers, measured in zip(total.layers, report.layers, strict=False):
                for layer, seconds in measured.items():
                    layers[layer] = layers.get(layer, 0.0) + seconds
        return total

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
