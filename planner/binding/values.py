"""Values of options and settings: from a syntax tree or Python to checked Python values.

Before: the grammar gives `Option` and `SetSetting` nodes. After: the tables of `options` and `settings` name one
parser of this module for each entry. A parser takes a plain Python value (int, float, bool, str, list, tuple or a
`SizeValue`) and returns the checked value or raises `BadValue`; whoever knows the text adds the place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from obeql.errors import QueryTypeError, nearest
from obeql.grammar import syntax
from obeql.planner.input_kinds import KINDS

__all__ = [
    "BadValue",
    "Parameters",
    "Parser",
    "axis_sizes",
    "choice",
    "flag",
    "number",
    "parameter_value",
    "plain",
    "show_pair",
    "size_bytes",
    "text_value",
    "whole",
]

#: What the parameters of a statement stand for, keyed by the node (places in the text do not count).
Parameters = Mapping[syntax.Parameter, Any]

#: (name of the option, plain value) -> checked value
Parser = Callable[[str, Any], Any]


class BadValue(Exception):  # noqa: N818  a message in transit, never shown bare
    """A value that its option refuses; `item` is the position in a list, where one item is at fault."""

    def __init__(self, message: str, item: int | None = None) -> None:
        self.item = item
        super().__init__(message)


def parameter_value(parameter: syntax.Parameter, parameters: Parameters) -> Any:
    """Return what a parameter stands for. Raises QueryTypeError, without a place, when nothing was given."""
    if parameter in parameters:
        return parameters[parameter]
    index = parameter.index
    shown = f"${parameter.name}" if index is None else f"number {index + 1}"
    raise QueryTypeError(f"No value was given for parameter {shown}.")


def plain(value: syntax.Value, parameters: Parameters) -> Any:
    """Return the Python value of a syntax value: `16x24` is (16, 24), `[..]` a list, `(..)` a tuple, `{..}` a dict.

    A word is a str. Raises QueryTypeError for a parameter without a value and for a name that a struct has twice.
    """
    match value:
        case syntax.Parameter():
            given = parameter_value(value, parameters)
            return given.item() if hasattr(given, "item") and not hasattr(given, "__len__") else given
        case syntax.Sizes(numbers):
            return numbers
        case syntax.ListValue():
            return [plain(item, parameters) for item in value.items]
        case syntax.TupleValue():
            return tuple(plain(item, parameters) for item in value.items)
        case syntax.StructValue(fields):
            names = [field.name for field in fields]
            if len(set(names)) < len(names):
                raise QueryTypeError(f"{max(names, key=names.count)!r} is given twice in one struct.")
            return {field.name: plain(field.value, parameters) for field in fields}
        case syntax.SizeValue() | syntax.CallValue():
            return value
        case _:
            return value.value


def shown(value: Any) -> str:
    """Return a value as a message quotes it, cut to a readable length."""
    text = f"{value.amount}{value.unit}" if isinstance(value, syntax.SizeValue) else repr(value)
    if isinstance(value, syntax.CallValue):
        text = f"{value.name}(..)"
    return text if len(text) <= 40 else text[:37] + "..."


def show_pair(pair: tuple[int, ...]) -> str:
    """Return one number an axis, or one for all, as it is written in a query: `16x24`."""
    return "x".join(map(str, pair))


def whole(least: int) -> Parser:
    """Return a parser of whole numbers of at least `least`."""

    def parse(name: str, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        raise BadValue(f"{name} takes a whole number of at least {least}, not {shown(value)}.")

    return parse


def number(name: str, value: Any) -> float:
    """Parse a finite number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise BadValue(f"{name} takes a number, not {shown(value)}.")


def choice(*allowed: str) -> Parser:
    """Return a parser of one of the given words, in any case."""

    def parse(name: str, value: Any) -> str:
        if isinstance(value, str) and value.lower() in allowed:
            return value.lower()
        hint = nearest(value, allowed) if isinstance(value, str) else ""
        listed = f"{', '.join(allowed[:-1])} or {allowed[-1]}" if len(allowed) > 1 else allowed[0]
        raise BadValue(f"{name} takes {listed}, not {shown(value)}.{hint}")

    return parse


def flag(name: str, value: Any) -> bool:
    """Parse true/false, on/off, 1/0."""
    known = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
    word = str(value).lower()
    if isinstance(value, (bool, int, str)) and word in known:
        return known[word]
    raise BadValue(f"{name} takes true or false, not {shown(value)}.")


def text_value(name: str, value: Any) -> str:
    """Parse a string that is not empty."""
    if isinstance(value, str) and value:
        return value
    raise BadValue(f"{name} takes a string, not {shown(value)}.")


def axis_sizes(name: str, value: Any) -> tuple[int, ...]:
    """Parse `16`, for every axis, or one an axis, `16x24`, in pixels, each at least 1; returns what is written."""
    sizes = value if isinstance(value, tuple) else (value,)
    if 0 < len(sizes) <= max(KINDS) and all(isinstance(n, int) and not isinstance(n, bool) for n in sizes):
        if min(sizes) >= 1:
            return sizes
        raise BadValue(f"{name} is at least 1 pixel, not {show_pair(sizes)}.")
    examples = "16, 16x24 for height x width, or 4x16x16 for depth x height x width"
    raise BadValue(f"{name} takes pixels such as {examples}, not {shown(value)}.")


_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")


def size_bytes(name: str, value: Any) -> int:
    """Parse a size in bytes: a whole number, `2GB`, '1.5 GiB'. kB, MB, GB, TB count by 1000, KiB .. TiB by 1024."""
    wrong = BadValue(f"{name} takes a size such as '2GB', '512MiB' or a number of bytes, not {shown(value)}.")
    if isinstance(value, syntax.SizeValue):
        n_bytes = value.n_bytes
    elif isinstance(value, int) and not isinstance(value, bool):
        n_bytes = value
    elif isinstance(value, str):
        matched = _SIZE.fullmatch(value)
        units = {unit.lower(): factor for unit, factor in syntax.SIZE_UNITS.items()}
        factor = units.get(matched[2].lower() or "b") if matched else None
        if matched is None or factor is None:
            raise wrong
        n_bytes = int(float(matched[1]) * factor)
    else:
        raise wrong
    if n_bytes < 1:
        raise BadValue(f"{name} is at least 1 byte, not {shown(value)}.")
    return n_bytes
