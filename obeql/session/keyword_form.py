"""The keyword form of EXPLAIN OCCLUDE: Python values become a syntax tree, the same as text would give."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from obeql.errors import QueryTypeError, UnknownNameError, nearest
from obeql.grammar import statements, syntax
from obeql.planner import ImageRecord, ImageSet
from obeql.planner.binding.option_tables import EXPLAIN_OPTIONS, MODEL_OPTIONS
from obeql.planner.input_kinds import KINDS
from obeql.session.image_registry import is_pixels

__all__ = ["CLAUSES", "LiveModel", "explain_statement", "live_model", "predict_statement"]

#: Keywords that are clauses; all others are options of WITH.
CLAUSES = (
    "classes", "top", "region", "windows", "top_cells", "within", "approx", "metric", "confidence", "exact", "into",
    "replace", "device", "reuse",
)  # fmt: skip

_SELECTORS: Mapping[str, type[syntax.ForPredicted | syntax.ForLabel | syntax.ForAll]] = {
    "predicted": syntax.ForPredicted,
    "label": syntax.ForLabel,
    "all": syntax.ForAll,
}


def explain_statement(
    source: Any, model: str, options: Mapping[str, Any], is_name: bool
) -> tuple[statements.ExplainOcclude, list[Any] | None]:
    """Return the statement and the values of its parameters (the source, unless `is_name`).

    `options` are the keywords; those that are no clause are options of WITH, and None leaves one out. Raises
    UnknownNameError for a keyword that is neither, QueryTypeError for a value of the wrong kind.
    """
    known = [*CLAUSES, *(row.name for row in EXPLAIN_OPTIONS)]
    for name in options:
        if name.lower() not in known:
            hint = nearest(name, known)
            if name.lower() in {row.name for row in MODEL_OPTIONS}:
                hint = f" {name} is an option of create_model."
            raise UnknownNameError(f"explain has no keyword {name!r}; it has {', '.join(known)}.{hint}")
    rest = {name: value for name, value in options.items() if value is not None}
    classes, top, region = rest.pop("classes", None), rest.pop("top", None), rest.pop("region", None)
    if classes is not None and top is not None:
        raise QueryTypeError("classes and top both say which classes; give one of them.")
    top_cells, within = rest.pop("top_cells", None), rest.pop("within", None)
    accuracy = _accuracy(rest)
    into, replace, device = rest.pop("into", None), rest.pop("replace", False), rest.pop("device", None)
    if replace and into is None:
        raise QueryTypeError("replace=True replaces a run by its name; give into=.. as well.")
    reuse = rest.pop("reuse", True)
    where, parameters = _source(source, is_name)
    windows = rest.pop("windows", None)
    if windows is not None:
        parameters = [*(parameters or []), windows]
    return (
        statements.ExplainOcclude(
            source=where,
            model=syntax.Name(model),
            selector=_selector(classes) if top is None else syntax.ForTop(_whole("top", top)),
            region=None if region is None else _region(region),
            windows=None if windows is None else syntax.Windows(syntax.Parameter(None, len(parameters or []) - 1)),
            options=tuple(syntax.Option(name.lower(), _value(name, value)) for name, value in rest.items()),
            top_cells=None if top_cells is None else syntax.TopCells(_whole("top_cells", top_cells)),
            accuracy=accuracy,
            within=None if within is None else syntax.Within(_number("within", within)),
            device=None if device is None else syntax.Device(str(device).lower()),
            reuse=bool(reuse),
            into=None if into is None else syntax.Into(syntax.Name(_name("into", into)), bool(replace)),
        ),
        parameters,
    )


def predict_statement(
    source: Any, model: str, top: Any, page: Any, check: Any, is_name: bool
) -> tuple[statements.Predict, list[Any] | None]:
    """Return the statement of PREDICT and the values of its parameters, as `explain_statement` does."""
    where, parameters = _source(source, is_name)
    return (
        statements.Predict(
            source=where,
            model=syntax.Name(model),
            top=None if top is None else syntax.ForTop(_whole("top", top)),
            options=() if page is None else (syntax.Option("page", _value("page", page)),),
            check=bool(check),
        ),
        parameters,
    )


def _source(source: Any, is_name: bool) -> tuple[syntax.Source, list[Any] | None]:
    if is_name:
        return syntax.NameSource(source), None
    value = os.fspath(source) if isinstance(source, os.PathLike) else source
    if not isinstance(value, (str, list, tuple, ImageRecord, ImageSet)) and not is_pixels(value):
        raise QueryTypeError(f"A source is a name, a path, an image or a list of them, not {type(value).__name__}.")
    return syntax.ParameterSource(syntax.Parameter(None, 0)), [value]


def _accuracy(rest: dict[str, Any]) -> syntax.Exact | syntax.Approx | None:
    approx, exact = rest.pop("approx", None), rest.pop("exact", False)
    metric, confidence = rest.pop("metric", None), rest.pop("confidence", None)
    if approx is None:
        if metric is not None or confidence is not None:
            raise QueryTypeError("metric and confidence belong to approx=..; give it as well.")
        return syntax.Exact() if exact else None
    if exact:
        raise QueryTypeError("approx and exact exclude each other; give one of them.")
    level = None if confidence is None else _number("confidence", confidence)
    return syntax.Approx(_number("approx", approx), None if metric is None else str(metric).lower(), level)


def _region(value: Any) -> syntax.Region:
    if not isinstance(value, (list, tuple)) or len(value) not in {2 * n_axes for n_axes in KINDS}:
        raise QueryTypeError(
            "region takes (top, left, height, width) in pixels of the model's input, (start, length) of signals or "
            f"(front, top, left, depth, height, width) of volumes, not {value!r}."
        )
    return syntax.Region(tuple(_whole("region", item) for item in value))


def _selector(classes: Any) -> syntax.Selector | None:
    if classes is None:
        return None
    if isinstance(classes, str) and classes.lower() in _SELECTORS:
        return _SELECTORS[classes.lower()]()
    items = [_plain(item) for item in (classes if isinstance(classes, (list, tuple)) else [classes])]
    if not items or not all(isinstance(item, (int, str)) and not isinstance(item, bool) for item in items):
        raise QueryTypeError("classes takes 'predicted', 'label', 'all', a class number or name, or a list of those.")
    return syntax.ForClasses(
        tuple(syntax.Text(item) if isinstance(item, str) else syntax.Number(item) for item in items)
    )


def _value(name: str, value: Any) -> syntax.Value:
    value = _plain(value)
    if isinstance(value, bool):
        return syntax.Word("true" if value else "false")
    if isinstance(value, (int, float)):
        return syntax.Number(value)
    if isinstance(value, str):
        return syntax.Text(value)
    if isinstance(value, (tuple, list)):
        is_sizes = isinstance(value, tuple) and len(value) > 1 and all(isinstance(v, int) for v in value)
        if is_sizes and name.lower() in {"patch", "stride"}:
            return syntax.Sizes(tuple(value))
        items: Any = tuple(_value(name, item) for item in value)
        return syntax.TupleValue(items) if isinstance(value, tuple) else syntax.ListValue(items)
    raise QueryTypeError(f"{name} does not take a value of type {type(value).__name__}: {value!r:.60}.")


def _name(name: str, value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise QueryTypeError(f"{name} takes a name, not {value!r}.")


def _whole(name: str, value: Any) -> int:
    value = _plain(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise QueryTypeError(f"{name} takes a whole number, not {value!r}.")


def _number(name: str, value: Any) -> int | float:
    value = _plain(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise QueryTypeError(f"{name} takes a number, not {value!r}.")


def _plain(value: Any) -> Any:
    """Return a number of numpy's as Python's own."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


@dataclass(frozen=True, slots=True)
class LiveModel:
    """What `explain` was told of a module without a name: the options of its model, and those of the statement."""

    name: str
    options: dict[str, Any]
    rest: dict[str, Any]


def live_model(module: Any, source: Any, options: Mapping[str, Any]) -> LiveModel:
    """Return how a module is made a model on the way: its name, and the options of CREATE MODEL among the keywords.

    Without `size`, arrays and tensors say it, which are the model's input as they are; one channel means gray.
    """
    names = {row.name for row in MODEL_OPTIONS} - {row.name for row in EXPLAIN_OPTIONS} - set(CLAUSES) - _OF_FILES
    said = {name.lower(): value for name, value in options.items() if name.lower() in names and value is not None}
    rest = {name: value for name, value in options.items() if name.lower() not in names}
    n_axes = _axes_of(module)
    if n_axes in (1, 3) and "size" not in said and (size := _last_axes(source, n_axes)) is not None:
        said["size"] = size
    shape = _shape(source) if "size" not in said else None
    if shape is not None:
        said.setdefault("size", shape[1:])
        if shape[0] == 1:
            said.setdefault("channels", "gray")
    if "size" not in said:
        raise QueryTypeError(
            "The input of a live module has a size that only arrays and tensors tell; give size=(height, width)."
        )
    return LiveModel(type(module).__name__, said, rest)


#: Options of models that a live module has no use for.
_OF_FILES = {"weights", "trust"}


def _axes_of(module: Any) -> int | None:
    from obeql.executor.models.preprocessing import declared_by  # noqa: PLC0415 - torch is there with the module

    return declared_by(module).n_axes


def _last_axes(source: Any, n_axes: int) -> tuple[int, ...] | None:
    """Return the size of an array of so many axes, with channels before them, in a batch, or the first of a list."""
    if isinstance(source, (list, tuple)) and source:
        return _last_axes(source[0], n_axes)
    if not is_pixels(source) or len(getattr(source, "shape", ())) < n_axes:
        return None
    return tuple(map(int, source.shape[-n_axes:]))


def _shape(source: Any) -> tuple[int, int, int] | None:
    """Return (C, H, W) of an array or tensor, of the images of a batch, or of the first image of a list.

    Return None for others.
    """
    if isinstance(source, (list, tuple)) and source:
        return _shape(source[0])
    if not is_pixels(source) or not hasattr(source, "shape"):
        return None
    sides = [int(side) for side in source.shape][-3:]
    if len(sides) == 2:
        return 1, sides[0], sides[1]
    if len(sides) != 3:
        return None
    last = sides[2] in _CHANNELS and not (sides[0] in _CHANNELS and hasattr(source, "requires_grad"))
    return (sides[2], sides[0], sides[1]) if last else (sides[0], sides[1], sides[2])


_CHANNELS = (1, 3, 4)
