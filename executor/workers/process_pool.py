"""Workers as processes of this machine, each at the end of a pipe."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any, Literal

from obeql.errors import UnsupportedError
from obeql.executor.workers.pool import Worker, WorkerPool
from obeql.executor.workers.protocol import Order, Report
from obeql.executor.workers.worker import work

__all__ = ["ProcessPool"]

#: How processes are started. The other way is for tests: from a server that has imported PyTorch, which saves seconds.
START: Literal["spawn"] = "spawn"

#: A worker that was told to end, or whose pipe is closed, is killed after so many seconds.
_PATIENCE_SECONDS = 5.0


class ProcessWorker(Worker):
    """A process of this machine."""

    def __init__(self, place: int, process: SpawnProcess, connection: Connection) -> None:
        super().__init__(place)
        self.process = process
        self.connection = connection

    def answer(self, message: Any) -> None:
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> Sequence[Report] | None:
        try:
            reports: list[Report] = self.connection.recv()
        except (EOFError, OSError):
            return None
        return reports

    @property
    def end(self) -> str:
        self.process.join(_PATIENCE_SECONDS)
        code = self.process.exitcode
        if code is None:
            return "its pipe broke"
        if code >= 0:
            return f"it ended with exit code {code}"
        with suppress(ValueError):
            return f"it was killed by {signal.Signals(-code).name}"
        return f"it was killed by signal {-code}"


class ProcessPool(WorkerPool[ProcessWorker]):
    """Spawned processes. Raises UnsupportedError in a process that may have none."""

    def __init__(self, orders: Sequence[Order]) -> None:
        if multiprocessing.current_process().daemon:
            raise UnsupportedError("This process is a worker of a pool and may start none of its own; use workers=0.")
        super().__init__(orders)

    def start(self, place: int) -> None:
        context = multiprocessing.get_context(START)
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs,), name=f"obeql worker {place}", daemon=True)
        with theirs, _apart():
            process.start()
        worker = ProcessWorker(place, process, ours)
        self.workers.append(worker)
        worker.answer(self._orders[place])

    def remove(self, worker: ProcessWorker) -> None:
        self.workers.remove(worker)
        _end([worker])

    def release(self, worker: ProcessWorker) -> None:
        worker.process.terminate()
        self.remove(worker)

    def ready(self, seconds: float) -> list[ProcessWorker]:
        spoken = wait([worker.connection for worker in self.workers], seconds)
        return [worker for worker in self.workers if worker.connection in spoken]

    def end(self) -> None:
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.process.terminate()
        _end(workers)


def _end(workers: Sequence[ProcessWorker]) -> None:
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
