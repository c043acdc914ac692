"""What a statement yields besides heat maps and DuckDB relations."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Message", "Plan", "preformatted"]


def preformatted(text: str) -> str:
    """Return a text as HTML of a notebook: its lines stay whole, and scroll where there is no room."""
    style = "font-family: monospace; line-height: 1.25; white-space: pre; overflow-x: auto"
    return f'<pre style="{style}">{escape(text)}</pre>'


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """One line that says what a statement did, such as `model tumour created`."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """A plan, printed by `str()`. `physical` is the plan itself; `result` its maps where PLAN ANALYZE ran it."""

    text: str
    physical: Any
    result: Any = None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Plan of {self.physical!r}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Return what IPython shows: the whole plan."""
        printer.text(self.text)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the whole plan, whose lines are not wrapped."""
        return preformatted(self.text)
