"""The command line: `obeql [file.duckdb] [-c text].. [-f script]..`, a script on standard input, or a prompt.

Comes before the session, which does all the work. Results go to standard output; messages about progress and errors
to standard error, an error always as one text and never as a traceback. The exit code is the family of the error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obeql
from obeql.errors import InternalError, ObeqlError, QueryError

if TYPE_CHECKING:
    from types import FrameType

    from obeql.executor.run import Progress
    from obeql.output import OutputFormat
    from obeql.progress import ProgressBar
    from obeql.session import Session

__all__ = ["main"]

INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended
_PIPE_CLOSED = 141  # likewise, for one that writes into a pipe nobody reads any more

_EPILOG = """\
Without -c and -f, statements come from standard input, or from a prompt where that is a terminal.
Exit codes: 0 done, 2 query or usage, 3 not supported, 4 model, 5 image, 6 run or device, 7 database, 70 bug in OBEQL,
130 stopped with Ctrl-C. OBEQL_DEBUG=1 shows Python tracebacks.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments` (those of the process) and return the exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a stream that was replaced, as by a test
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = _run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The interpreter flushes once more at exit: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except KeyboardInterrupt as stop:
        return _report_stop(stop)
    except Exception as error:
        return _report(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="obeql",
        description="Explain image classifiers by occlusion: run OBEQL and SQL statements on a DuckDB file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", default=":memory:", help="DuckDB file, made if missing (default: in memory)")
    # One list for both, because they run in the order in which they are written.
    parser.add_argument(
        "-c", "--command", dest="inputs", action="append", type=_Text, metavar="TEXT", help="run these statements"
    )
    parser.add_argument(
        "-f", "--script", dest="inputs", action="append", type=_Script, metavar="FILE", help="run a script"
    )
    parser.add_argument("--read-only", action="store_true", help="open the file for reading alone")
    parser.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:<number>, for statements without ON")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="write results as JSON")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="write results as CSV")
    parser.add_argument(
        "--echo", action="store_true", help="print each statement, with its comments, before its result"
    )
    parser.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, help="draw a progress bar (default: on a terminal)"
    )
    parser.add_argument(
        "--allow-python", action="store_true", help="let CREATE MODEL .. FROM 'python:..' import and run code"
    )
    parser.add_argument("--version", action=_Version, help="show versions and exit")
    return parser


class _Version(argparse.Action):
    """Prints versions from package metadata: importing torch to ask it takes seconds."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(_versions())
        parser.exit()


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    found = []
    for name in ("obeql", "duckdb", "torch"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join([*found, "Python {}.{}.{}".format(*sys.version_info)])


@dataclass(frozen=True, slots=True)
class _Text:
    """Statements given on the command line."""

    text: str

    def read(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class _Script:
    """A file of statements."""

    path: str

    def read(self) -> str:
        try:
            return Path(self.path).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise QueryError(f"cannot read script {self.path!r}: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise QueryError(f"script {self.path!r} is not UTF-8 text (byte {error.start})") from None


def _run(options: argparse.Namespace) -> int:
    inputs = options.inputs or []
    if options.file.lower().endswith(".sql"):
        raise QueryError(f"{options.file!r} is a script, not a database: obeql -f {options.file}")
    texts = [given.read() for given in inputs]  # before the database is opened: a bad path must not create one
    if options.allow_python and "" not in sys.path:  # the last place: files of this folder hide no library
        sys.path.append("")
    with obeql.connect(options.file, read_only=options.read_only, allow_python=options.allow_python) as session:
        if options.device is not None:
            session.execute(f"SET obeql.device = '{options.device.replace(chr(39), chr(39) * 2)}'")
        runner = _Runner(session, options.form or "table", options.progress, options.echo)
        if inputs:
            for text in texts:
                runner.run(text)
            return 0
        if not sys.stdin.isatty():
            runner.run(sys.stdin.read())
            return 0
        return _prompt(runner, options.file)


def _prompt(runner: _Runner, file: str) -> int:
    from obeql.prompt import Prompt, with_history  # noqa: PLC0415

    print(f"{_versions()} · {'in memory, nothing is kept' if file == ':memory:' else file} · .help")

    def run(text: str) -> None:
        try:
            runner.run(text)
        except KeyboardInterrupt as stop:
            _report_stop(stop)
        except BrokenPipeError:
            raise
        except Exception as error:
            _report(error)

    with_history(Prompt(run).loop)
    return 0


class _Runner:
    """Runs texts on a session, prints what they yield, and stops them on Ctrl-C."""

    def __init__(self, session: Session, form: OutputFormat, progress: bool | None, echo: bool) -> None:
        self._session = session
        self._form: OutputFormat = form
        self._echo = echo
        shown = sys.stderr.isatty() if progress is None else progress
        self._bar = _new_bar() if shown else None
        self._running = False  # inside a run, which stops by itself between batches when asked to

    def run(self, text: str) -> None:
        """Run every statement of a text. Raises ObeqlError, and KeyboardInterrupt after Ctrl-C."""
        from obeql.grammar.scanner import split_script  # noqa: PLC0415
        from obeql.output import write_outcome  # noqa: PLC0415

        with self._stoppable():
            outcomes = self._session.run_script(text, on_progress=self._on_progress)
            for statement in split_script(text):  # the session runs these, one by one
                if self._echo:
                    print(f"\n{statement.text};", flush=True)
                outcome = next(outcomes)
                self._end_of_run()
                write_outcome(outcome, self._form)
                sys.stdout.flush()  # results of a long script appear as they come, also in a pipe

    def _on_progress(self, progress: Progress) -> None:
        self._running = True
        if self._bar is not None:
            self._bar(progress)

    def _end_of_run(self) -> None:
        self._running = False
        if self._bar is not None:
            self._bar.finish()

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """The first Ctrl-C asks a run to stop, so that it can keep what it has; at any other time it stops at once."""
        asked = False

        def on_interrupt(signum: int, frame: FrameType | None) -> None:
            nonlocal asked
            first, asked = not asked, True
            self._session.cancel()
            if self._running and first:
                self._end_of_run()
                print("stopping after this batch; Ctrl-C again stops at once", file=sys.stderr)
            else:
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
            self._end_of_run()
            _set_handler(before)
        if asked:
            raise KeyboardInterrupt


def _set_handler(handler: Any) -> Any:
    """Set the handler of Ctrl-C and return the one before; only a process's main thread may."""
    try:
        return signal.signal(signal.SIGINT, handler)
    except ValueError:
        return None


def _new_bar() -> ProgressBar:
    from obeql.progress import ProgressBar  # noqa: PLC0415

    return ProgressBar()


def _report_stop(stop: KeyboardInterrupt) -> int:
    """Print what Ctrl-C left behind, as far as the session says it, and return the exit code."""
    print(f"interrupted: {stop}" if str(stop) else "interrupted", file=sys.stderr)
    return INTERRUPTED


def _report(error: Exception) -> int:
    """Print an error for people and return the exit code of its family."""
    if os.environ.get("OBEQL_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    if not isinstance(error, ObeqlError):
        error = _explained(error)
    with suppress(OSError):
        sys.stdout.flush()  # so that the error stands behind what was written before it
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _explained(error: Exception) -> ObeqlError:
    """Word an error that is none of OBEQL's: DuckDB's own, met while a result was read, or a bug."""
    text = str(error).strip() or "(no message)"
    if type(error).__module__.partition(".")[0] in ("duckdb", "_duckdb"):
        return QueryError(text)
    return InternalError(
        f"{type(error).__name__}: {text}\nThis is a bug in OBEQL. Please report it with the statement and these "
        f"versions: {_versions()}. OBEQL_DEBUG=1 shows where it happened."
    )
