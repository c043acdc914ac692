"""Syntax tree to text, the inverse of `obeql.grammar.parser`: `parse_statement(print_statement(t)) == t`.

Before: a tree, parsed or built by the Python interface. After: what PLAN shows and a run's metadata records.
Clauses are printed in one order, whichever they were written in, so equal trees have equal text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from obeql.grammar import statements, syntax
from obeql.grammar.scanner import count_positional_parameters
from obeql.grammar.syntax import Node

_BARE_NAME = re.compile(r"[^\W\d]\w*")
# The grammar reads these as names where a name stands; a person would stumble over them.
_QUOTED_WORDS = frozenset(["explain", "occlude", "using", "from", "for", "with", "to", "or", "select"])


def print_name(name: str) -> str:
    """Return an identifier as it is written in a statement, in double quotes if it needs them."""
    if _BARE_NAME.fullmatch(name) and name.lower() not in _QUOTED_WORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def print_text(text: str) -> str:
    """Return a string in single quotes."""
    return "'" + text.replace("'", "''") + "'"


def print_statement(statement: statements.Statement) -> str:
    """Return a statement on one line without a `;`; an SqlStatement's text is returned as it is."""
    return _Printer().print(statement)


class _Printer:
    """Prints one statement; it counts the `?` so far, because a parameter out of turn is printed as `$n`."""

    def __init__(self) -> None:
        self._n_positional = 0

    def print(self, node: Node) -> str:
        if isinstance(node, statements.SqlStatement):
            return node.text
        if isinstance(node, statements.StatementNode):
            return self._words(*node.words())
        return self._clause(node)

    def _words(self, *parts: Node | str | None) -> str:
        """Join what is there, in order: the order in which parameters are counted."""
        printed = (self.print(part) if isinstance(part, Node) else part for part in parts)
        return " ".join(part for part in printed if part)

    def _clause(self, node: Node) -> str:
        match node:
            case syntax.ForPredicted():
                return "FOR PREDICTED"
            case syntax.ForLabel():
                return "FOR LABEL"
            case syntax.ForClasses((only,)):
                return self._words("FOR CLASS", only)
            case syntax.ForClasses(items):
                return f"FOR CLASSES ({self._commas(items)})"
            case syntax.ForTop(k):
                return f"FOR TOP {k}"
            case syntax.ForAll():
                return "FOR ALL"
            case syntax.Region(numbers):
                return f"REGION ({', '.join(map(str, numbers))})"
            case syntax.Windows(source):
                return self._words("WINDOWS", source)
            case syntax.TopCells(k):
                return f"TOP {k} CELLS"
            case syntax.Exact():
                return "EXACT"
            case syntax.Approx(quality, metric, confidence):
                tail = f" METRIC {metric}" if metric is not None else ""
                tail += f" CONFIDENCE {confidence}" if confidence is not None else ""
                return f"APPROX {quality}{tail}"
            case syntax.Within(seconds):
                return f"WITHIN {seconds} SECONDS"
            case syntax.Device(name):
                return f"ON {name}"
            case syntax.Into(name, replace):
                return self._words("INTO", "OR REPLACE" if replace else None, name)
            case syntax.NameSource(name):
                return print_name(name)
            case syntax.PathSource(path):
                return print_text(path)
            case syntax.SelectSource(sql):
                self._n_positional += count_positional_parameters(sql)
                return f"({sql})"
            case syntax.ParameterSource(parameter):
                return self.print(parameter)
        return self._value(node)

    def _value(self, node: Node) -> str:
        match node:
            case syntax.Option(name, value):
                return f"{name}={self.print(value)}"
            case syntax.Name(text) | syntax.Word(text):
                return print_name(text)
            case syntax.Text(text):
                return print_text(text)
            case syntax.Number(number):
                return str(number)
            case syntax.Sizes(numbers):
                return "x".join(map(str, numbers))
            case syntax.SizeValue(amount, unit):
                return f"{amount}{unit}"
            case syntax.ListValue(items):
                return f"[{self._commas(items)}]"
            case syntax.TupleValue(items):
                return f"({self._commas(items)})"
            case syntax.CallValue(name, items):
                return f"{name}({self._commas(items)})"
            case syntax.StructValue(fields):
                return f"{{{self._commas(fields)}}}"
            case syntax.Field(name, value):
                return f"{print_text(name)}: {self.print(value)}"
            case syntax.Parameter():
                return self._parameter(node)
        raise TypeError(f"no way to print {type(node).__name__}")

    def _commas(self, items: Iterable[Node]) -> str:
        return ", ".join(map(self.print, items))

    def _parameter(self, parameter: syntax.Parameter) -> str:
        if parameter.index is None:
            return f"${parameter.name}"
        if parameter.index == self._n_positional:
            self._n_positional += 1
            return "?"
        return f"${parameter.index + 1}"
