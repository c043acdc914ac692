"""Markdown of the generated parts of the docs. Used by `doc_tables` and `doc_speed`."""

from __future__ import annotations

from collections.abc import Iterable


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown, whose cells read the same on every site: a `<` or a `|` is none of the page's own."""
    lines = [head, tuple("---" for _ in head), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A cell. In code, sites disagree about escaped bars; in HTML they do not."""
    if "|" not in text and "<" not in text:
        return text
    parts = text.split("`")  # code is every second part
    for place, part in enumerate(parts):
        shown = part.replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
        in_code = place % 2 == 1
        parts[place] = f"<code>{shown}</code>" if in_code and "|" in part else f"`{part}`" if in_code else shown
    return "".join(parts)
