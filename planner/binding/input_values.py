"""The option inputs of CREATE MODEL: what a network's other inputs are bound to, as numbers that a database can keep.

`options` names it for statements, `obeql.executor.models.options` for Python; which inputs a network has, its loader
knows (`obeql.executor.models.bound_inputs`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from obeql.planner.binding.values import BadValue, shown

__all__ = ["InputValue", "input_values"]

#: A number, a truth value, or lists of them, nested one for each axis.
InputValue = bool | int | float | list[Any]

#: Numbers of all inputs together: an image of 512x512 pixels in three channels fits.
_MOST_NUMBERS = 1_000_000


def input_values(name: str, value: Any) -> dict[str, InputValue]:
    """Parse {name of an input: number, nested lists of numbers, array or tensor}; arrays become nested lists.

    Lists are of one shape at every depth, and numbers are finite. Raises BadValue.
    """
    if not isinstance(value, Mapping) or not value:
        raise BadValue(f"{name} takes names of inputs and their values, as {{'age': 0.5}}, not {shown(value)}.")
    left = _MOST_NUMBERS
    parsed: dict[str, InputValue] = {}
    for key, given in value.items():
        if not isinstance(key, str) or not key.strip():
            raise BadValue(f"{name} takes names of inputs as texts, not {shown(key)}.")
        values = given.tolist() if hasattr(given, "tolist") else given
        if hasattr(given, "tolist") and not _is_listed(values):
            raise BadValue(f"{name} takes numbers for {key!r}, not an array of {given.dtype}.")
        left -= _count(values)
        if left < 0:
            raise BadValue(f"{name} takes at most {_MOST_NUMBERS:,} numbers; {key!r} has more.")
        parsed[key] = _checked(name, key, values)
    return parsed


def _count(value: Any) -> int:
    return sum(map(_count, value)) if isinstance(value, (list, tuple)) else 1


def _is_listed(value: Any) -> bool:
    """Return whether the numbers of an array are ones that a list here may hold: complex ones and texts are not."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, (bool, int, float, list))


def _checked(name: str, key: str, value: Any) -> InputValue:
    if isinstance(value, (list, tuple)):
        items = [_checked(name, key, item) for item in value]
        if not items:
            raise BadValue(f"{name} takes at least one number for {key!r}, not an empty list.")
        if any(_shape(item) != _shape(items[0]) for item in items):
            raise BadValue(f"{name} takes lists of one length for {key!r}; {shown(value)} has several.")
        return items
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, (bool, int, float)):
        raise BadValue(f"{name} takes a number or nested lists of numbers for {key!r}, not {shown(plain)}.")
    if not math.isfinite(plain):
        raise BadValue(f"{name} takes finite numbers for {key!r}, not {plain}.")
    if isinstance(plain, int) and not -(2**63) <= plain < 2**63:
        raise BadValue(f"{name} takes whole numbers of 64 bits for {key!r}, not {shown(plain)}.")
    return plain


def _shape(value: InputValue) -> tuple[int, ...]:
    return (len(value), *_shape(value[0])) if isinstance(value, list) else ()
