"""What workers and the coordinator say to each other; each is pickled, and carried by a `Line`.

A worker speaks first, in lists: reports wait a moment for others. `Take`, `Unseen`, `StoredCells` and `StoredTop` are
questions, after which it waits for the answer; the others are reports. The coordinator only answers, except for
`Stop`, which may come at any time, also in place of an answer. `shards` says what changes where workers write their
maps into files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from obeql.executor.execution.context import ExplainedImage
from obeql.executor.images import SourceImage
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, ImageHashes
from obeql.planner.physical.plan import ExplainPlan

if TYPE_CHECKING:
    from obeql.executor.execution.report import RunReport
    from obeql.executor.workers.shards import ShardWriter

__all__ = [
    "At",
    "Broken",
    "Computed",
    "End",
    "Failed",
    "Finished",
    "Flush",
    "Job",
    "Kept",
    "Line",
    "Order",
    "Report",
    "Shard",
    "Stop",
    "StoredCells",
    "StoredTop",
    "Take",
    "Unfit",
    "Unseen",
    "Work",
]


class Line(Protocol):
    """A worker's end of what connects it with the coordinator: a pipe, or what looks like one."""

    def send(self, message: Any, /) -> None:
        """Say something, a list of reports; waits while much is unheard. Raises OSError where nobody is there."""
        ...

    def recv(self) -> Any:
        """Return the next thing that the coordinator says. Raises EOFError or OSError where it is gone."""
        ...

    def poll(self) -> bool:
        """Return whether the coordinator has said something that is not received yet, or is gone."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is started with: the plan without its images, the network, and how to compute.

    `network` is a file, or its bytes; only where the model is `trusted` may they name code that is not ours.
    """

    plan: ExplainPlan
    network: str | bytes
    trusted: bool
    threads: int
    analyze: bool
    #: whether anybody looks at the progress
    tells: bool
    #: images of which cells are stored; the coordinator need not be asked about others
    known: ImageHashes
    #: writes the maps into files; None: they go through the pipe
    shards: ShardWriter | None = None


@dataclass(frozen=True, slots=True)
class Take:
    """More images, please. Answered by Work, or by None: not before their turn, or, if not asked `ahead`, the end."""

    ahead: bool


@dataclass(frozen=True, slots=True)
class Job:
    """An image, by its place in the statement; with its pixels, or the full path of its file."""

    number: int
    image: ImageRecord
    file: str = ""
    pixels: SourceImage | None = None
    #: whether pieces of its maps were kept since the worker began
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """Groups of images; those of a group go through the network together."""

    groups: tuple[tuple[Job, ...], ...]


@dataclass(frozen=True, slots=True)
class Unseen:
    """The file of an image is not to be seen from here. Answered by a Job with its pixels, or by None: go without."""

    number: int


@dataclass(frozen=True, slots=True)
class StoredCells:
    """`CellSource.stored`, answered by its maps."""

    key: CellKey
    class_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StoredTop:
    """`CellSource.stored_top_class`, answered by the class or None."""

    key: CellKey


@dataclass(frozen=True, slots=True)
class At:
    """How many windows of the group at work are computed, and what is known of a map that is refined."""

    done: int
    level: int
    bound: float | None


@dataclass(frozen=True, slots=True)
class Finished:
    """The maps of an image, and all that this worker has done so far."""

    number: int
    explained: ExplainedImage
    report: RunReport


@dataclass(frozen=True, slots=True)
class Computed:
    """The maps of an image wait in the worker for the file that they are going to be in."""

    number: int
    report: RunReport
    #: of its file, where the first was taken
    n_pages: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A file that holds the maps of these images, durably, by its name in the folder of shards."""

    name: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """An image that cannot be explained."""

    number: int
    error: str
    report: RunReport


@dataclass(frozen=True, slots=True)
class Kept:
    """What there is of the maps of one grid of an image that is not finished."""

    number: int
    explained: ExplainedImage
    place: int


@dataclass(frozen=True, slots=True)
class End:
    """A worker has done its last image."""

    report: RunReport


@dataclass(frozen=True, slots=True)
class Broken:
    """An error that ends the statement, as it would in one process."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Unfit:
    """This worker ends, for reasons of the place where it runs, such as a full disk: what it had is for others."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """From the coordinator: keep what there is of the map at work, and end."""


@dataclass(frozen=True, slots=True)
class Flush:
    """From the coordinator, in place of Work: write what waits into a file, and ask again."""


Report = (
    At | Finished | Computed | Shard | Failed | Kept | End | Broken | Unfit | Take | Unseen | StoredCells | StoredTop
)
