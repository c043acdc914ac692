"""What a worker process does: execute the plan, with a line to the coordinator as its feed, sink and source.

Started by `processes` or `ray_actor`. It ends when the coordinator says so, or is gone: then the line breaks.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from obeql.errors import ExecutionError, StoreError
from obeql.executor.images import Placement, SourceFacts, SourceImage, decode_file
from obeql.executor.progress import CancelledError, Progress, RunReport
from obeql.executor.run import execute
from obeql.executor.workers.messages import (
    At,
    Broken,
    Computed,
    End,
    Failed,
    Finished,
    Flush,
    Job,
    Kept,
    Line,
    Order,
    Report,
    Shard,
    Stop,
    StoredCells,
    StoredTop,
    Take,
    Unfit,
    Unseen,
)
from obeql.executor.workers.shipping import receive_graph
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, MapCells

__all__ = ["work"]

#: A worker says no more often than this how far it is.
_TELL_SECONDS = 0.1


def work(line: Line) -> None:
    """The main function of a worker process: wait for its Order, carry it out, end."""
    with closing(line), suppress(CancelledError, EOFError, OSError):  # the last two: the coordinator is gone
        order: Order = line.recv()
        torch.set_num_threads(order.threads)
        link = _Link(line, order)
        try:
            try:
                link.run()
            finally:
                link.ship()  # also when the coordinator is gone: the next run finds the file
        except CancelledError:
            raise
        except (OSError, StoreError) as error:  # a full disk, say
            link.send(Unfit(str(error)))
        except Exception as error:
            link.send(Broken(_portable(error)))


class _Link:
    """The coordinator as seen from a worker: an `ImageFeed`, a `CellSink` and a `CellSource`."""

    def __init__(self, line: Line, order: Order) -> None:
        self._line = line
        self._order = order
        self._per_image = sum(grid.n_windows for grid in order.plan.grids)
        self._sources: dict[int, SourceImage | str] = {}
        #: the image at work, and what decoding it told
        self._facts: tuple[SourceFacts, Placement] | None = None
        self._beside: Sequence[MapCells] = ()
        #: images whose maps wait for their file
        self._computed: list[int] = []
        self._told_at = 0.0
        self._report = RunReport()

    def run(self) -> None:
        """Execute the plan on what the coordinator hands out."""
        order = self._order
        execute(
            order.plan,
            lambda: receive_graph(order.network, order.trusted),
            self.load,
            self,
            self.decoded,
            self.tell if order.tells else None,
            self.stopped,
            order.analyze,
            self,
            self,
            self._report,
        )
        self.ship()
        self.send(End(_sent(self._report)))

    # ---- the line ----------------------------------------------------------------------------------------------

    def send(self, message: Report) -> None:
        try:
            self._line.send(message)
        except OSError:  # the coordinator is gone
            raise CancelledError from None

    def _ask(self, question: Report) -> Any:
        self.send(question)
        try:
            answer = self._line.recv()
        except (EOFError, OSError):
            raise CancelledError from None
        if isinstance(answer, Stop):
            raise CancelledError
        return answer

    def stopped(self) -> bool:
        """Whether the coordinator has said Stop or is gone; nothing else comes unasked."""
        try:
            return self._line.poll()
        except OSError:
            return True

    # ---- images ------------------------------------------------------------------------------------------------

    def next(self, ahead: bool) -> ImageRecord | None:
        job = self._job(ahead)
        while job is not None and job.pixels is None and not Path(job.file).exists():
            job = self._ask(Unseen(job.number)) or self._job(ahead)
        if job is None:
            return None
        self._sources[job.number] = job.file if job.pixels is None else job.pixels
        return replace(job.image, image_id=job.number)

    def _job(self, ahead: bool) -> Job | None:
        while isinstance(job := self._ask(Take(ahead)), Flush):
            self.ship()
        assert job is None or isinstance(job, Job)
        return job

    def load(self, image: ImageRecord) -> SourceImage:
        """Decode an image; on the thread that decodes ahead. Raises ImageError."""
        source = self._sources.pop(_number(image))
        return decode_file(source) if isinstance(source, str) else source

    def decoded(self, image: ImageRecord, facts: SourceFacts, placement: Placement) -> None:
        """Remember what is known of the image whose maps come next."""
        self._facts = facts, placement

    # ---- cells -------------------------------------------------------------------------------------------------

    def stored(self, key: CellKey, class_ids: Sequence[int]) -> Sequence[MapCells]:
        maps: Sequence[MapCells] = self._ask(StoredCells(key, tuple(class_ids)))
        return maps

    def stored_top_class(self, key: CellKey) -> int | None:
        top: int | None = self._ask(StoredTop(key))
        return top

    def write(self, image: ImageRecord, maps: Sequence[MapCells]) -> None:
        assert self._facts is not None
        beside, self._beside = self._beside, ()
        if self._order.shards is None:
            self.send(Finished(_number(image), *self._facts, maps, beside, _sent(self._report)))
            return
        self._order.shards.add(image, *self._facts, maps, beside)
        self._computed.append(_number(image))
        self.send(Computed(_number(image), _sent(self._report)))
        self.settle()

    def keep_beside(self, image: ImageRecord, maps: Sequence[MapCells]) -> None:
        self._beside = maps

    def fail(self, image: ImageRecord, error: str) -> None:
        self.send(Failed(_number(image), error, _sent(self._report)))

    def keep(self, image: ImageRecord, place: int, maps: Sequence[MapCells]) -> None:
        self.send(Kept(_number(image), place, maps))

    def settle(self) -> int:
        if self._order.shards is not None and self._order.shards.due:
            self.ship()
        return 0  # the coordinator's to say

    def ship(self) -> None:
        """Write what waits into a file, and say so."""
        if self._computed:
            assert self._order.shards is not None
            numbers, self._computed = tuple(self._computed), []
            self.send(Shard(self._order.shards.flush(), numbers))

    def tell(self, progress: Progress) -> None:
        """Say how far the image at work is, not too often."""
        now = time.monotonic()
        done = progress.done - progress.image * self._per_image
        if now - self._told_at < _TELL_SECONDS or done >= self._per_image:  # that an image is done, Finished says
            return
        self._told_at = now
        self.send(At(done, progress.level, progress.bound))


def _number(image: ImageRecord) -> int:
    assert image.image_id is not None
    return image.image_id


def _sent(report: RunReport) -> RunReport:
    """A report without the failures, which are told one by one."""
    return replace(report, failures=[])


def _portable(error: Exception) -> Exception:
    """The error itself where it survives a pipe, else its words."""
    with suppress(Exception):
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    return ExecutionError(f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}")
