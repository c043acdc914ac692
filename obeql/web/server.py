"""Starts and stops the page: a socket of this machine, a server on it, and the browser that opens it.

Called by `obeql.session.late` for `obeql ui`, the prompt and Python; the requests themselves go to `app`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Generator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from obeql.errors import ExecutionError
from obeql.store import MEMORY
from obeql.web.access import AccessRules
from obeql.web.app import build_app
from obeql.web.page import Page

if TYPE_CHECKING:
    from obeql.session.session import Session

__all__ = ["PageServer", "shut_off_files"]

#: How long requests that are under way may take when the server is asked to end.
_GRACE_S = 3
_START_S = 20.0


class PageServer:
    """The page of a session. `address` opens it, with its token; `close` ends it, and leaves the session open."""

    def __init__(self, session: Session, host: str = "127.0.0.1", port: int = 0, allow_files: bool = False) -> None:
        self._socket = _bound(host, port)
        self.rules = AccessRules(host, self._socket.getsockname()[1])
        try:
            self._page = Page(session, allow_files)
            config = uvicorn.Config(
                build_app(self._page, self.rules),
                log_level="critical",  # what goes wrong is told to whoever asked
                access_log=False,
                lifespan="on",
                loop="asyncio",
                http="h11",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
            self._server = _Server(config, self._page)
        except BaseException:
            self._socket.close()
            raise
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Return the address that opens the page, with its token."""
        return self.rules.address

    @property
    def is_running(self) -> bool:
        """Return whether the page answers."""
        return self._server.started and not self._server.should_exit

    @property
    def is_warming(self) -> bool:
        """Return whether PyTorch is still being imported; a process must not end in the middle of that."""
        return self._page.warming

    def run(self) -> None:
        """Serve in this thread until Ctrl-C; what runs then is stopped as Ctrl-C stops it at the prompt."""
        self._page.warm()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self.close()

    def start(self) -> None:
        """Serve in a thread of its own; returns once the page answers."""
        self._page.warm()
        thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="obeql-page-server", daemon=True
        )
        self._thread = thread
        thread.start()
        until = time.monotonic() + _START_S
        while not self._server.started:
            if not thread.is_alive() or time.monotonic() > until:
                self.close()
                raise ExecutionError("the page did not start")
            time.sleep(0.005)

    def open_browser(self) -> None:
        """Open the address in the browser of this machine, where it has one."""
        import webbrowser  # noqa: PLC0415

        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            return  # a terminal's browser would take the terminal
        threading.Thread(target=webbrowser.open, args=(self.address,), daemon=True).start()

    def close(self) -> None:
        """Stop what runs and end the page; a second call does nothing."""
        self._server.should_exit = True
        self._page.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_GRACE_S + 5)
        self._socket.close()

    def __repr__(self) -> str:
        return f"<page at {self.address}>" if self.is_running else "<page, closed>"


class _Server(uvicorn.Server):
    """Ends the streams of events when it is told to end, and leaves signals to be ours afterwards."""

    def __init__(self, config: uvicorn.Config, page: Page) -> None:
        super().__init__(config)
        self._page = page

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second Ctrl-C does not wait for requests."""
        super().handle_exit(sig, frame)
        self._page.changes.close()
        self._page.worker.close(timeout_s=0)  # so that nobody waits for an answer any more

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take Ctrl-C and SIGTERM while serving, without raising them again at the end, when all is in order."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def shut_off_files(session: Session) -> None:
    """Keep DuckDB in this process away from all files but the database's own, for good."""
    connection = session.connection
    if session.path != MEMORY:
        folder = os.path.splitext(os.path.abspath(session.path))[0] + ".maps"  # noqa: PTH100, PTH122  as text
        connection.execute(f"SET allowed_directories = ['{folder.replace(chr(39), chr(39) * 2)}/']")
    connection.execute("SET enable_external_access = false")


def _bound(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ExecutionError in our own words."""
    if not 0 <= port <= 65535:
        raise ExecutionError(f"port {port} is none: ports lie in 0..65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ExecutionError(
            f"the page cannot be served at {host}, port {port}: {error.strerror or error}; --port 0 takes any free one"
        ) from None
    # said to be TCP, so that asyncio sends each answer at once: otherwise its second packet waits 40 ms for a receipt
    return socket.socket(found.family, found.type, socket.IPPROTO_TCP, found.detach())
