"""Runs texts on a session and writes what they yield: the part that the command line and the prompt share.

Between them and the session. Ctrl-C stops a statement where it is; a run keeps the cells it has.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from obeql.cli.output_formats import OutputMode, write_outcome
from obeql.cli.streams import writing

if TYPE_CHECKING:
    from types import FrameType

    from obeql.executor.execution.progress import Progress
    from obeql.results.result import Result
    from obeql.session.session import Session

__all__ = ["ProgressView", "Runner"]


class ProgressView(Protocol):
    """Shows a run while it goes: `ProgressBar`, or `LiveMap`."""

    def __call__(self, progress: Progress) -> None: ...

    def finish(self) -> None:
        """Leave the screen tidy; the next call begins another run."""
        ...

    def leave(self) -> None:
        """Let what is shown of a run that was stopped stand; the next call begins another run."""
        ...


class Runner:
    """How texts are run: `mode` and `output` say how and where results go, `draw` whether maps are drawn in boxes.

    `echo` prints each statement before its result, `timer` how long it took after it. `last_result` and
    `last_explain` are the newest maps and the text of the statement that made them.
    """

    def __init__(
        self,
        session: Session,
        mode: OutputMode = "box",
        view: ProgressView | None = None,
        *,
        echo: bool = False,
        draw: bool = False,
    ) -> None:
        self.session = session
        self.mode: OutputMode = mode
        self.draw = draw
        self.timer = False
        self.output: TextIO | None = None
        self.last_result: Result | None = None
        self.last_explain: str | None = None
        self._view = view
        self._echo = echo

    def run(self, text: str) -> None:
        """Run every statement of a text. Raises ObeqlError, and KeyboardInterrupt after Ctrl-C."""
        import duckdb  # noqa: PLC0415 - the session has imported it

        from obeql.grammar.scanner import split_script  # noqa: PLC0415

        with self._stoppable():
            outcomes = self.session.run_script(text, on_progress=self._on_progress)
            for statement in split_script(text):  # the session runs these, one by one
                if self._echo:
                    print(f"\n{statement.text};", flush=True)
                started = time.perf_counter()
                try:
                    outcome = next(outcomes)
                except KeyboardInterrupt:
                    self.last_result = None  # what is there of the map that was stopped is newer
                    raise
                self._end_of_run()
                self._remember(outcome, statement.text)
                try:
                    self.show(outcome)
                except duckdb.Error as error:  # met while rows are read
                    raise self.session.error_of_rows(error, text, statement.start) from error
                if self.timer:
                    print(f"took {time.perf_counter() - started:.3f} s", file=sys.stderr)

    def show(self, outcome: Any) -> None:
        """Write one outcome where results go, in the mode of the moment."""
        stream = sys.stdout if self.output is None else self.output
        with writing() if self.output is None else writing(repr(stream.name)):
            to_file = self.output is not None
            write_outcome(outcome, self.mode, stream, draw=self.draw and not to_file, whole=to_file)
            stream.flush()  # results of a long script appear as they come, also in a pipe

    def _remember(self, outcome: Any, text: str) -> None:
        from obeql.results.messages import Plan  # noqa: PLC0415
        from obeql.results.result import Result  # noqa: PLC0415

        if isinstance(outcome, Plan) and outcome.result is None:
            return
        found = outcome.result if isinstance(outcome, Plan) else outcome
        if isinstance(found, Result):
            self.last_result, self.last_explain = found, text

    def _on_progress(self, progress: Progress) -> None:
        if self._view is not None and self.session.setting("progress"):
            self._view(progress)

    def _end_of_run(self, stopped: bool = False) -> None:
        if self._view is not None:
            (self._view.leave if stopped else self._view.finish)()

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """End in KeyboardInterrupt, whatever way a statement ends after Ctrl-C."""
        asked = False

        def on_interrupt(signum: int, frame: FrameType | None) -> None:
            nonlocal asked
            asked = True
            self.session.cancel()  # for what does not notice the exception, such as a query of DuckDB
            raise KeyboardInterrupt

        before = _set_handler(on_interrupt)
        try:
            yield
        except Exception:
            # However the session words it, the cause is Ctrl-C.
            if asked:
                raise KeyboardInterrupt from None
            raise
        finally:
            self._end_of_run(stopped=asked)
            _set_handler(before)
        if asked:
            raise KeyboardInterrupt


def _set_handler(handler: Any) -> Any:
    """Set the handler of Ctrl-C and return the one before; only a process's main thread may.

    None, and nothing is set, in other threads, and where a program that embeds Python handles Ctrl-C itself.
    """
    if handler is None or signal.getsignal(signal.SIGINT) is None:
        return None
    try:
        return signal.signal(signal.SIGINT, handler)
    except ValueError:
        return None
