"""One thread that runs what the page asks for, one after the other: statements, which can be stopped, and questions.

Between `app`, which hands requests over and waits without blocking its event loop, and the session. Closing a browser
changes nothing here: a statement ends when it is done, when it fails, or when it is stopped.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from obeql.errors import ExecutionError
from obeql.web.live import LiveView
from obeql.web.outcomes import error_facts, outcome_facts

if TYPE_CHECKING:
    from obeql.executor.execution.progress import Progress
    from obeql.session.session import Session
    from obeql.web.guard import Guard

__all__ = ["BusyError", "Job", "Worker"]

T = TypeVar("T")
State = Literal["waiting", "running", "done", "failed", "stopped"]

#: Statements that have ended and can still be asked about, and most that may wait.
_REMEMBERED, _MOST_WAITING = 100, 50


class BusyError(ExecutionError):
    """A quick question that came while a statement runs or waits."""


@dataclass(eq=False)
class Job:
    """One text that was handed in: a statement, or a script of several. `version` counts its changes."""

    job_id: int
    text: str
    state: State = "waiting"
    version: int = 1
    live: LiveView = field(default_factory=lambda: LiveView({}))
    #: what it yielded, or why it failed
    outcome: dict[str, Any] = field(default_factory=dict)
    asked_at: float = field(default_factory=time.time)
    seconds: float = 0.0
    stop_asked: bool = False

    @property
    def ended(self) -> bool:
        """Return whether nothing of it runs or waits any more."""
        return self.state in ("done", "failed", "stopped")

    def facts(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "job_id": self.job_id,
            "text": self.text,
            "state": self.state,
            "version": self.version,
            "asked_at": self.asked_at,
            "seconds": round(self.seconds, 3),
            "progress": self.live.facts,
            "outcome": self.outcome,
        }


class Worker:
    """Runs jobs and quick questions in its thread; `changed` is called, in that thread, whenever a job has changed."""

    def __init__(self, session: Session, guard: Guard, changed: Callable[[], None]) -> None:
        self._session = session
        self.guard = guard
        self._changed = changed
        self._lock = threading.Condition()
        self._waiting: deque[Job | tuple[Callable[[], Any], Future[Any]]] = deque()
        self._jobs: OrderedDict[int, Job] = OrderedDict()
        self._numbers = itertools.count(1)
        self._running: Job | None = None
        #: whether the session is at work for this page, so that `cancel` is for it and for nobody else's statement
        self._is_inside = False
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="obeql-page", daemon=True)
        self._thread.start()

    # ---- asked from other threads -----------------------------------------------------------------------------

    def submit(self, text: str) -> Job:
        """Take a text to run after those before it. Raises BusyError where too many wait."""
        with self._lock:
            self._require_open()
            if sum(isinstance(each, Job) for each in self._waiting) >= _MOST_WAITING:
                raise BusyError(f"{_MOST_WAITING} statements wait already; stop some, or wait for the first.")
            job = Job(next(self._numbers), text)
            self._jobs[job.job_id] = job
            self._forget()
            self._waiting.append(job)
            self._lock.notify()
        self._changed()
        return job

    def ask(self, question: Callable[[], T], patient: bool = False) -> Future[T]:
        """Take a quick question of the session. Raises BusyError while a statement runs, unless it is `patient`."""
        future: Future[T] = Future()
        with self._lock:
            self._require_open()
            if not patient and (self._running is not None or any(isinstance(each, Job) for each in self._waiting)):
                raise BusyError("The model is at work on a statement.")
            self._waiting.append((question, future))
            self._lock.notify()
        return future

    async def answer(self, question: Callable[[], T], patient: bool = False) -> T:
        """Return the answer to a quick question without blocking the event loop."""
        return await asyncio.wrap_future(self.ask(question, patient))

    def jobs(self) -> list[Job]:
        """Return the jobs, newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def job(self, job_id: int) -> Job | None:
        """Return a job; None where it is not known, or long forgotten."""
        with self._lock:
            return self._jobs.get(job_id)

    def stop(self, job: Job) -> None:
        """Ask a job to stop; what it has computed is kept as the session says."""
        with self._lock:
            job.stop_asked = True
            if job.state == "waiting":
                self._waiting.remove(job)
                self._end(job, "stopped", {"kind": "stopped", "text": "stopped before it began"})
            elif job is self._running and self._is_inside:
                self._session.cancel()
        self._changed()

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop what runs and what waits, and end the thread; a second call does nothing."""
        with self._lock:
            self._closing = True
            running = self._running
            for each in [each for each in self._waiting if isinstance(each, Job)]:
                each.stop_asked = True
        if running is not None:
            self.stop(running)
        elif self._is_inside:  # a question, such as a plan for which a device is being measured
            self._session.cancel()
        with self._lock:
            self._lock.notify_all()
        if timeout_s and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    # ---- in the thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closing:
                    self._lock.wait()
                if self._closing:
                    self._drop_waiting()
                    return
                each = self._waiting.popleft()
                if isinstance(each, Job):
                    self._running = each
                    each.state = "running"
            if isinstance(each, Job):
                self._run(each)
                continue
            question, future = each
            if future.set_running_or_notify_cancel():
                self._is_inside = True
                try:
                    future.set_result(question())
                except BaseException as error:
                    future.set_exception(error if isinstance(error, Exception) else ExecutionError(str(error)))
                finally:
                    self._is_inside = False

    def _drop_waiting(self) -> None:
        for each in self._waiting:
            if isinstance(each, Job):
                self._end(each, "stopped", {"kind": "stopped", "text": "stopped before it began"})
            else:
                each[1].cancel()
        self._waiting.clear()

    def _run(self, job: Job) -> None:
        from obeql.grammar import parse_script  # noqa: PLC0415 - lark is loaded behind the first page

        started = time.perf_counter()
        state: State = "done"
        outcome: dict[str, Any] = {}
        self._touch(job)

        def tell(progress: Progress) -> None:
            self._is_inside = True
            job.live.take(progress)
            job.seconds = time.perf_counter() - started
            self._touch(job)
            if job.stop_asked:
                self._session.cancel()

        try:
            for statement in parse_script(job.text):
                self.guard.check(statement)
            for found in self._session.run_script(job.text, None, tell):
                outcome = outcome_facts(found)
                if job.stop_asked:
                    break
        except KeyboardInterrupt as stop:
            state, outcome = "stopped", {"kind": "stopped", "text": str(stop) or "stopped"}
        except Exception as error:
            state, outcome = "failed", error_facts(error)
        finally:
            self._is_inside = False
        job.seconds = time.perf_counter() - started
        with self._lock:
            self._running = None
            self._end(job, state, outcome)
        self._changed()

    def _end(self, job: Job, state: State, outcome: dict[str, Any]) -> None:
        job.outcome, job.state = outcome, state
        job.version += 1

    def _touch(self, job: Job) -> None:
        job.version += 1
        self._changed()

    def _forget(self) -> None:
        """Let go of the oldest jobs that have ended."""
        ended = [job_id for job_id, job in self._jobs.items() if job.ended]
        for job_id in ended[: max(0, len(self._jobs) - _REMEMBERED)]:
            del self._jobs[job_id]

    def _require_open(self) -> None:
        if self._closing:
            raise BusyError("The page is being closed.")
