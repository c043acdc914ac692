"""What happens in a run, told as it happens: one event after the other, to whoever listens.

Made by `executor` and the workers' coordinator between batches. Their readers: `progress`, which counts for bars, live
maps and callbacks, and a worker, which sends what it hears to the coordinator. Without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from obeql.planner.cells import MapCells

if TYPE_CHECKING:
    from obeql.executor.execution.preview import Preview
    from obeql.executor.execution.report import RunReport

__all__ = [
    "CancelledError",
    "CellsComputed",
    "Event",
    "ImageFailed",
    "ImageStarted",
    "ImagesStored",
    "OnEvent",
    "RunEnded",
    "RunStarted",
]


class CancelledError(Exception):
    """The user asked to stop; maps that the sink has taken are kept."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run has begun at `started`. Windows count over all images and grids; seconds are those that the plan estimates.

    `within_s` are the seconds of WITHIN, if there is one, and `deadline` is when they are over. Both times are those of
    time.perf_counter.
    """

    n_images: int
    n_windows: int
    estimated_seconds: float
    started: float
    within_s: float | None = None
    deadline: float = 0.0


@dataclass(frozen=True, slots=True)
class ImageStarted:
    """An image is about to be decoded: image `number` of the run, from 0. `done` windows of the run are done."""

    number: int
    shown: str
    done: int


@dataclass(frozen=True, slots=True)
class CellsComputed:
    """A batch is done, of images of which `number` is the first: `done` windows of the run, `reused` of them stored.

    Of a map that is refined, after each level: how many levels are computed, the bound, and the maps as they stand.
    Before the first one `maps` may be as a proxy guesses them, without a bound.
    `preview` is the map at work of the first class asked for; None between images.
    """

    number: int
    shown: str
    done: int
    reused: int = 0
    level: int = 0
    bound: float | None = None
    maps: tuple[MapCells, ...] = ()
    preview: Preview | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ImagesStored:
    """So many images of the run are durable by now, failed ones included, whatever happens to the process."""

    n_images: int


@dataclass(frozen=True, slots=True)
class ImageFailed:
    """An image cannot be explained, and why."""

    shown: str
    error: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """Every image is finished."""

    report: RunReport


Event = RunStarted | ImageStarted | CellsComputed | ImagesStored | ImageFailed | RunEnded
OnEvent = Callable[[Event], None]
