"""Texts made to fit a terminal: messages wrapped at words, drawings with a caret cut around it, plans narrowed.

Beside everything that writes for people. What goes into a file or a pipe is left as it is.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable
from typing import TextIO

__all__ = ["columns_of", "pointed", "table", "wrapped", "wrapped_plan"]

#: Narrower than this nothing is made to fit.
_LEAST = 40


def columns_of(stream: TextIO) -> int | None:
    """Return the columns of a terminal; None for a file, a pipe, and what is too narrow to fit anything."""
    if not stream.isatty():
        return None
    columns = shutil.get_terminal_size().columns
    return columns if columns >= _LEAST else None


def wrapped(text: str, columns: int | None, lead: int = 0) -> str:
    """Return a text with its long lines wrapped at words; `lead` columns of the first line are taken already.

    A line that begins with blanks goes on below its own text: below the second part where there are two with a gap.
    """
    if columns is None:
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        room = columns - (lead if not lines else 0)
        if len(line) <= room:
            lines.append(line)
            continue
        found = textwrap.wrap(
            line,
            columns,
            initial_indent=" " * (columns - room),
            subsequent_indent=" " * _hanging(line),
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [found[0][columns - room :], *found[1:]]
    return "\n".join(lines)


def _hanging(line: str) -> int:
    """Return where a wrapped line goes on: below its second part, as of `  name   what it is`, else its first."""
    parts = re.match(r"\s+(?:\S+(?: \S+)*\s{2,})?", line)
    return 0 if parts is None or parts.end() > len(line) // 2 else parts.end()


def pointed(drawing: str, columns: int | None) -> str:
    """Return a line of text with a caret below, cut so that both fit and the caret still points at its place."""
    shown, _, caret = (line.expandtabs(4) for line in drawing.partition("\n"))
    if columns is None or len(shown) <= columns:
        return drawing
    place = len(caret) - 1
    start = max(0, min(place - columns * 2 // 3, len(shown) - columns + 2))
    return f"  {shown[start + 2 : start + columns]}\n{caret[start:]}"


def table(rows: Iterable[tuple[str, str]], columns: int | None, indent: str = "  ") -> str:
    """Return names with what they are beside them, wrapped at words where it is long."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    lines = []
    for name, text in rows:
        first, rest = f"{indent}{name:<{width}}   ", " " * (len(indent) + width + 3)
        found = textwrap.wrap(
            text,
            columns or 10**6,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += found or [first.rstrip()]
    return "\n".join(lines)


def wrapped_plan(text: str, columns: int | None) -> str:
    """Return a plan that fits a terminal: multiplications and traffic are left out where the columns are too few."""
    from obeql.planner.printing.plan import COLUMN_WIDTH, TREE_WIDTH, WIDTH  # noqa: PLC0415 - the prompt is shown before

    if columns is None or columns >= WIDTH:
        return text
    lines: list[str] = []
    in_table = False
    for line in text.split("\n"):
        in_table = line.startswith("Physical plan") or (in_table and line != "")
        if line.startswith(("┌─", "└─")):
            continue
        if line.startswith("│ "):  # the statement, in a box as wide as the plan
            lines.append(line[2:-1].rstrip())
        elif in_table and len(line) == WIDTH and not line[TREE_WIDTH - 1 : TREE_WIDTH].strip():
            numbers = line[TREE_WIDTH:]
            lines.append(line[:TREE_WIDTH] + numbers[:COLUMN_WIDTH] + numbers[3 * COLUMN_WIDTH :])
        else:
            lines.append(line)
    return "\n".join(wrapped(line, columns) for line in lines).lstrip("\n")
