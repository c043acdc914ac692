"""The worker processes of a run: started, replaced when they die, ended. What they are told is `coordinator`'s."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any

from obeql.errors import UnsupportedError
from obeql.executor.progress import RunReport
from obeql.executor.workers.messages import Order
from obeql.executor.workers.worker import work

__all__ = ["Crew", "Worker"]

#: A worker that was told to end, or whose pipe is closed, is killed after so many seconds.
_PATIENCE_SECONDS = 5.0


@dataclass(eq=False)
class Worker:
    """A process, and what the coordinator knows of it. `place` is its number in the crew, which decides its device."""

    place: int
    process: SpawnProcess
    connection: Connection
    #: the images it has, by their number: first the one at work
    jobs: list[int] = field(default_factory=list)
    #: the images it has computed whose file it has not told of
    computed: list[int] = field(default_factory=list)
    #: whether it has said anything yet
    heard: bool = False
    #: whether it waits for an image that is not to be had yet
    waits: bool = False
    #: windows of the image at work that are computed
    n_windows: int = 0
    report: RunReport = field(default_factory=RunReport)

    def answer(self, message: Any) -> None:
        """Send what it waits for. A worker that has died meanwhile is noticed by its pipe, not here."""
        with suppress(OSError):
            self.connection.send(message)

    @property
    def end(self) -> str:
        """How the process ended, in words; waits for it."""
        self.process.join(_PATIENCE_SECONDS)
        code = self.process.exitcode
        if code is None:
            return "its pipe broke"
        if code >= 0:
            return f"it ended with exit code {code}"
        with suppress(ValueError):
            return f"it was killed by {signal.Signals(-code).name}"
        return f"it was killed by signal {-code}"


class Crew:
    """As many workers as there are orders, one order each. A context manager: at its end no process is left."""

    def __init__(self, orders: Sequence[Order]) -> None:
        if multiprocessing.current_process().daemon:
            raise UnsupportedError("This process is a worker of a pool and may start none of its own; use workers=0.")
        self._orders = orders
        self.workers: list[Worker] = []

    def __enter__(self) -> Crew:
        try:
            for place in range(len(self._orders)):
                self.start(place)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def start(self, place: int) -> None:
        """Start the worker of a place."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs,), name=f"obeql worker {place}", daemon=True)
        with theirs, _apart():
            process.start()
        worker = Worker(place, process, ours)
        self.workers.append(worker)
        worker.answer(self._orders[place])

    def remove(self, worker: Worker) -> None:
        """Let go of a worker whose pipe is closed."""
        self.workers.remove(worker)
        _end([worker])

    def dismiss(self, worker: Worker) -> None:
        """Let go of a worker that has done its last image, without waiting for the interpreter to take itself apart."""
        worker.process.terminate()
        self.remove(worker)

    def ready(self, seconds: float) -> list[Worker]:
        """Workers that have said something, or whose pipe is closed; waits for the first of them so long."""
        spoken = wait([worker.connection for worker in self.workers], seconds)
        return [worker for worker in self.workers if worker.connection in spoken]

    def end(self) -> None:
        """Leave no process behind."""
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.process.terminate()
        _end(workers)


def _end(workers: Sequence[Worker]) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    for worker in workers:
        worker.connection.close()  # a worker that reads or writes sees that
        worker.process.join(max(0.0, until - time.monotonic()))
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()
        worker.process.close()


@contextmanager
def _apart() -> Iterator[None]:
    """Start a process that neither runs the user's script once more nor hears Ctrl-C, which is the coordinator's.

    `spawn` gives a process the main module of this one, by running its file again. Workers need nothing of it, and a
    script without `if __name__ == "__main__"` would start over. A blocked signal stays blocked in what is started.
    """
    main = sys.modules["__main__"]
    resource_tracker.ensure_running()  # itself a process, and its start would unblock the signal
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
