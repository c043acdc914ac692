"""Completion of the command line in a shell: `obeql --mo<Tab>`, by argcomplete (the extra `completion`).

A shell that completes runs `obeql` with a variable set; `main` asks here before it does anything else. Completion of
statements in the prompt is another thing (`repl.completion`).
"""

from __future__ import annotations

import argparse
import os
import shlex

__all__ = ["answer_shell"]

#: Set by a shell that completes: the number of words of the line that name the program.
_ASKED = "_ARGCOMPLETE"
_DATABASES = ("duckdb", "db")
_DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps", "xpu")


def answer_shell() -> None:
    """Write what may follow and end the process where a shell asks; else do nothing. Without argcomplete too."""
    if _ASKED not in os.environ:
        return
    try:
        import argcomplete  # noqa: PLC0415
        from argcomplete.completers import FilesCompleter  # noqa: PLC0415
    except ImportError:
        return
    parser = _parser_of_line()
    for action in parser._actions:
        if action.dest in ("file", "db"):
            setattr(action, "completer", FilesCompleter(_DATABASES))  # noqa: B010  argcomplete's interface
        elif action.dest == "device":
            setattr(action, "completer", lambda **_: _DEVICES)  # noqa: B010
    argcomplete.autocomplete(parser, always_complete_options="long")


def _parser_of_line() -> argparse.ArgumentParser:
    """Return the options of the command that is being written: `obeql ui` has its own."""
    from obeql.cli.main import parser  # noqa: PLC0415  which asks this module first
    from obeql.cli.page import page_parser  # noqa: PLC0415

    line = os.environ.get("COMP_LINE", "")
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is open
        words = line.split()
    if words[1:2] == ["ui"] and (len(words) > 2 or line.endswith(" ")):
        os.environ[_ASKED] = "2"
        return page_parser()
    return parser()
