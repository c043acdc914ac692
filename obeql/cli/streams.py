"""The standard streams of a program in a shell: how they are encoded, and what happens where they cannot be written.

Beside the command line and the prompt, which read and write through here. Texts that come in are UTF-8, or what the
locale says where they are not; results that programs read go out as UTF-8, whatever the locale says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from obeql.errors import ExecutionError, QueryError

__all__ = ["as_utf8", "command_text", "let_go", "prepare", "read_input", "writing"]


def prepare() -> None:
    """Make standard streams fit to be written to: what an encoding lacks is replaced, a closed one leads nowhere.

    Where the shell has closed a stream, the next file opened would take its number, and be written over.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            place = os.open(os.devnull, os.O_RDWR)
            if place != number:
                os.dup2(place, number)
                os.close(place)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a stream that was replaced, as by a test
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def as_utf8(stream: TextIO) -> None:
    """Have a stream write UTF-8 from now on, and what is no character, such as of a damaged name, as an escape.

    A terminal keeps its encoding, because it would show anything else wrongly; what that lacks is escaped too.
    """
    reconfigure: Any = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        return
    reconfigure(errors="backslashreplace", **({} if stream.isatty() else {"encoding": "utf-8"}))


def read_input() -> str:
    """Return the text on standard input. Raises QueryError when it is no text."""
    raw = getattr(sys.stdin, "buffer", None)
    if raw is None:  # replaced, as by a test
        return sys.stdin.read()
    return _decoded(raw.read(), "standard input", sys.stdin.encoding)


def command_text(argument: str) -> str:
    """Return an argument of the command line as it was typed.

    Python reads it in the locale's encoding, whatever it is in.
    """
    return _decoded(os.fsencode(argument), "the text of -c", sys.getfilesystemencoding())


def _decoded(raw: bytes, what: str, also: str | None) -> str:
    for encoding in ("utf-8-sig", also or "utf-8"):
        with suppress(UnicodeDecodeError, LookupError):
            return raw.decode(encoding)
    raise QueryError(f"{what} is not UTF-8 text")


@contextmanager
def writing(where: str = "standard output") -> Iterator[None]:
    """Say in one sentence why results cannot be written. A pipe that nobody reads any more stays BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if where == "standard output":
            let_go(sys.stdout)
        raise ExecutionError(f"cannot write to {where}: {error.strerror or error}.") from None


def let_go(stream: TextIO) -> None:
    """Send what a stream still holds nowhere: the interpreter would write it once more when it ends, and complain."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
