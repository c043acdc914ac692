"""The values of a statement's parameters: checked, and handed on as the statement's parts take them.

Comes after parsing and before binding. Values of a source become images; what stands inside SQL goes to DuckDB.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from obeql.errors import QueryTypeError
from obeql.grammar import parameters_of, statements, syntax
from obeql.grammar.scanner import scan
from obeql.planner.binding.error_location import is_written, locate
from obeql.planner.binding.image_paths import as_text
from obeql.session.image_registry import ImageRegistry, is_pixels

__all__ = ["Parameters", "bound_values", "check_parameters", "plain_values", "query_values", "sql_values"]

#: Values for `?` (a list or tuple) or `$name` (a mapping).
Parameters = Sequence[Any] | Mapping[str, Any] | None


def check_parameters(parameters: Any) -> None:
    """Raise QueryTypeError for a bare value, of which a string or an array would pass for a sequence of its parts."""
    if parameters is None or isinstance(parameters, Mapping):
        return
    if not isinstance(parameters, Sequence) or isinstance(parameters, (str, bytes)):
        raise QueryTypeError(
            f"Parameters are a list for ? or a dict for $name, not {type(parameters).__name__}; "
            "a single value goes into a list."
        )


def bound_values(
    statement: syntax.Node,
    parameters: Parameters,
    image_registry: ImageRegistry,
    alone: bool = True,
    known: Mapping[syntax.Parameter, Any] | None = None,
) -> dict[syntax.Parameter, Any]:
    """Return the value of each parameter of an OBEQL statement, pixels of its source turned into images.

    `alone` says that the script has no other statement, so that a value nobody takes is a mistake; `known` are values
    that are not looked up. Raises
    QueryTypeError, with its place, for a parameter without a value, and ImageError for pixels that are no image.
    """
    asked = [parameter for parameter in parameters_of(statement) if parameter not in (known or {})]
    given = {parameter: _value(parameter, parameters) for parameter in asked} | dict(known or {})
    if alone:
        _check_number(given, parameters)
    source = _source_parameter(statement)
    windows = _windows_parameter(statement)
    name = statement.name.value if isinstance(statement, statements.CreateImages) else None
    model = _model(statement)
    for parameter, value in given.items():
        if parameter == source:
            shown = f"parameter {_shown(parameter)}" if is_written(parameter) else "source"
            given[parameter] = _images(value, image_registry, shown, name, model)
        elif parameter != windows and hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0:
            given[parameter] = value.tolist()
    return given


def _check_number(taken: Iterable[syntax.Parameter], parameters: Parameters) -> None:
    """Raise QueryTypeError where a list has more values than a statement takes."""
    if not isinstance(parameters, Sequence):
        return
    n_taken = max((parameter.index + 1 for parameter in taken if parameter.index is not None), default=0)
    if len(parameters) > n_taken:
        n_given = f"{len(parameters)} value{'s were' if len(parameters) != 1 else ' was'} given"
        raise QueryTypeError(f"{n_given}; the statement takes {n_taken} parameter{'s' if n_taken != 1 else ''}.")


def plain_values(values: Mapping[syntax.Parameter, Any]) -> dict[str, Any]:
    """Return the values that say what a statement asks for, as its run remembers them; images speak for themselves."""
    return {
        _shown(parameter): as_text(value) if isinstance(value, str) else value
        for parameter, value in values.items()
        if isinstance(value, (bool, int, float, str))
        or (isinstance(value, (list, tuple)) and all(isinstance(item, (bool, int, float, str)) for item in value))
    }


def sql_values(sql: str, parameters: Parameters, alone: bool) -> Any:
    """Return the values DuckDB gets with a statement: all, or, in a script of several, those the statement names."""
    if parameters is None:
        return None
    if isinstance(parameters, Mapping):
        if alone:
            return dict(parameters)
        named = {sql[token.start + 1 : token.end] for token in scan(sql) if token.kind == "parameter"}
        return {name: value for name, value in parameters.items() if name in named} or None
    if alone:
        return list(parameters)
    marks = [sql[token.start : token.end] for token in scan(sql) if token.kind == "parameter"]
    numbers = [int(mark[1:]) for mark in marks if mark[1:].isdigit()]
    return list(parameters)[: max([marks.count("?"), *numbers])] or None


def query_values(query: statements.SqlStatement | syntax.SelectSource, parameters: Parameters, alone: bool) -> Any:
    """Return the values DuckDB gets with SQL that has statements inside: those of the parameters outside of them.

    DuckDB takes values by name, and the number of a parameter for its name; those of `?` are counted anew without the
    ones inside. Raises QueryTypeError, with its place, for a parameter without a value, and for a value too many.
    """
    if isinstance(query, statements.SqlStatement) and not query.embedded:
        return sql_values(query.text, parameters, alone)
    inner = [parameter for each in query.embedded for parameter in parameters_of(each)]
    own = _own_parameters(query) if isinstance(query, statements.SqlStatement) else query.parameters
    if alone:
        _check_number([*own, *inner], parameters)
    marks = iter(range(1, len(own) + 1))
    return {str(next(marks)) if _is_mark(each) else _shown(each): _value(each, parameters) for each in own} or None


def _own_parameters(statement: statements.SqlStatement) -> list[syntax.Parameter]:
    """Return the parameters of SQL outside of the statements inside it; `?` counts all of them before."""
    sql, start = statement.query, statement.span.start
    counted = [parameter for each in statement.embedded for parameter in parameters_of(each) if _is_mark(parameter)]
    found = []
    n_marks = 0
    for token in scan(sql):
        if token.kind != "parameter":
            continue
        written, span = sql[token.start : token.end], syntax.Span(start + token.start, start + token.end)
        if written == "?":
            index = n_marks + sum(parameter.span.start < span.start for parameter in counted)
            n_marks += 1
            found.append(syntax.Parameter(None, index, span=span))
        elif written[1:].isdigit():
            found.append(syntax.Parameter(None, int(written[1:]) - 1, span=span))
        else:
            found.append(syntax.Parameter(written[1:], None, span=span))
    return found


def _is_mark(parameter: syntax.Parameter) -> bool:
    """Return whether a parameter is written `?`."""
    return parameter.index is not None and parameter.span.end - parameter.span.start == 1


def _source_parameter(statement: syntax.Node) -> syntax.Parameter | None:
    if isinstance(statement, statements.PlanStatement):
        statement = statement.statement
    if isinstance(statement, (statements.ExplainOcclude, statements.Predict, statements.CreateImages)):
        source = statement.source
        return source.parameter if isinstance(source, syntax.ParameterSource) else None
    return None


def _windows_parameter(statement: syntax.Node) -> syntax.Parameter | None:
    """Return the parameter that lists windows, whose value stays as it is: masks, boxes, a data frame."""
    if isinstance(statement, statements.PlanStatement):
        statement = statement.statement
    if isinstance(statement, statements.ExplainOcclude) and statement.windows is not None:
        return statement.windows.source if isinstance(statement.windows.source, syntax.Parameter) else None
    return None


def _value(parameter: syntax.Parameter, parameters: Parameters) -> Any:
    if isinstance(parameters, Mapping):
        if (name := _shown(parameter)) in parameters:
            return parameters[name]
    elif parameters is not None and parameter.index is not None and parameter.index < len(parameters):
        return parameters[parameter.index]
    shown = f"${parameter.name}" if parameter.index is None else f"number {parameter.index + 1}"
    raise locate(QueryTypeError(f"No value was given for parameter {shown}."), parameter)


def _shown(parameter: syntax.Parameter) -> str:
    return str(parameter.name if parameter.index is None else parameter.index + 1)


def _model(statement: syntax.Node) -> str | None:
    """Return the name of the model that reads the source of a statement; None where it names none in its text."""
    if isinstance(statement, statements.PlanStatement):
        statement = statement.statement
    model = statement.model if isinstance(statement, (statements.ExplainOcclude, statements.Predict)) else None
    return model.value if isinstance(model, (syntax.Name, syntax.Text)) else None


def _images(value: Any, image_registry: ImageRegistry, shown: str, name: str | None, model: str | None) -> Any:
    """Return pixels, alone or in a list, as images of the registry; paths, names and records as they are."""
    if is_pixels(value):
        return image_registry.listed([value], name, shown, model)
    if isinstance(value, (list, tuple)) and any(not isinstance(item, (str, os.PathLike)) for item in value):
        return image_registry.listed(value, name, shown, model)
    return value
