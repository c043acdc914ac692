"""Colors for statements: a pygments lexer for OBEQL and SQL together.

Comes while a text is typed, and when documentation is rendered; keywords are read from the grammar and the tables of
options, so that a new one is colored without a change here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import ClassVar

from pygments.lexer import Lexer
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text, _TokenType

from obeql.cli.repl.sql_words import SQL_WORDS
from obeql.grammar.scanner import scan

__all__ = ["ObeqlLexer"]

_SQL = frozenset(SQL_WORDS)


@cache
def _keywords() -> frozenset[str]:
    """Return OBEQL's keywords, in lower case: whatever words the grammar's terminals spell."""
    grammar = (files("obeql.grammar") / "obeql.lark").read_text(encoding="utf-8")
    spelt = re.findall(r"^[A-Z_]+\.2: /(.+)/i$", grammar, re.MULTILINE)
    return frozenset(word for pattern in spelt for word in re.findall(r"[a-z]+", pattern.replace("\\b", " ")))


class ObeqlLexer(Lexer):  # type: ignore[misc]
    """Splits a text with the scanner that cuts scripts, so that colors end where quotes and comments do."""

    name = "OBEQL"
    aliases: ClassVar[list[str]] = ["obeql"]
    filenames: ClassVar[list[str]] = ["*.obeql"]

    def get_tokens_unprocessed(self, text: str) -> Iterator[tuple[int, _TokenType, str]]:
        """Yield (offset, kind, text) of every token."""
        for token in scan(text):
            shown = text[token.start : token.end]
            yield token.start, self._kind(token.kind, shown, text[token.end : token.end + 8]), shown

    def _kind(self, kind: str, shown: str, following: str) -> _TokenType:
        match kind:
            case "comment":
                return Comment
            case "string" | "dollar":
                return String
            case "quoted":
                return Name
            case "parameter":
                return Name.Variable
            case "semicolon":
                return Punctuation
            case "blank":
                return Text
            case "word":
                if re.match(r"\s*=[^=]", following + " ") and shown.lower() not in _SQL:
                    return Name.Attribute
                return Keyword if shown.lower() in _keywords() | _SQL else Name
        if shown[0].isdigit():
            return Number
        return Operator if shown in "=<>+-*/%|" else Punctuation
