"""What the coordinator knows of its workers, whatever they are: one interface for processes and for actors of Ray.

`process_pool` and `ray.pool` fill it in. A worker is at the other end of a line: it says one thing after the other, and
is answered where it asks.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

from obeql.executor.execution.report import RunReport
from obeql.executor.workers.protocol import Order, Report
from obeql.executor.workers.work_queue import Group

__all__ = ["Worker", "WorkerPool"]


class Worker(ABC):
    """A worker, and what the coordinator notes of it. `place` is its number in the pool, which decides its order."""

    def __init__(self, place: int) -> None:
        self.place = place
        #: the groups of images it has, by their numbers: first the one at work
        self.groups: list[Group] = []
        #: when it was given its first group, and how many images it has finished since
        self.since = 0.0
        self.n_images = 0
        #: the images it has computed whose file it has not told of
        self.computed: list[int] = []
        #: whether it has said anything yet
        self.has_started = False
        #: whether it waits for an image that is not to be had yet
        self.waits = False
        #: windows of the group at work that are computed
        self.n_windows = 0
        self.report = RunReport()
        #: why it ends, where it said so itself
        self.fault = ""

    def finished(self, number: int) -> None:
        """Note that an image is computed, or has failed."""
        (at,) = (at for at, group in enumerate(self.groups) if number in group)
        left = tuple(other for other in self.groups[at] if other != number)
        self.groups[at : at + 1] = [left] if left else []
        self.n_windows = 0
        self.n_images += 1

    @property
    def seconds_an_image(self) -> float | None:
        """Seconds that an image has taken so far; None before the first."""
        return (time.monotonic() - self.since) / self.n_images if self.n_images else None

    @abstractmethod
    def answer(self, message: Any) -> None:
        """Send what it waits for. That it has died meanwhile is noticed by `receive`, not here."""

    @abstractmethod
    def receive(self) -> Sequence[Report] | None:
        """Return what it has said, in order; None when it is gone. Only for workers that are `WorkerPool.ready`."""

    @property
    @abstractmethod
    def end(self) -> str:
        """Return how it ended, in words, once it is gone."""


SomeWorker = TypeVar("SomeWorker", bound=Worker)


class WorkerPool(ABC, Generic[SomeWorker]):
    """As many workers as there are orders, one order each. A context manager: at its end no worker is left."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self._orders = orders
        self.workers: list[SomeWorker] = []

    def __enter__(self) -> WorkerPool[SomeWorker]:
        try:
            self.begin()
            for place in range(len(self._orders)):
                self.start(place)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def begin(self) -> None:
        """Make ready what all workers need, before the first is started."""
        return

    @abstractmethod
    def start(self, place: int) -> None:
        """Start the worker of a place. Returns at once; the worker is heard when it is there."""

    @abstractmethod
    def ready(self, seconds: float) -> list[SomeWorker]:
        """Return the workers that have said something or are gone; waits for the first of them so long."""

    @abstractmethod
    def remove(self, worker: SomeWorker) -> None:
        """Let go of a worker that is gone."""

    def release(self, worker: SomeWorker) -> None:
        """Let go of a worker that has done its last image, without waiting until it is gone by itself."""
        self.remove(worker)

    @abstractmethod
    def end(self) -> None:
        """Leave no worker behind."""
