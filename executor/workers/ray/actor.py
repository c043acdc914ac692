"""The process of a Ray worker: `work` on a thread, its line two queues that the coordinator's calls empty and fill.

Each call of the coordinator brings what it has to say and takes what the worker has said meanwhile. One call is under
way at any time, so that what a worker says waits here, a few messages at most, until the coordinator has room for it.
"""

from __future__ import annotations

import hashlib
import pickle
import queue
import threading
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from obeql.executor.workers.protocol import Order
from obeql.executor.workers.worker import work

__all__ = ["Actor", "versions"]

#: Messages of a worker that wait to be taken, until it waits itself.
_MOST_WAITING = 4


def versions() -> dict[str, str]:
    """Return the versions that all workers have to have in common with the coordinator, for the same cells."""
    try:
        ours = version("obeql")
    except PackageNotFoundError:
        ours = "unknown"
    return {"obeql": ours, "torch": torch.__version__.partition("+")[0]}


class Actor:
    """A worker, as the coordinator calls it through Ray; its calls run side by side."""

    def __init__(self, order: bytes, network: Any, digest: str) -> None:
        """Take the file of the network as bytes (uint8), which come by way of the object store."""
        content = bytes(network)
        if hashlib.sha256(content).hexdigest() != digest:
            raise OSError("the network did not arrive as it was sent")
        self._line = _Line()
        given: Order = pickle.loads(order)
        self._line.inbox.put(replace(given, network=content))
        threading.Thread(target=work, args=(self._line,), name="obeql-work", daemon=True).start()

    def arrive(self) -> dict[str, str]:
        """Return the first call, answered as soon as there is a worker."""
        return versions()

    def exchange(self, answer: bytes | None) -> list[bytes]:
        """Take an answer to the worker, wait until it says something, and bring all that; nothing once it has ended."""
        self.tell(answer)
        return self._line.taken()

    def tell(self, answer: bytes | None) -> None:
        """Take something to the worker while it is being listened to."""
        if answer is not None:
            self._line.inbox.put(pickle.loads(answer))


class _Line:
    """The worker's end. Messages are pickled where they are sent: what they hold may change afterwards."""

    def __init__(self) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue()
        self._outbox: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
        self._ended = False

    def send(self, message: Any) -> None:
        self._outbox.put(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def recv(self) -> Any:
        return self.inbox.get()

    def poll(self) -> bool:
        return not self.inbox.empty()

    def close(self) -> None:
        self._outbox.put(None)

    def taken(self) -> list[bytes]:
        """Return what was sent, message after message; waits for the first message. Empty once the line is closed."""
        found: list[bytes] = []
        with suppress(queue.Empty):
            while not self._ended:
                message = self._outbox.get(block=not found)
                if message is None:
                    self._ended = True
                else:
                    found.append(message)
        return found
