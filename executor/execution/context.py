"""What a plan is carried out with: where images and stored cells come from, where maps go, who listens.

Given to `execute` and `distribute` beside the plan and the network; made by the session, and by each worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from obeql.executor.execution.events import OnEvent
from obeql.executor.images import Placement, SourceFacts, SourceImage
from obeql.executor.operators.measured_windows import AskColumns
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellSource, MapCells

__all__ = ["CellSink", "ExplainedImage", "ImageLoader", "RunContext"]


class ImageLoader(Protocol):
    """Decodes an image of the plan for a model of so many spatial axes; raises ImageError."""

    def __call__(self, image: ImageRecord, n_axes: int) -> SourceImage: ...


@dataclass(frozen=True, slots=True, eq=False)
class ExplainedImage:
    """What was found of an image: what its file held, where it lies in the model's input, and its maps.

    `extra_maps` are for statements that come later, and no part of the run.
    """

    image: ImageRecord
    facts: SourceFacts
    placement: Placement
    maps: Sequence[MapCells]
    extra_maps: Sequence[MapCells] = ()


class CellSink(Protocol):
    """Takes finished maps; they are durable soon after, and all of them once the run is over."""

    def write(self, explained: ExplainedImage) -> None:
        """Take the maps of a finished image."""
        ...

    def fail(self, image: ImageRecord, error: str) -> None:
        """Take note of an image that cannot be explained, and why."""
        ...

    def keep(self, explained: ExplainedImage, place: int) -> None:
        """Make durable what there is of the maps of grid number `place` of an image that is not finished."""
        ...

    def settle(self) -> int:
        """Make durable what has waited long enough; return how many images are durable by now."""
        ...


SinkT_co = TypeVar("SinkT_co", bound=CellSink, covariant=True)


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class RunContext(Generic[SinkT_co]):
    """What a plan is carried out with.

    `source` has the cells that are stored, if any may be reused. `on_event` is told what happens, between batches;
    once `cancelled()` is true, the run stops there. `analyze` times every layer. `began` (of time.perf_counter) is when
    the time of WITHIN began. `ask_columns` reads the SQL of aggregates that a sample of the windows is to tell.
    """

    load: ImageLoader
    sink: SinkT_co
    source: CellSource | None = None
    on_event: OnEvent | None = None
    cancelled: Callable[[], bool] = _never
    analyze: bool = False
    began: float = field(default_factory=time.perf_counter)
    ask_columns: AskColumns | None = None
