"""The interactive prompt: reads statements line by line and hands each whole one on.

Started by the command line when there is nothing else to run and standard input is a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from obeql.grammar import is_complete
from obeql.grammar.scanner import split_script

__all__ = ["Prompt", "history_path", "with_history"]

_FIRST, _NEXT = "obeql> ", "  ...> "

_HELP = """\
A statement may span several lines and ends with a semicolon. What is not OBEQL is SQL, and DuckDB runs it.

  CREATE MODEL name FROM 'model.onnx';              a network: ONNX, .pt2, torchvision:name, timm:name, python:m:f
  CREATE IMAGES name FROM 'folder/*.jpg';           pictures: a glob or a SELECT of paths
  PREDICT images USING model;                       what the network says
  EXPLAIN OCCLUDE images USING model WITH patch=16; heat maps;  put PLAN in front to see how, and how long
  RENDER run TO 'maps.png';                         draw a run
  SHOW MODELS | IMAGES | RUNS | DEVICES | OPERATORS;

  .tables   tables and views     .help   this text     .quit   leave (as Ctrl-D does)
Ctrl-C drops the statement being typed, or stops the one that runs; what a run has stored is kept."""


@dataclass
class Prompt:
    """A loop over lines of input.

    `run` executes a text and reports its errors itself. `read` shows a prompt and returns a line; it raises
    EOFError at the end of input and KeyboardInterrupt on Ctrl-C. `write` shows a line.
    """

    run: Callable[[str], object]
    read: Callable[[str], str] = input
    write: Callable[[str], object] = print
    _typed: list[str] = field(default_factory=list, init=False)

    def loop(self) -> None:
        """Read and run statements until the end of input or `.quit`."""
        while True:
            try:
                line = self.read(_NEXT if self._typed else _FIRST)
            except KeyboardInterrupt:
                self._typed.clear()
                self.write("")
                continue
            except EOFError:
                self.write("")
                return
            if not self._typed and line.strip().startswith("."):
                if self._command(line.strip()):
                    return
                continue
            self._take(line)

    def _take(self, line: str) -> None:
        if not self._typed and not line.strip():
            return
        self._typed.append(line)
        text = "\n".join(self._typed)
        if is_complete(text):
            self._typed.clear()
            self.run(text)
        elif not any(split_script(text)):
            self._typed.clear()  # nothing but comments

    def _command(self, line: str) -> bool:
        """Carry out a dot command; return whether to leave."""
        name = line.removesuffix(";").strip().lower()
        if name in (".quit", ".exit", ".q"):
            return True
        if name == ".tables":
            self.run("SHOW TABLES;")
        else:
            self.write(_HELP if name == ".help" else f"There is no command {line}; .help lists them.")
        return False


def history_path() -> Path:
    """Return where typed lines are kept between runs: a file in the user's state folder (XDG)."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "obeql" / "history"


def with_history(loop: Callable[[], None], path: Path | None = None) -> None:
    """Run a loop with line editing, and keep its lines in `path` where the system has readline."""
    try:
        import readline  # noqa: PLC0415 - absent on Windows
    except ImportError:
        loop()
        return
    path = history_path() if path is None else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            readline.read_history_file(path)
        readline.set_history_length(2000)
    except OSError:
        pass  # a home that cannot be read or written is no reason not to start
    try:
        loop()
    finally:
        with suppress(OSError):
            readline.write_history_file(path)
