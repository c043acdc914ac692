"""Hand the images of a plan to worker processes and what they find to the sink: `execute`, with several processes.

Comes after planning, in place of `execute`. The one process that touches the store is this one.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from obeql.errors import ExecutionError, ImageError
from obeql.executor.devices import devices_of, resolve_device
from obeql.executor.execution.context import RunContext
from obeql.executor.execution.events import (
    CancelledError,
    CellsComputed,
    Event,
    ImageFailed,
    ImagesStored,
    RunEnded,
    RunStarted,
)
from obeql.executor.execution.report import RunReport
from obeql.executor.network.graph import LayerGraph
from obeql.executor.workers.model_transfer import send_graph
from obeql.executor.workers.pool import Worker, WorkerPool
from obeql.executor.workers.process_pool import ProcessPool
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
from obeql.executor.workers.shards import ShardSink
from obeql.executor.workers.work_queue import MOST_ATTEMPTS, Group, WorkQueue
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import ImageHashes
from obeql.planner.physical.plan import ExplainPlan
from obeql.signals import defer_sigint

__all__ = ["distribute"]

#: Workers that die without an image, none finished in between, before no more are started.
_MOST_IDLE_DEATHS = 3
#: Workers of one place that end for reasons of where they run, before it gets no more.
_MOST_FAULTS = 2
#: How often the coordinator looks whether it is to stop.
_LOOK_SECONDS = 0.1
#: How long workers may keep what there is of their maps after they were told to stop.
_STOP_SECONDS = 5.0


def distribute(
    plan: ExplainPlan,
    graph: Callable[[], LayerGraph],
    context: RunContext[ShardSink],
) -> RunReport:
    """Compute every map of the plan with `plan.workers` workers and hand it to the sink, in the order of finishing.

    They are processes of this machine, or actors of Ray where the plan names a cluster. Each computes with as many
    threads as this process has set, and on the groups of images of `execute`, so that the cells are the same bits. An
    image whose worker dies is tried again in another, and goes to `sink.fail` after `MOST_ATTEMPTS`. The report's
    seconds are summed over workers, but for `total`. Raises what `execute` raises, ModelError when the network cannot
    be given to another process, UnsupportedError where workers of this kind cannot be had, and ExecutionError when they
    cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="obeql-") as folder:
        network = Path(folder) / "network.pt"
        send_graph(graph(), network)
        devices = _devices(plan)
        known, source = ImageHashes(), context.source
        if source is not None and plan.reuse:
            known = source.images_with_cells(plan.model.model_hash, plan.model.preprocessing.digest())
        trusted = plan.cluster is None or bool(plan.model.options.get("trust"))
        orders = [
            Order(
                replace(plan, images=(), device=devices[place % len(devices)]),
                str(network),
                trusted,
                torch.get_num_threads(),
                context.analyze,
                context.on_event is not None,
                known,
                context.sink.shards,
            )
            for place in range(min(plan.workers, -(-len(plan.images) // plan.together)))
        ]
        with _worker_pool(plan, orders) as pool:
            coordinator = _Coordinator(plan, pool, context)
            try:
                return coordinator.run()
            except BaseException:
                with suppress(Exception), defer_sigint():  # the first error is the one to tell
                    coordinator.stop()
                raise


def _devices(plan: ExplainPlan) -> tuple[str, ...]:
    """Return the devices of the workers, in turn. Ray gives each a GPU that is the only one it sees."""
    if plan.cluster is None:
        return devices_of(plan.device)
    return (resolve_device(plan.device).type,)


def _worker_pool(plan: ExplainPlan, orders: Sequence[Order]) -> WorkerPool[Any]:
    if plan.cluster is None:
        return ProcessPool(orders)
    from obeql.executor.workers.ray.pool import RayPool  # noqa: PLC0415 - Ray is optional

    return RayPool(orders, plan.cluster)


class _Coordinator:
    """One run: which images wait, which are at work, and what has been done."""

    def __init__(
        self,
        plan: ExplainPlan,
        pool: WorkerPool[Any],
        context: RunContext[ShardSink],
    ) -> None:
        self.plan = plan
        self.pool = pool
        self.context = context
        self.sink = context.sink
        self.source = context.source
        self.n_stored = 0
        self.started = time.perf_counter()
        self.n_workers = len(pool.workers)
        self.waiting = WorkQueue(len(plan.images), plan.together)
        #: images of which pieces were kept
        self.kept: set[int] = set()
        self.n_idle_deaths = 0
        #: by place, workers that ended for reasons of where they run
        self.faults: Counter[int] = Counter()
        self.n_done = 0
        #: windows of the images that are done
        self.n_windows = 0
        #: windows that were reported
        self.told = 0
        self.failures: list[tuple[ImageRecord, str]] = []
        #: of workers that are gone
        self.reports: list[RunReport] = []
        self.level: tuple[int, float | None] = 0, None
        self.shown = plan.images[0].shown

    def run(self) -> RunReport:
        """Run until every image is finished and every worker has ended, but for those that are still starting."""
        n_images = len(self.plan.images)
        estimated_s = self.plan.seconds * n_images / self.n_workers
        self._emit(RunStarted(n_images, self.plan.n_windows, estimated_s, self.started))
        self._tell()
        while self.n_done < len(self.plan.images) or any(worker.has_started for worker in self.pool.workers):
            for worker in self.pool.ready(_LOOK_SECONDS):
                self._listen(worker)
            self._serve()
            self._tell()
        report = self._summed()
        self._emit(RunEnded(report))
        return report

    def stop(self) -> None:
        """Tell the workers to stop, and take what they still have to say."""
        for worker in self.pool.workers:
            worker.answer(Stop())
        until = time.monotonic() + _STOP_SECONDS
        while any(w.has_started for w in self.pool.workers) and (left := until - time.monotonic()) > 0:
            for worker in self.pool.ready(left):
                reports = worker.receive()
                if reports is None:
                    self.pool.release(worker)
                for report in reports or ():
                    if isinstance(report, (Finished, Kept, Computed, Shard)):
                        self._take(worker, report)

    # ---- what workers say --------------------------------------------------------------------------------------

    def _listen(self, worker: Worker) -> None:
        reports = worker.receive()
        worker.has_started = True
        if reports is None:
            self._gone(worker)
        for report in reports or ():
            self._hear(worker, report)

    def _hear(self, worker: Worker, message: Report) -> None:
        match message:
            case Take(ahead=ahead):
                if ahead:
                    worker.answer(self._work_ahead(worker))
                else:
                    worker.waits = True
            case Unseen(number=number):
                worker.answer(self._job_with_pixels(worker, number))
            case StoredCells(key=key, class_ids=class_ids):
                worker.answer(() if self.source is None else self.source.stored(key, class_ids))
            case StoredTop(key=key):
                worker.answer(None if self.source is None else self.source.stored_top_class(key))
            case Broken(error=error):
                raise error
            case End(report=report):
                self.reports.append(report)
                self.pool.release(worker)
            case _:
                self._take(worker, message)

    def _take(self, worker: Worker, message: Report) -> None:
        """Take in what needs no answer."""
        match message:
            case At(done=done, level=level, bound=bound):
                worker.n_windows, self.level = done, (level, bound)
                if worker.groups:
                    self.shown = self.plan.images[worker.groups[0][0]].shown
            case Kept(number=number, explained=explained, place=place):
                self.sink.keep(replace(explained, image=self.plan.images[number]), place)
                self.kept.add(number)
            case Computed(number=number, report=report, n_pages=n_pages):
                self._computed(worker, number, report)
                self.sink.note_pages(self.plan.images[number], n_pages)
                worker.computed.append(number)
            case Shard(name=name, numbers=numbers):
                worker.computed = [number for number in worker.computed if number not in numbers]
                self._done(numbers)
                self.sink.take(name, [self.plan.images[number] for number in numbers])
            case Finished(number=number, explained=explained, report=report):
                self._computed(worker, number, report)
                self._done((number,))
                self.sink.write(replace(explained, image=self.plan.images[number]))
            case Failed(number=number, error=error, report=report):
                self._computed(worker, number, report)
                self._done((number,))
                self._fail(number, error)
            case Unfit(reason=reason):
                worker.fault = reason

    def _computed(self, worker: Worker, number: int, report: RunReport) -> None:
        worker.finished(number)
        worker.report = report
        self.shown = self.plan.images[number].shown

    def _done(self, numbers: Sequence[int]) -> None:
        self._count(numbers)
        self.n_idle_deaths = 0

    def _count(self, numbers: Sequence[int]) -> None:
        self.n_done += len(numbers)
        self.n_windows += self._windows_over(numbers)

    def _windows_over(self, numbers: Iterable[int]) -> int:
        return self.plan.windows_over(self.plan.images[number] for number in numbers)

    def _fail(self, number: int, error: str) -> None:
        image = self.plan.images[number]
        self.failures.append((image, error))
        self.sink.fail(image, error)
        self._emit(ImageFailed(image.shown, error))

    def _gone(self, worker: Worker) -> None:
        """Give the images of a worker that has ended, or died, to others."""
        self.reports.append(worker.report)
        how = worker.fault or worker.end
        self.pool.remove(worker)
        if self.n_done == len(self.plan.images):
            return
        self.waiting.put_back(self._as_groups(worker.computed))
        if worker.fault:
            self.waiting.put_back(worker.groups)
            self.faults[worker.place] += 1
        elif worker.groups:
            at_work, *ahead = worker.groups
            self.waiting.put_back(ahead)
            self._record_crash(at_work, how)
        elif self.waiting:
            self.n_idle_deaths += 1
        fit = self.n_idle_deaths < _MOST_IDLE_DEATHS and self.faults[worker.place] < _MOST_FAULTS
        if self.waiting and fit:
            self.pool.start(worker.place)
        elif self.waiting and not self.pool.workers:
            early = f", {self.n_idle_deaths} before they took an image" if self.n_idle_deaths else ""
            raise ExecutionError(f"All workers are gone{early}; of the last, {how}.")

    def _as_groups(self, numbers: Sequence[int]) -> list[Group]:
        """Return the images as the plan groups them."""
        groups: dict[int, Group] = {}
        for number in numbers:
            which = number // self.plan.together
            groups[which] = (*groups.get(which, ()), number)
        return list(groups.values())

    def _record_crash(self, group: Group, how: str) -> None:
        """Give a group at which a worker has died to another one; give an image up that too many have died of."""
        number = self.waiting.record_crash(group)
        if number is None:
            return
        self._count((number,))
        shown = self.plan.images[number].shown
        self._fail(number, f"{shown}: {MOST_ATTEMPTS} workers died of it; of the last, {how}")

    # ---- what they are given -----------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Give those that wait images, or the end once all are finished; else they write what they have."""
        for worker in self.pool.workers:
            if not worker.waits:
                continue
            if worker.computed and (self.waiting.has_quarantined or not self.waiting):
                worker.waits = False
                worker.answer(Flush())
            elif (work := self._work(worker)) is not None or self.n_done == len(self.plan.images):
                worker.waits = False
                worker.answer(work)

    def _work_ahead(self, worker: Worker) -> Work | None:
        """Return images to decode before their turn.

        There are some only while all workers have enough, and away from those that killed.
        """
        suspect = self.waiting.has_quarantined or any(map(self.waiting.is_quarantined, worker.groups))
        return None if suspect or len(self.waiting) < self.n_workers else self._work(worker)

    def _work(self, worker: Worker) -> Work | None:
        """Return the next groups of images that can be read, now the worker's."""
        worker.since = worker.since or time.monotonic()
        image_s = worker.seconds_an_image
        while groups := self.waiting.take(self.n_workers, image_s and image_s * self.plan.together):
            worker.groups += groups
            found = [[self._job(worker, number) for number in group] for group in groups]
            jobs = [tuple(job for job in group if job is not None) for group in found]
            if any(jobs):
                return Work(tuple(group for group in jobs if group))
        return None

    def _job(self, worker: Worker, number: int) -> Job | None:
        image = self.plan.images[number]
        if image.path is None:
            return self._job_with_pixels(worker, number)
        kept = number in self.kept
        return Job(number, replace(image, columns={}), str(Path(image.path).absolute()), kept=kept)

    def _job_with_pixels(self, worker: Worker, number: int) -> Job | None:
        """Return an image that the worker has, decoded here; None where that fails."""
        image = self.plan.images[number]
        try:
            pixels = self.context.load(image, len(self.plan.model.preprocessing.size))
            return Job(number, replace(image, columns={}), pixels=pixels, kept=number in self.kept)
        except ImageError as error:
            worker.finished(number)
            self._count((number,))
            self._fail(number, str(error))
            return None

    # ---- what is told ------------------------------------------------------------------------------------------

    def _emit(self, event: Event) -> None:
        if self.context.on_event is not None:
            self.context.on_event(event)

    def _tell(self) -> None:
        """Settle, stop if that is asked for, and tell how far the run is."""
        n_stored = self.sink.settle()
        if n_stored != self.n_stored:
            self.n_stored = n_stored
            self._emit(ImagesStored(n_stored))
        n_images = len(self.plan.images)
        if self.n_done < n_images and self.context.cancelled():
            raise CancelledError
        workers = self.pool.workers
        done = self.n_windows + sum(self._windows_over(each.computed) + each.n_windows for each in workers)
        self.told = max(self.told, done)  # the windows of a worker that died are computed again
        level, bound = self.level
        number = min(self.n_done, n_images - 1)
        self._emit(CellsComputed(number, self.shown, self.told, level=level, bound=bound))

    def _summed(self) -> RunReport:
        total = RunReport.sum_of(self.reports)
        total.failures = self.failures
        total.seconds["total"] = time.perf_counter() - self.started
        return total
