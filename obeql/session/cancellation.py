"""Whether the running statement was asked to stop: set by other threads, asked between pieces of work."""

from __future__ import annotations

import threading

__all__ = ["Cancellation"]


class Cancellation:
    """A request to stop that the statement which runs takes up, and the next one does not."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """Ask the running statement to stop."""
        self._asked.set()

    def clear(self) -> None:
        """Forget what was asked of earlier statements."""
        self._asked.clear()

    def is_asked(self) -> bool:
        """Return whether the running statement is to stop."""
        return self._asked.is_set()

    def check(self) -> None:
        """Raise KeyboardInterrupt where the statement is to stop: for work before its first window."""
        if self.is_asked():
            raise KeyboardInterrupt("cancelled before anything was computed")
