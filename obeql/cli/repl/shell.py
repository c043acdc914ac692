"""The loop of the prompt: read a text, run it, show what it yields or what is wrong with it.

Comes after the editor and before the session. The database is opened behind the first prompt.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING

from obeql.cli.error_report import report_error, report_stop
from obeql.cli.repl.background import Background
from obeql.cli.repl.commands import command_words, run_command
from obeql.cli.repl.editor import Editor
from obeql.cli.repl.names import Names, gather
from obeql.cli.streams import writing
from obeql.errors import QueryError

if TYPE_CHECKING:
    from obeql.cli.runner import Runner
    from obeql.results.result import Result
    from obeql.session.session import Session

__all__ = ["Shell", "start"]


def start(connect: Callable[[], Session], make_runner: Callable[[Session], Runner], banner: str) -> int:
    """Show a prompt and run what is typed until Ctrl-D; returns the exit code.

    `connect` opens the database, on a thread while the first text is typed; `make_runner` says how texts are run.
    """
    background = Background(connect)
    names = _NamesNow(background)
    editor = Editor(names, lambda line: command_words(line, names()))
    background.session.add_done_callback(
        lambda opened: editor.leave(_NotOpenedError()) if opened.exception() is not None else None
    )
    fits = len(banner) + len(" · .help") <= shutil.get_terminal_size().columns
    print(f"{banner} · .help" if fits else f"{banner}\n.help")
    try:
        first = editor.read(when_shown=background.begin)
    except KeyboardInterrupt:
        first = ""
    except EOFError:
        return _leave(background)
    except _NotOpenedError:
        first = ""
    background.begin()
    while not background.session.done():
        try:
            wait([background.session])
        except KeyboardInterrupt as stop:  # drops what was typed; the database is opened all the same
            first = ""
            report_stop(stop)
    try:
        session = background.session.result()
    except Exception as error:
        return report_error(error)
    with session:
        shell = Shell(make_runner(session), editor.read, names.refresh)
        shell.loop(first)
    return _leave(background)


class _NotOpenedError(Exception):
    """Ends the first prompt: the database could not be opened."""


class _NamesNow:
    """The names for completion: those of the start, then those after the last statement."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._names: Names | None = None

    def __call__(self) -> Names:
        return self._background.names if self._names is None else self._names

    def refresh(self, session: Session) -> None:
        """Ask the database again."""
        self._names = gather(session)


def _leave(background: Background) -> int:
    """End the prompt; where torch is still being imported, end the process as it is, for unloading it would crash."""
    if background.busy and background.session.done():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


class Shell:
    """A loop over texts: `read` returns one, `refresh` is told of the session after each."""

    def __init__(
        self, runner: Runner, read: Callable[[], str], refresh: Callable[[Session], None] = lambda _: None
    ) -> None:
        self.runner = runner
        self._read = read
        self._refresh = refresh

    def loop(self, first: str = "") -> None:
        """Run `first`, then what is read, until the end of input or `.quit`."""
        text = first
        while True:
            if text.strip():
                try:
                    self.run(text)
                    self._refresh(self.runner.session)
                except EOFError:
                    break
                except KeyboardInterrupt as stop:  # between the end of a statement and the next prompt
                    report_stop(stop)
            try:
                text = self._read()
            except KeyboardInterrupt:
                text = ""
            except EOFError:
                break
        self.write_to(None)

    def run(self, text: str) -> None:
        """Run a text; what is wrong with it is reported. Raises EOFError where it means to leave."""
        try:
            line = text.strip()
            bare = line.lower().removesuffix(";").strip()
            if bare in ("exit", "quit", "help") or bare.startswith("help "):
                line = f".{line}"
            if line.startswith((".", "\\")):
                run_command(self, line)
            else:
                self.runner.run(text)
        except KeyboardInterrupt as stop:
            report_stop(stop)
        except (BrokenPipeError, EOFError):
            raise
        except Exception as error:
            report_error(error)

    def write(self, text: str) -> None:
        """Show a text of the prompt's own."""
        with writing():
            print(text, flush=True)

    def draw(self, result: Result) -> None:
        """Draw maps on the screen."""
        from rich.console import Console  # noqa: PLC0415

        from obeql.drawing.terminal import draw_result  # noqa: PLC0415

        draw_result(result, Console())

    def write_to(self, path: Path | None) -> None:
        """Send the results that follow to a file, or to the screen. Raises QueryError when it cannot be written."""
        if self.runner.output is not None:
            written, self.runner.output = self.runner.output, None
            with writing(repr(written.name)):
                written.close()
        if path is not None:
            try:
                self.runner.output = path.open("w", encoding="utf-8")
            except OSError as error:
                raise QueryError(f"cannot write '{path}': {error.strerror or error}") from None
