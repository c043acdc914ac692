"""Read the options that a statement gives behind WITH, by the tables of `option_tables`.

Before: the nodes of a syntax tree. After: `bind` and the handlers of statements take the values. Errors point at the
option, or at the item of its list, that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from obeql.errors import QueryTypeError, UnknownNameError, nearest
from obeql.grammar import syntax
from obeql.planner.binding.error_location import locate
from obeql.planner.binding.file_parts import take_parts
from obeql.planner.binding.image_paths import Parts
from obeql.planner.binding.option_tables import (
    EVALUATE_OPTIONS,
    EXPLAIN_OPTIONS,
    IMAGES_OPTIONS,
    MODEL_OPTIONS,
    PREDICT_OPTIONS,
    RENDER_OPTIONS,
    OptionInfo,
)
from obeql.planner.binding.values import BadValue, Parameters, plain, show_pair

__all__ = [
    "EVALUATE_OPTIONS",
    "EXPLAIN_OPTIONS",
    "IMAGES_OPTIONS",
    "MODEL_OPTIONS",
    "PREDICT_OPTIONS",
    "RENDER_OPTIONS",
    "OptionInfo",
    "evaluate_options",
    "explain_options",
    "images_options",
    "images_parts",
    "model_options",
    "place_of",
    "predict_options",
    "render_options",
    "show_value",
]


def explain_options(
    options: Sequence[syntax.Option],
    parameters: Parameters,
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """Return every option of EXPLAIN OCCLUDE with its value, in the order of the table.

    `defaults` are plain values that stand in for the table's defaults. Raises UnknownNameError for an option that
    does not exist, QueryTypeError for a wrong value or an option given twice.
    """
    values = {row.name: row.default for row in EXPLAIN_OPTIONS}
    rows = {row.name: row for row in EXPLAIN_OPTIONS}
    for name, value in defaults.items():
        if name not in rows:
            raise UnknownNameError(_unknown("EXPLAIN OCCLUDE", name, rows))
        try:
            values[name] = None if value is None else rows[name].parse(name, value)
        except BadValue as wrong:
            raise QueryTypeError(str(wrong)) from None
    return values | _given(options, rows, "EXPLAIN OCCLUDE", parameters)


def model_options(options: Sequence[syntax.Option], parameters: Parameters) -> dict[str, Any]:
    """Return the options of CREATE MODEL that were given; what they mean for a file, its loader decides.

    Raises UnknownNameError for an option that does not exist, QueryTypeError for a wrong kind of value.
    """
    return _given(options, {row.name: row for row in MODEL_OPTIONS}, "CREATE MODEL", parameters)


def images_options(options: Sequence[syntax.Option], parameters: Parameters) -> dict[str, Any]:
    """Return every option of CREATE IMAGES with its value. Raises as `model_options` does."""
    rows = {row.name: row for row in IMAGES_OPTIONS}
    return {row.name: row.default for row in IMAGES_OPTIONS} | _given(options, rows, "CREATE IMAGES", parameters)


def predict_options(options: Sequence[syntax.Option], parameters: Parameters) -> dict[str, Any]:
    """Return every option of PREDICT with its value. Raises as `model_options` does."""
    rows = {row.name: row for row in PREDICT_OPTIONS}
    return {row.name: row.default for row in PREDICT_OPTIONS} | _given(options, rows, "PREDICT", parameters)


def images_parts(given: Mapping[str, Any]) -> Parts | None:
    """Return the parts of files that keywords of Python name as CREATE IMAGES does. Raises QueryTypeError."""
    try:
        values = {
            row.name: None if given[row.name] is None else row.parse(row.name, given[row.name])
            for row in IMAGES_OPTIONS
        }
    except BadValue as wrong:
        raise QueryTypeError(str(wrong)) from None
    return take_parts(values, ())


def evaluate_options(options: Sequence[syntax.Option], parameters: Parameters) -> dict[str, Any]:
    """Return every option of EVALUATE with its value. Raises as `model_options` does."""
    rows = {row.name: row for row in EVALUATE_OPTIONS}
    return {row.name: row.default for row in EVALUATE_OPTIONS} | _given(options, rows, "EVALUATE", parameters)


def render_options(options: Sequence[syntax.Option], parameters: Parameters) -> dict[str, Any]:
    """Return the options of RENDER that were given. Raises as `model_options` does."""
    return _given(options, {row.name: row for row in RENDER_OPTIONS}, "RENDER", parameters)


def _given(
    options: Sequence[syntax.Option],
    rows: Mapping[str, OptionInfo],
    statement: str,
    parameters: Parameters,
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in options:
        if option.name not in rows:
            raise locate(UnknownNameError(_unknown(statement, option.name, rows)), option)
        if option.name in values:
            raise locate(QueryTypeError(f"Option {option.name} is given twice."), option)
        try:
            given = plain(option.value, parameters)
        except QueryTypeError as missing:
            raise locate(missing, option.value) from None
        try:
            values[option.name] = rows[option.name].parse(option.name, given)
        except BadValue as wrong:
            raise locate(QueryTypeError(str(wrong)), place_of(option.value, wrong.item)) from None
    return values


def place_of(value: syntax.Value, item: int | None) -> syntax.Node:
    """Return the node to point at: one item of a list or tuple, or the whole value."""
    if item is not None and isinstance(value, (syntax.ListValue, syntax.TupleValue)):
        return value.items[item]
    return value


def _unknown(statement: str, name: str, rows: Mapping[str, OptionInfo]) -> str:
    return f"{statement} has no option {name!r}; it has {', '.join(rows)}.{nearest(name, rows)}"


def show_value(value: Any) -> Any:
    """Return an option's value as it would be written in WITH: 16x24, [8x8, 16x16], a word, a number."""
    match value:
        case None:
            return "planned"
        case (int(),) | (int(), int()) | (int(), int(), int()):
            return show_pair(value)
        case tuple() if value and all(isinstance(item, tuple) for item in value):
            parts = [show_pair(item) for item in value]
            return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"
        case _:
            return value
