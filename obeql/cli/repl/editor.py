"""Reads one text at the prompt: several lines, colored, completed, with the history of earlier sessions.

Comes before the shell. Enter runs the text when the scanner says that a statement ends and nothing is begun after it,
and begins a new line otherwise; a pasted block arrives whole (bracketed paste) and runs as one script.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style

from obeql.cli.repl.completion import StatementCompleter, Suggestion
from obeql.cli.repl.highlighting import ObeqlLexer
from obeql.cli.repl.names import Names
from obeql.grammar import is_complete
from obeql.grammar.scanner import split_script

__all__ = ["Editor", "history_path", "is_finished"]

_STYLE = Style.from_dict(
    {
        "prompt": "bold ansicyan",
        "continuation": "ansibrightblack",
        "pygments.keyword": "bold ansiblue",
        "pygments.literal.string": "ansigreen",
        "pygments.literal.number": "ansimagenta",
        "pygments.name.attribute": "ansicyan",
        "pygments.name.variable": "ansiyellow",
        "pygments.comment": "ansibrightblack italic",
    }
)

#: Words people type to leave or to ask, that are no statement of DuckDB.
_BARE = ("exit", "quit", "help")


def history_path() -> Path:
    """Return where texts are kept between sessions: a file in the user's state folder (XDG)."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "obeql" / "history"


def is_finished(text: str) -> bool:
    """Return whether Enter runs the text: a dot-command, whole statements, or nothing at all."""
    bare = text.strip().lower()
    if bare.startswith((".", "\\", "help ")) or bare in _BARE:
        return "\n" not in bare
    return is_complete(text) or not any(split_script(text))


class Editor:
    """The prompt. `read` returns one text; it raises KeyboardInterrupt on Ctrl-C and EOFError on Ctrl-D.

    `names` are those of the database now, `command_words` completes dot-commands. `input` and `output` are the
    terminal's unless given.
    """

    def __init__(
        self,
        names: Callable[[], Names],
        command_words: Callable[[str], Iterable[Suggestion]],
        input: Input | None = None,
        output: Output | None = None,
        history: Path | None = None,
    ) -> None:
        self._prompt: PromptSession[str] = PromptSession(
            multiline=True,
            lexer=PygmentsLexer(ObeqlLexer),
            completer=StatementCompleter(names, command_words),
            complete_while_typing=True,
            complete_in_thread=True,
            auto_suggest=AutoSuggestFromHistory(),
            history=_history(history_path() if history is None else history),
            key_bindings=_bindings(),
            prompt_continuation=lambda width, line, wraps: [("class:continuation", "...> ".rjust(width))],
            style=_STYLE,
            input=input,
            output=output,
        )

    def read(self, when_shown: Callable[[], None] | None = None) -> str:
        """Show the prompt and return what is typed. `when_shown` is called once the prompt is on the screen."""
        app = self._prompt.app
        if when_shown is not None:

            def once(_: object) -> None:
                app.after_render -= once
                when_shown()

            app.after_render += once
        return self._prompt.prompt([("class:prompt", "obeql> ")])

    def leave(self, error: BaseException) -> None:
        """End the `read` that is going on, which raises `error`; from any thread."""
        app = self._prompt.app
        if app.loop is not None:
            app.loop.call_soon_threadsafe(lambda: app.exit(exception=error) if app.is_running else None)


def _history(path: Path) -> History:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        if os.access(path, os.R_OK | os.W_OK):
            return FileHistory(str(path))
    except OSError:
        pass  # a home that cannot be written is no reason not to start
    return InMemoryHistory()


def _bindings() -> KeyBindings:
    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)  # not while the history is searched

    @bindings.add("enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        state = buffer.complete_state
        if state is not None and state.current_completion is not None:
            buffer.complete_state = None  # Enter takes the word that is chosen in the menu
        elif is_finished(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.newline()

    @bindings.add("escape", "enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @bindings.add("tab", filter=typing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if not buffer.document.current_line_before_cursor.strip() and buffer.document.text_before_cursor.strip():
            buffer.insert_text("  ")  # at the start of a continued line, an indent
        elif buffer.complete_state is not None:
            buffer.complete_next()
        else:
            buffer.start_completion(insert_common_part=True)

    return bindings
