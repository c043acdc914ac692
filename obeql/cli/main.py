"""The command line: `obeql [file.duckdb] [-c text].. [-f script]..`, a script on standard input, or a prompt.

Comes before the session, which does all the work. Results go to standard output; messages about progress and errors
to standard error, an error always as one text and never as a traceback. The exit code is the family of the error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import obeql
from obeql.cli.error_report import INTERRUPTED, report_error, report_stop, versions
from obeql.cli.output_formats import MODES
from obeql.cli.shell_completion import answer_shell
from obeql.cli.streams import command_text, let_go, prepare, read_input, writing
from obeql.errors import QueryError

if TYPE_CHECKING:
    from obeql.cli.runner import ProgressView, Runner
    from obeql.session.session import Session

__all__ = ["INTERRUPTED", "main", "parser"]

_PIPE_CLOSED = 141  # what a shell reports of a program that writes into a pipe nobody reads any more

_EPILOG = """\
Without -c and -f, statements come from standard input, or from a prompt where that is a terminal.
`obeql ui heat.duckdb` opens a page in the browser; `obeql ui --help` lists its options.
`obeql doctor` shows versions and devices and tries out whether they work.
Exit codes: 0 done, 2 query or usage, 3 not supported, 4 model, 5 image, 6 run or device, 7 database, 70 bug in OBEQL,
130 stopped with Ctrl-C. OBEQL_DEBUG=1 shows Python tracebacks, NO_COLOR=1 leaves out colors.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments` (those of the process) and return the exit code."""
    if arguments is None:
        answer_shell()
    prepare()
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        if given[:1] == ["ui"] and not Path("ui").exists():
            from obeql.cli.page import serve  # noqa: PLC0415

            return serve(given[1:])
        with writing():  # such as --help
            options = parser().parse_args(given)
        code = _run(options)
        with writing():
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            let_go(stream)
        return _PIPE_CLOSED
    except KeyboardInterrupt as stop:
        return report_stop(stop)
    except Exception as error:
        return report_error(error)


def parser() -> argparse.ArgumentParser:
    """Return the options of `obeql`; the documentation is compared with it."""
    built = argparse.ArgumentParser(
        prog="obeql",
        description="Explain image classifiers by occlusion: run OBEQL and SQL statements on a DuckDB file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    built.add_argument("file", nargs="?", help="DuckDB file, made if missing (default: in memory)")
    built.add_argument("--db", metavar="FILE", help="the DuckDB file, for one that is called doctor")
    # One list for both, because they run in the order in which they are written.
    built.add_argument(
        "-c", "--command", dest="inputs", action="append", type=_Text, metavar="TEXT", help="run these statements"
    )
    built.add_argument(
        "-f", "--script", dest="inputs", action="append", type=_Script, metavar="FILE", help="run a script"
    )
    built.add_argument("--read-only", action="store_true", help="open the file for reading alone")
    built.add_argument(
        "--device", metavar="D", help="auto, cpu, cuda, cuda:<number>, xpu or mps, for statements without ON"
    )
    form = built.add_mutually_exclusive_group()
    form.add_argument("--mode", choices=MODES, default="box", help="how results are written (default: box)")
    form.add_argument("--json", dest="mode", action="store_const", const="json", help="the same as --mode json")
    form.add_argument("--csv", dest="mode", action="store_const", const="csv", help="the same as --mode csv")
    built.add_argument("--echo", action="store_true", help="print each statement, with its comments, before its result")
    built.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, help="draw a progress bar (default: on a terminal)"
    )
    built.add_argument(
        "--allow-python", action="store_true", help="let CREATE MODEL .. FROM 'python:..' import and run code"
    )
    built.add_argument("--version", action=_Version, help="show versions and exit")
    return built


class _Version(argparse.Action):
    """Prints versions without importing what they are the versions of."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(versions(), flush=True)
        parser.exit()


@dataclass(frozen=True, slots=True)
class _Text:
    """Statements given on the command line."""

    text: str

    def read(self) -> str:
        return command_text(self.text)


@dataclass(frozen=True, slots=True)
class _Script:
    """A file of statements."""

    path: str

    def read(self) -> str:
        from obeql.cli.scripts import read_script  # noqa: PLC0415

        return read_script(self.path)


def _run(options: argparse.Namespace) -> int:
    word = _meant(options) if options.file is not None else ""
    if word == "doctor":
        from obeql.cli.doctor import examine  # noqa: PLC0415

        with writing():
            return examine()
    if word:
        with writing():
            print(parser().format_help() if word == "help" else versions(), flush=True)
        return 0
    if options.db is not None and options.file is not None:
        raise QueryError(f"two databases are named, {options.file!r} and --db {options.db!r}; one can be open")
    inputs = options.inputs or []
    file = options.db or options.file or ":memory:"
    if file.lower().endswith(".sql"):
        raise QueryError(f"{file!r} is a script, not a database: obeql -f {file}")
    texts = [given.read() for given in inputs]  # before the database is opened: a bad path must not create one
    if options.allow_python and "" not in sys.path:  # the last place: files of this folder hide no library
        sys.path.append("")

    def connect() -> Session:
        session = obeql.connect(file, read_only=options.read_only, allow_python=options.allow_python)
        if options.device is not None:
            session.execute(f"SET obeql.device = '{options.device.replace(chr(39), chr(39) * 2)}'")
        return session

    if not inputs and sys.stdin.isatty():
        from obeql.cli.repl import start  # noqa: PLC0415

        shown = "in memory, nothing is kept" if file == ":memory:" else file
        return start(connect, lambda session: _prompt_runner(session, options), f"{versions()} · {shown}")
    with connect() as session:
        runner = _runner(session, options)
        for text in texts or [read_input()]:
            runner.run(text)
    return 0


#: Words that are commands in the place of the database, unless there is one of that name.
_WORDS = ("doctor", "help", "version")


def _meant(options: argparse.Namespace) -> str:
    """Return the command that stands in the place of the database, asked for where it is misspelt.

    It is empty for a database.
    """
    word = options.file
    if Path(word).exists() or options.db is not None:
        return ""
    if word in _WORDS:
        return str(word)
    close = get_close_matches(word.lower(), ["doctor"], n=1, cutoff=0.75)
    if not close or options.inputs:
        return ""
    if not sys.stdin.isatty():
        raise QueryError(f"There is no database {word!r}. Did you mean obeql doctor? obeql --db {word} makes one.")
    answer = input(f"There is no database {word!r}. Did you mean obeql doctor? [Y/n] ")
    return "doctor" if answer.strip().lower() in ("", "y", "yes") else ""


def _runner(session: Session, options: argparse.Namespace) -> Runner:
    from obeql.cli.runner import Runner  # noqa: PLC0415
    from obeql.progress_bar import ProgressBar  # noqa: PLC0415

    view = ProgressBar() if _shows_progress(options) else None
    return Runner(session, options.mode, view, echo=options.echo)


def _prompt_runner(session: Session, options: argparse.Namespace) -> Runner:
    """Return what `_runner` does, with maps drawn where the terminal shows results."""
    from obeql.cli.live_map import LiveMap  # noqa: PLC0415
    from obeql.cli.runner import Runner  # noqa: PLC0415
    from obeql.progress_bar import ProgressBar  # noqa: PLC0415

    draw = sys.stdout.isatty()
    view: ProgressView | None = None
    if _shows_progress(options):
        view = LiveMap() if draw and options.mode == "box" and os.environ.get("TERM") != "dumb" else ProgressBar()
    return Runner(session, options.mode, view, echo=options.echo, draw=draw)


def _shows_progress(options: argparse.Namespace) -> bool:
    return sys.stderr.isatty() if options.progress is None else bool(options.progress)
