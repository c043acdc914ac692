"""The keyword form of EXPLAIN OCCLUDE: Python values become a syntax tree, the same as text would give."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from obeql.errors import QueryTypeError
from obeql.gallery import is_pixels
from obeql.grammar import syntax

__all__ = ["explain_statement"]

_SELECTORS = {"predicted": syntax.ForPredicted, "label": syntax.ForLabel, "all": syntax.ForAll}


def explain_statement(
    source: Any, model: str, options: Mapping[str, Any]
) -> tuple[syntax.ExplainOcclude, list[Any] | None]:
    """Return the statement and the values of its parameters (the source, where it is no name)."""
    rest = dict(options)
    classes, top, region = rest.pop("classes", None), rest.pop("top", None), rest.pop("region", None)
    approx, exact = rest.pop("approx", None), rest.pop("exact", False)
    into, replace, device = rest.pop("into", None), rest.pop("replace", False), rest.pop("device", None)
    if classes is not None and top is not None:
        raise QueryTypeError("classes and top both say which classes; give one of them.")
    parameters: list[Any] | None = None
    where: syntax.Source
    if isinstance(source, str) and source.isidentifier():
        where = syntax.NameSource(source)
    else:
        value = os.fspath(source) if isinstance(source, os.PathLike) else source
        if not isinstance(value, (str, list, tuple)) and not is_pixels(value):
            raise QueryTypeError(f"A source is a name, a path, an image or a list of them, not {type(value).__name__}.")
        where, parameters = syntax.ParameterSource(syntax.Parameter(None, 0)), [value]
    accuracy: syntax.Exact | syntax.Approx | None = syntax.Exact() if exact else None
    if approx is not None:
        accuracy = syntax.Approx(approx)
    return (
        syntax.ExplainOcclude(
            source=where,
            model=syntax.Name(model),
            selector=syntax.ForTop(top) if top is not None else _selector(classes),
            region=None if region is None else syntax.Region(*region),
            options=tuple(syntax.Option(name.lower(), _value(name, value)) for name, value in rest.items()),
            accuracy=accuracy,
            device=None if device is None else syntax.Device(device),
            into=None if into is None else syntax.Into(syntax.Name(into), replace),
        ),
        parameters,
    )


def _selector(classes: Any) -> syntax.Selector | None:
    if classes is None:
        return None
    if isinstance(classes, str) and classes.lower() in _SELECTORS:
        return _SELECTORS[classes.lower()]()
    items = classes if isinstance(classes, (list, tuple)) else [classes]
    if not items or not all(isinstance(item, (int, str)) and not isinstance(item, bool) for item in items):
        raise QueryTypeError("classes takes 'predicted', 'label', 'all', a class number or name, or a list of those.")
    return syntax.ForClasses(
        tuple(syntax.Text(item) if isinstance(item, str) else syntax.Number(item) for item in items)
    )


def _value(name: str, value: Any) -> syntax.Value:
    if isinstance(value, bool):
        return syntax.Word("true" if value else "false")
    if isinstance(value, (int, float)):
        return syntax.Number(value)
    if isinstance(value, str):
        return syntax.Text(value)
    if isinstance(value, (tuple, list)) and value:
        pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int) for v in value)
        if pair and name.lower() in {"patch", "stride", "size"}:
            return syntax.Pair(value[0], value[1])
        items: Any = tuple(_value(name, item) for item in value)
        return syntax.TupleValue(items) if isinstance(value, tuple) else syntax.ListValue(items)
    raise QueryTypeError(f"Option {name} does not take a {type(value).__name__}.")
