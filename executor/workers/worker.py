"""What a worker process does: execute the plan, with a line to the coordinator as its feed, sink and source.

Started by `process_pool` or `ray.actor`. It ends when the coordinator says so, or is gone: then the line breaks.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from obeql.errors import ExecutionError, StoreError
from obeql.executor.execution.context import ExplainedImage, RunContext
from obeql.executor.execution.events import CancelledError, CellsComputed, Event
from obeql.executor.execution.executor import execute
from obeql.executor.execution.report import RunReport
from obeql.executor.images import SourceImage, decode_file
from obeql.executor.workers.model_transfer import receive_graph
from obeql.executor.workers.protocol import (
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
    Work,
)
from obeql.planner.binding.image_paths import bare_path, file_of
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, ImageHashes, MapCells

__all__ = ["work"]

#: A worker says no more often than this how far it is.
_TELL_SECONDS = 0.1
#: What may wait so long for other reports, because each message costs both sides a fraction of a millisecond, and on
#: Ray several.
_PATIENT = (At, Finished, Computed, Failed)
_HOLD_SECONDS = 0.2


def work(line: Line) -> None:
    """Run a worker process: wait for its Order, carry it out, end."""
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
            link.say(Unfit(str(error)))
        except Exception as error:
            link.say(Broken(_portable(error)))
        finally:
            link.flush()


class _Link:
    """The coordinator as seen from a worker: an `ImageFeed`, a `CellSink` and a `CellSource`."""

    def __init__(self, line: Line, order: Order) -> None:
        self._line = line
        self._order = order
        #: windows that the executor counts of an image that is done: it knows of none that only some images have
        self._per_image = sum(grid.n_windows for grid in order.plan.grids if grid.of_image("") is None)
        #: groups that are at hand, and where the images of those at work are
        self._groups: deque[tuple[Job, ...]] = deque()
        self._jobs: dict[int, Job] = {}
        #: images that are done
        self._n_done = 0
        #: reports that wait, the first of them since then
        self._held: list[Report] = []
        self._held_since = 0.0
        #: images whose maps wait for their file
        self._computed: list[int] = []
        self._told_at = 0.0
        self._report = RunReport()

    def run(self) -> None:
        """Execute the plan on what the coordinator hands out."""
        order = self._order
        on_event = self.tell if order.tells else None
        context = RunContext(self.load, self, self, on_event, self.stopped, order.analyze)
        execute(order.plan, lambda: receive_graph(order.network, order.trusted), context, self, self._report)
        self.ship()
        self.say(End(_sent(self._report)))

    # ---- the line ----------------------------------------------------------------------------------------------

    def say(self, report: Report) -> None:
        """Send a report, or keep it for a moment."""
        if not self._held:
            self._held_since = time.monotonic()
        self._held.append(report)
        if not isinstance(report, _PATIENT):
            self.flush()
        self._flush_late()

    def flush(self) -> None:
        """Send what waits."""
        reports, self._held = self._held, []
        try:
            if reports:
                self._line.send(reports)
        except OSError:  # the coordinator is gone
            raise CancelledError from None

    def _flush_late(self) -> None:
        if self._held and time.monotonic() - self._held_since >= _HOLD_SECONDS:
            self.flush()

    def _ask(self, question: Report) -> Any:
        self.say(question)
        try:
            answer = self._line.recv()
        except (EOFError, OSError):
            raise CancelledError from None
        if isinstance(answer, Stop):
            raise CancelledError
        return answer

    def stopped(self) -> bool:
        """Return whether the coordinator has said Stop or is gone; nothing else comes unasked. Between batches."""
        self._flush_late()
        try:
            return self._line.poll()
        except OSError:
            return True

    # ---- images ------------------------------------------------------------------------------------------------

    def next(self, ahead: bool) -> Sequence[ImageRecord] | None:
        while True:
            while not self._groups:
                work = self._ask(Take(ahead))
                if work is None:
                    return None
                if isinstance(work, Flush):
                    self.ship()
                else:
                    assert isinstance(work, Work)
                    self._groups.extend(work.groups)
            jobs = [self._seen(job) for job in self._groups.popleft()]
            group = [replace(job.image, image_id=job.number) for job in jobs if job is not None]
            if group:
                return group

    def _seen(self, job: Job) -> Job | None:
        """Return a job whose image can be read here; None where the coordinator cannot read it either."""
        known: Job | None = job
        if job.pixels is None and not Path(file_of(bare_path(job.file))).exists():
            known = self._ask(Unseen(job.number))
        if known is not None:
            self._jobs[known.number] = known
        return known

    def load(self, image: ImageRecord, n_axes: int) -> SourceImage:
        """Decode an image; on the thread that decodes ahead. Raises ImageError."""
        job = self._jobs.pop(_number(image))
        source = decode_file(job.file, n_axes) if job.pixels is None else job.pixels
        if job.kept:
            self._order.known.add(source.digest)
        return source

    # ---- cells -------------------------------------------------------------------------------------------------

    def images_with_cells(self, model_hash: str, preprocessing_hash: str) -> ImageHashes:
        return self._order.known

    def stored(self, key: CellKey, class_ids: Sequence[int]) -> Sequence[MapCells]:
        maps: Sequence[MapCells] = self._ask(StoredCells(key, tuple(class_ids)))
        return maps

    def stored_top_class(self, key: CellKey) -> int | None:
        top: int | None = self._ask(StoredTop(key))
        return top

    def write(self, explained: ExplainedImage) -> None:
        number = _number(explained.image)
        self._n_done += 1
        if self._order.shards is None:
            self.say(Finished(number, explained, _sent(self._report)))
            return
        if not self._order.shards.has_room(len(explained.maps) + len(explained.extra_maps)):
            self.ship()
        self._order.shards.add(explained)
        self._computed.append(number)
        self.say(Computed(number, _sent(self._report), explained.facts.n_pages))
        self.settle()

    def fail(self, image: ImageRecord, error: str) -> None:
        self._n_done += 1
        self.say(Failed(_number(image), error, _sent(self._report)))

    def keep(self, explained: ExplainedImage, place: int) -> None:
        self.say(Kept(_number(explained.image), explained, place))

    def settle(self) -> int:
        if self._order.shards is not None and self._order.shards.due:
            self.ship()
        return 0  # the coordinator's to say

    def ship(self) -> None:
        """Write what waits into a file, and say so."""
        if self._computed:
            assert self._order.shards is not None
            numbers, self._computed = tuple(self._computed), []
            self.say(Shard(self._order.shards.flush(), numbers))

    def tell(self, event: Event) -> None:
        """Say how far the group at work is, not too often."""
        if not isinstance(event, CellsComputed):  # of the others the coordinator hears otherwise
            return
        now = time.monotonic()
        done = event.done - self._n_done * self._per_image
        if now - self._told_at < _TELL_SECONDS or done <= 0:  # that an image is done, Finished says
            return
        self._told_at = now
        self.say(At(done, event.level, event.bound))


def _number(image: ImageRecord) -> int:
    assert image.image_id is not None
    return image.image_id


def _sent(report: RunReport) -> RunReport:
    """Return a report without the failures, which are told one by one."""
    return replace(report, failures=[])


def _portable(error: Exception) -> Exception:
    """Return the error itself where it survives a pipe, else its words."""
    with suppress(Exception):
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    return ExecutionError(f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}")
