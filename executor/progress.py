"""What a callback is told while a statement runs. Without torch, so that it can be told that torch is being loaded.

Made by `run` and the workers' coordinator between batches, and by the session before the first of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from obeql.planner.cells import MapCells

if TYPE_CHECKING:
    from obeql.executor.preview import Preview

__all__ = ["OnProgress", "Progress", "Unit"]

Unit = Literal["windows", "images", "maps", "models"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a statement is. Windows count over all images and grids of a run; images that failed count as done.

    Before the first window `phase` says what is being done instead, such as loading a network; it is empty while
    windows are computed. What is stored already is found out after that, so that `total` may be less then. `unit` is
    what is counted: windows, images of PREDICT, maps of EVALUATE.

    `done` counts windows that are computed, `images_done` the images whose maps (or whose failure) are stored durably,
    whatever happens to the process from now on: the first so many of the run, unless several worker processes share
    it. `image` is the one at work, from 0; with workers, the number of those that are finished.
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

    @property
    def rate(self) -> float:
        """Windows, or what else is counted, a second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float:
        """Seconds left: by the rate so far once there is one, by the plan's estimate before, 0 without one."""
        if self.done == 0:
            return self.estimated_seconds
        return (self.total - self.done) / self.rate


OnProgress = Callable[[Progress], None]
