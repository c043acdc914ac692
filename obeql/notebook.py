"""`%load_ext obeql`: statements in notebook cells, with Python's variables as parameters.

    %obeql heat.duckdb                connects; without a file, in memory
    %obeql SHOW RUNS                  runs one line
    %obeql .heat first                carries out a command of the prompt
    %%obeql                           runs the cell; what its last statement yields is the cell's output
    %%obeql --into found              ... and is bound to the name `found`

`$name` in a statement stands for the Python variable of that name: it is bound, never pasted into the text.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

import obeql
from obeql.errors import ObeqlError, UnknownNameError, nearest
from obeql.progress_bar import ProgressBar

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from obeql.session.session import Session

__all__ = ["ObeqlMagics", "load_ipython_extension"]


@magics_class
class ObeqlMagics(Magics):  # type: ignore[misc]
    """One session a notebook; `%obeql file` opens another."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.session: Session | None = None

    @magic_arguments()
    @argument("file", nargs="?", help="DuckDB file to connect to, made if missing; without one, in memory")
    @argument("--into", metavar="NAME", help="bind what the last statement yields to this Python name")
    @argument("--no-progress", action="store_true", help="draw no progress bar")
    @line_cell_magic
    def obeql(self, line: str, cell: str | None = None) -> Any:
        """Connect to a database (%obeql file), or run statements on it (%obeql statement, %%obeql)."""
        if cell is None and _is_statement(line):
            line, cell = "", line
        options = parse_argstring(self.obeql, line)
        try:
            if self.session is None or options.file is not None:
                self._connect((options.file or ":memory:").strip("\"'"))
            assert self.session is not None
            if cell is None:
                return self.session
            if _is_command(cell):
                return self._carry_out(cell)
            outcome = self._run(cell, not options.no_progress)
        except (ObeqlError, KeyboardInterrupt) as error:
            # One message instead of a traceback through the library; the cell has failed, so that those after it wait.
            shown = self.shell.InteractiveTB.get_exception_only(type(error), error)
            vars(error)["_render_traceback_"] = lambda: shown  # IPython asks for it
            raise
        if options.into is not None:
            self.shell.push({options.into: outcome})
            return None
        return None if _is_empty(outcome) else outcome

    def _connect(self, file: str) -> None:
        before, self.session = self.session, obeql.connect(file)  # which stays where the file cannot be opened
        if before is not None:
            before.close()
        self.shell.push({"db": self.session})

    def _carry_out(self, line: str) -> None:
        """Carry out a dot-command of the prompt, and print what it shows."""
        from obeql.cli.repl.commands import run_command  # noqa: PLC0415
        from obeql.cli.repl.shell import Shell  # noqa: PLC0415
        from obeql.cli.runner import Runner  # noqa: PLC0415

        assert self.session is not None
        with suppress(EOFError):  # there is no prompt to leave
            run_command(Shell(Runner(self.session), lambda: ""), line)

    def _run(self, text: str, shows_progress: bool) -> Any:
        assert self.session is not None
        parameters = self._parameters(text)
        if not shows_progress:
            return self.session.execute(text, parameters)
        with ProgressBar(kind=_kind_of_bar()) as bar:
            return self.session.execute(text, parameters, on_progress=bar)

    def _parameters(self, text: str) -> dict[str, Any] | None:
        """Return the Python variables that `$name` stands for in the text."""
        from obeql.grammar.scanner import scan  # noqa: PLC0415

        marks = (text[token.start + 1 : token.end] for token in scan(text) if token.kind == "parameter")
        names = dict.fromkeys(name for name in marks if name.isidentifier())
        missing = [name for name in names if name not in self.shell.user_ns]
        if missing:
            known = [name for name in self.shell.user_ns if not name.startswith("_")]
            raise UnknownNameError(
                f"${missing[0]}: there is no Python variable {missing[0]!r}.{nearest(missing[0], known)}"
            )
        return {name: self.shell.user_ns[name] for name in names} or None


def _is_command(text: str) -> bool:
    """Return whether a text is a dot-command, and no path such as `./heat.duckdb` or a file that begins with a dot."""
    first = text.split(maxsplit=1)[:1]
    return bool(first) and first[0].startswith(".") and "/" not in first[0] and "\n" not in text.strip()


def _is_statement(line: str) -> bool:
    """Return whether the line of %obeql is run: a dot-command, or several words, neither quoted nor options."""
    words = line.split()
    return _is_command(line) or (len(words) > 1 and words[0][0] not in "-\"'" and not words[1].startswith("--"))


def _is_empty(outcome: Any) -> bool:
    """Return whether a statement has no rows, such as CREATE VIEW: there is nothing to show."""
    from obeql.cli.output_formats import says_only_done  # noqa: PLC0415

    return says_only_done(outcome)


def _kind_of_bar() -> Any:
    """Return a widget where the notebook has them, else a line of text; tqdm by itself would warn."""
    if find_spec("ipywidgets") is None:
        from tqdm import tqdm  # noqa: PLC0415
    else:
        from tqdm.auto import tqdm  # noqa: PLC0415
    return tqdm


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics; `%load_ext obeql` calls it."""
    shell.register_magics(ObeqlMagics)
