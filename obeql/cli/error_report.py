"""Errors, interruptions and versions, worded for people on a terminal.

Comes after a statement has failed; the command line and the prompt both report through here.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress

from obeql.cli.wrapping import columns_of, pointed, wrapped
from obeql.errors import ExecutionError, InternalError, ObeqlError, QueryError

__all__ = ["INTERRUPTED", "report_error", "report_stop", "versions"]

#: What a shell reports of a program that Ctrl-C ended.
INTERRUPTED = 130


def versions() -> str:
    """Return the versions that decide what happens, from package metadata: importing torch to ask it takes seconds."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    found = []
    for name in ("obeql", "duckdb", "torch"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join([*found, "Python {}.{}.{}".format(*sys.version_info)])


def report_stop(stop: KeyboardInterrupt) -> int:
    """Print what Ctrl-C left behind, as far as the session says it, and return the exit code."""
    text = f"interrupted: {stop}" if str(stop) else "interrupted"
    print(wrapped(text, columns_of(sys.stderr)), file=sys.stderr)
    return INTERRUPTED


def report_error(error: Exception) -> int:
    """Print an error for people and return the exit code of its family."""
    if os.environ.get("OBEQL_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    if not isinstance(error, ObeqlError):
        error = _explained(error)
    with suppress(OSError):
        sys.stdout.flush()  # so that the error stands behind what was written before it
    with suppress(OSError):  # nobody can be told; the exit code is all that is left
        print(f"{_heading('error:')} {_fitting(error)}", file=sys.stderr)
    return error.exit_code


def _fitting(error: ObeqlError) -> str:
    """Return the message, wrapped at words where it is read on a terminal.

    The place that is drawn below it stays whole.
    """
    text, columns = str(error), columns_of(sys.stderr)
    drawing = error.context if isinstance(error, QueryError) else ""
    said = wrapped(text.removesuffix(drawing).rstrip("\n"), columns, lead=len("error: "))
    return f"{said}\n{pointed(drawing, columns)}" if drawing else said


def _heading(text: str) -> str:
    """Return the text in bold red on a terminal with colors."""
    colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[1;31m{text}\x1b[0m" if colored else text


def _explained(error: Exception) -> ObeqlError:
    """Word an error that is none of OBEQL's: DuckDB's own, met while a result was read, or a bug."""
    text = str(error).strip() or "(no message)"
    if type(error).__module__.partition(".")[0] in ("duckdb", "_duckdb"):
        return QueryError(text)
    if isinstance(error, OSError) and error.errno is not None:
        # The system refuses, such as a disk that is full or a folder that may not be read: nothing is wrong here.
        named = "" if error.filename is None else f": '{error.filename}'"
        return ExecutionError(f"{error.strerror}{named}")
    return InternalError(
        f"{type(error).__name__}: {text}\nThis is a bug in OBEQL. Please report it with the statement and these "
        f"versions: {versions()}. OBEQL_DEBUG=1 shows where it happened."
    )
