"""The parts of an EXPLAIN OCCLUDE that the page has controls for: read from its tree, and changed in it.

Between the editor and the controls of the page, which are two views of one statement. A change keeps every clause that
no control knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from obeql.errors import QueryTypeError
from obeql.grammar import parse_script, print_statement, statements, syntax

__all__ = ["changed", "parts_of"]

#: Options of WITH that have a control.
_OPTIONS = ("patch", "stride", "score", "fill")


def parts_of(statement: statements.Statement) -> dict[str, Any] | None:
    """Return the parts of an EXPLAIN OCCLUDE, planned or not; None for any other statement."""
    if isinstance(statement, statements.PlanStatement):
        statement = statement.statement
    if not isinstance(statement, statements.ExplainOcclude):
        return None
    region, accuracy = statement.region, statement.accuracy
    options = {option.name: _shown(option.value) for option in statement.options}
    return {
        "source": _source(statement.source),
        "model": _shown(statement.model),
        "classes": None if statement.selector is None else print_part(statement.selector),
        "region": None if region is None else list(region.numbers),
        "approx": accuracy.quality if isinstance(accuracy, syntax.Approx) else None,
        "within": None if statement.within is None else statement.within.seconds,
        "top_cells": None if statement.top_cells is None else statement.top_cells.k,
        **{name: options.get(name) for name in _OPTIONS},
    }


def changed(text: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statement `text` with other parts, as `text` and `parts`; in place of any other text, a new one.

    None takes a part out. Raises QuerySyntaxError for a text that does not parse, QueryTypeError for a value of the
    wrong kind.
    """
    written = parse_script(text) if text.strip() else []
    node = written[0] if len(written) == 1 else None
    if not isinstance(node, statements.ExplainOcclude):
        node = statements.ExplainOcclude(syntax.NameSource("image"), syntax.Name("model"))
    for name, value in changes.items():
        change = _CHANGES.get(name)
        if change is None:
            raise QueryTypeError(f"There is no control {name!r}.")
        try:
            node = change(node, value)
        except (TypeError, ValueError, KeyError):
            raise QueryTypeError(f"{name} cannot be {value!r}.") from None
    (parsed,) = parse_script(print_statement(node))  # nothing that the grammar does not know comes out
    return {"text": print_statement(parsed), "parts": parts_of(parsed)}


def print_part(node: Any) -> str:
    """Return a clause as it is written."""
    around = statements.ExplainOcclude(syntax.NameSource("i"), syntax.Name("m"), selector=node)
    return print_statement(around).removeprefix("EXPLAIN OCCLUDE i USING m ")


def _source(source: syntax.Source) -> dict[str, str]:
    match source:
        case syntax.NameSource(name):
            return {"kind": "name", "value": name}
        case syntax.PathSource(path):
            return {"kind": "path", "value": path}
        case syntax.SelectSource(sql):
            return {"kind": "select", "value": sql}
    return {"kind": "parameter", "value": ""}


def _shown(value: Any) -> Any:
    match value:
        case syntax.Number(number):
            return number
        case syntax.Text(text) | syntax.Word(text) | syntax.Name(text):
            return text
        case syntax.Sizes(numbers):
            return "x".join(map(str, numbers))
        case syntax.ListValue(items):
            return "[" + ", ".join(str(_shown(item)) for item in items) + "]"
        case syntax.TupleValue(items):
            return "(" + ", ".join(str(_shown(item)) for item in items) + ")"
        case syntax.CallValue(name, items):
            return f"{name}({', '.join(str(_shown(item)) for item in items)})"
        case syntax.StructValue(fields):
            return "{" + ", ".join(f"'{field.name}': {_shown(field.value)}" for field in fields) + "}"
    return None


Change = Callable[[statements.ExplainOcclude, Any], statements.ExplainOcclude]


def _new_source(node: statements.ExplainOcclude, value: Any) -> statements.ExplainOcclude:
    given = str(value["value"])
    source: syntax.Source = syntax.PathSource(given) if value["kind"] == "path" else syntax.NameSource(given)
    return replace(node, source=source)


def _new_classes(node: statements.ExplainOcclude, value: Any) -> statements.ExplainOcclude:
    """Return the statement with other classes: `value` is None, a class name, a number of top classes, or "label"."""
    selector: syntax.Selector | None = None
    if value == "label":
        selector = syntax.ForLabel()
    elif isinstance(value, int):
        selector = syntax.ForTop(value)
    elif isinstance(value, dict):
        selector = syntax.ForClasses((syntax.Number(int(value["class_id"])),))
        if value.get("class_name"):
            selector = syntax.ForClasses((syntax.Text(str(value["class_name"])),))
    return replace(node, selector=selector)


def _new_region(node: statements.ExplainOcclude, value: Any) -> statements.ExplainOcclude:
    return replace(node, region=None if value is None else syntax.Region(tuple(int(each) for each in value)))


def _new_approx(node: statements.ExplainOcclude, value: Any) -> statements.ExplainOcclude:
    return replace(node, accuracy=None if value is None else syntax.Approx(float(value)))


def _new_within(node: statements.ExplainOcclude, value: Any) -> statements.ExplainOcclude:
    return replace(node, within=None if value is None else syntax.Within(float(value)))


def _new_model(node: statements.ExplainOcclude, value: Any) -> statements.ExplainOcclude:
    return replace(node, model=syntax.Name(str(value)))


def _new_option(name: str) -> Change:
    def change(node: statements.ExplainOcclude, value: Any) -> statements.ExplainOcclude:
        rest = [option for option in node.options if option.name != name]
        if value is None:
            return replace(node, options=tuple(rest))
        written: syntax.Value = syntax.Number(value) if isinstance(value, int) else _option_value(str(value))
        places = [option.name for option in node.options]
        place = places.index(name) if name in places else len(rest)
        return replace(node, options=(*rest[:place], syntax.Option(name, written), *rest[place:]))

    return change


def _option_value(text: str) -> syntax.Value:
    """Return a value as the grammar reads it. Raises ValueError for what is none."""
    (parsed,) = parse_script(f"EXPLAIN OCCLUDE i USING m WITH x={text}")
    if not isinstance(parsed, statements.ExplainOcclude) or len(parsed.options) != 1:
        raise ValueError(text)
    return parsed.options[0].value


_CHANGES: dict[str, Change] = {
    "source": _new_source,
    "model": _new_model,
    "classes": _new_classes,
    "region": _new_region,
    "approx": _new_approx,
    "within": _new_within,
    **{name: _new_option(name) for name in _OPTIONS},
}
