"""Progress of a job as server-sent events: what has changed, as fast as a browser takes it and no faster.

Between `worker`, whose thread says that something has changed, and a browser. Nothing is queued for anybody: an event
is the job as it stands, so that a slow browser misses states in between, one that comes back after a while needs no
other than the latest, and one that is gone leaves nothing behind. The id of an event is the job's version: a browser
that reconnects sends it, and is told of the job once that has changed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from obeql.web.worker import Job

__all__ = ["Changes", "job_events"]

#: Between two events; the eye follows no faster, and a run has better things to do.
_LEAST_S = 0.05
#: How often it is looked meanwhile whether the job has ended, which is told at once.
_STEPS = 5
#: A comment that keeps the connection, and finds out that a browser is gone.
_KEEP_ALIVE_S = 10.0


class Changes:
    """Wakes those that wait on an event loop when a thread says that something has changed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self.closing = False

    def begin(self) -> None:
        """Belong to the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    def tell(self) -> None:
        """Say from any thread that something has changed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """End all that wait; called on the loop or from a thread."""
        self.closing = True
        self.tell()

    def _wake(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Return whether something changed within so many seconds."""
        event = self._event
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            return False
        return True


async def job_events(job: Job, changes: Changes, seen: int) -> AsyncIterator[str]:
    """Yield the job whenever its version is not `seen` any more, until it has ended."""
    yield "retry: 500\n\n"
    while True:
        version, ended = job.version, job.ended
        if version != seen:
            facts = job.facts()
            seen = facts["version"]
            yield f"id: {seen}\nevent: job\ndata: {json.dumps(facts, allow_nan=False)}\n\n"
            for _ in range(_STEPS):
                await asyncio.sleep(_LEAST_S / _STEPS)
                if job.ended:
                    break
        if (ended and job.version == seen) or changes.closing:
            return
        if job.version == seen and not await changes.wait(_KEEP_ALIVE_S):
            yield ": still here\n\n"
