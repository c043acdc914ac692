"""Every error a user can meet.

    ObeqlError
    ├── QueryError            the text of the query is at fault
    │   ├── QuerySyntaxError  it does not parse
    │   ├── UnknownNameError  a name in it does not exist
    │   └── QueryTypeError    a value in it has the wrong kind or range
    ├── UnsupportedError      well-formed, but not something this version executes
    ├── ModelError            a model file or module is at fault
    ├── ImageError            an image file or array is at fault
    ├── ExecutionError        the run failed
    │   ├── DeviceError       a device is missing or out of memory
    │   └── StoreError        the database file is at fault
    └── InternalError         a bug in OBEQL

A message says what is wrong, where, what is allowed and, for names, which known names are nearest.
No error of lark, DuckDB or PyTorch reaches a user bare.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "DeviceError",
    "ExecutionError",
    "ImageError",
    "InternalError",
    "ModelError",
    "ObeqlError",
    "QueryError",
    "QuerySyntaxError",
    "QueryTypeError",
    "StoreError",
    "UnknownNameError",
    "UnsupportedError",
    "install",
    "nearest",
]


#: A message may quote what a user wrote, which may be a megabyte.
_MOST_CHARACTERS = 2000
#: Names longer than this have no near ones.
_LONGEST_NAME = 200
#: Characters that move a terminal's cursor, color it or turn the direction of text; line ends and tabs are kept.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class ObeqlError(Exception):
    """Base of all errors raised on purpose by OBEQL."""

    #: process exit code the command line uses for this family
    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(_readable(message))


class QueryError(ObeqlError):
    """The text of a query is at fault; `line` and `column` count from 1, both None when unknown.

    `context` is the offending line with a caret under the place, or an empty string. `offset` is the place within the
    part of the text that whoever raises it knows, such as a SELECT that names images; `start` is the place in the whole
    text, of which whoever runs the statement makes line, column and context.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        line: int | None = None,
        column: int | None = None,
        context: str = "",
        offset: int | None = None,
    ) -> None:
        self.message = _readable(message)
        self.line = line
        self.column = column
        self.context = context
        self.offset = offset
        self.start: int | None = None
        super().__init__(self.message)

    def __str__(self) -> str:
        place = f" (line {self.line}, column {self.column})" if self.line is not None else ""
        drawing = f"\n{self.context}" if self.context else ""
        return f"{self.message}{place}{drawing}"

    def locate(self, text: str, offset: int) -> QueryError:
        """Return self with the place set from a character offset into `text`."""
        offset = max(0, min(offset, len(text)))
        start = text.rfind("\n", 0, offset) + 1
        stop = text.find("\n", offset)
        shown = text[start : stop if stop >= 0 else len(text)]
        self.line = text.count("\n", 0, offset) + 1
        self.column = offset - start + 1
        # A very long line is cut to a window around the place; tabs keep the caret aligned.
        lead = offset - start
        cut = max(0, lead - 60)
        shown = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", shown[cut : cut + 120])
        padding = "".join("\t" if c == "\t" else " " for c in shown[: lead - cut])
        self.context = f"  {shown}\n  {padding}^"
        return self


class QuerySyntaxError(QueryError):
    """The text does not parse."""


class UnknownNameError(QueryError):
    """A model, image, class, option or setting of this name does not exist."""


class QueryTypeError(QueryError):
    """A value has the wrong kind or lies outside its range."""


class UnsupportedError(ObeqlError):
    """The statement is well-formed, but this version does not execute it."""

    exit_code = 3


class ModelError(ObeqlError):
    """A model file or module cannot be used."""

    exit_code = 4


class ImageError(ObeqlError):
    """An image cannot be read or does not fit the query."""

    exit_code = 5


class ExecutionError(ObeqlError):
    """A run failed after planning."""

    exit_code = 6


class DeviceError(ExecutionError):
    """A device is missing or out of memory."""


class StoreError(ExecutionError):
    """The database file cannot be opened, read or written."""

    exit_code = 7


class InternalError(ObeqlError):
    """A bug in OBEQL; the message says what to report."""

    exit_code = 70


def _readable(message: str) -> str:
    """Return a message that a terminal can show.

    The middle of a very long one is left out, control characters are replaced.
    """
    if len(message) > _MOST_CHARACTERS:
        half = _MOST_CHARACTERS // 2
        message = f"{message[:half]} .. {message[-half:]}"
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", message)


def install(extra: str) -> str:
    """Return how to get the packages of one of OBEQL's extras, for a message: a line for a clone's folder."""
    return f"""install it with pip install -e ".[{extra}]" in the folder of OBEQL"""


def nearest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return ` Did you mean 'a' or 'b'?` for the known names closest to `name`, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    if len(name) > _LONGEST_NAME:
        return ""
    close = difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.6)
    if not close:
        return ""
    return " Did you mean " + " or ".join(repr(by_lower[c]) for c in close) + "?"
