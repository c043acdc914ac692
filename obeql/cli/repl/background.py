"""Opens the database, then imports PyTorch, on a thread: the prompt is there before either is done.

Between the editor, which is shown at once, and the shell, which waits for the session before it runs the first text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

from obeql.cli.repl.names import Names, gather

if TYPE_CHECKING:
    from obeql.session.session import Session

__all__ = ["Background"]


class Background:
    """The work of starting up; `begin` starts it, once."""

    def __init__(self, connect: Callable[[], Session]) -> None:
        self._connect = connect
        self._began = False
        self.session: Future[Session] = Future()
        self.names: Names = Names()
        self._thread = threading.Thread(target=self._work, name="obeql-start", daemon=True)

    def begin(self) -> None:
        """Start the work; a second call does nothing."""
        if not self._began:
            self._began = True
            self._thread.start()

    @property
    def busy(self) -> bool:
        """Return whether something is still being imported; ending the process in the middle of that can crash it."""
        return self._thread.is_alive()

    def _work(self) -> None:
        try:
            session = self._connect()
            self.names = gather(session)
        except BaseException as error:
            self.session.set_exception(error)
            return
        self.session.set_result(session)
        with suppress(ImportError):  # said by the statement that needs it
            import torch  # noqa: F401, PLC0415
