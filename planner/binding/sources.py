"""Resolve the source of a statement to its images, and its model to a record of the catalog.

Part of binding: everything here looks names up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from obeql.errors import ImageError, QueryError, QueryTypeError, UnknownNameError, nearest
from obeql.grammar import print_name, syntax
from obeql.planner.binding.clause_names import clause
from obeql.planner.binding.error_location import is_written, locate
from obeql.planner.binding.values import Parameters, parameter_value
from obeql.planner.catalog import Catalog, ImageRecord, ImageSet, ModelRecord

__all__ = ["resolve_model", "resolve_source", "select_values"]


def resolve_model(node: syntax.Model, catalog: Catalog, parameters: Parameters) -> ModelRecord:
    """Return the model a statement names. Raises UnknownNameError, with the nearest names, when there is none."""
    try:
        named = parameter_value(node, parameters) if isinstance(node, syntax.Parameter) else node.value
        if isinstance(named, ModelRecord):
            return named
        if not isinstance(named, str):
            raise QueryTypeError(f"{clause('USING', node)} takes the name of a model, not {type(named).__name__}.")
        model = catalog.model(named)
        if model is None:
            known = list(catalog.model_names())
            how = _how_to_get("model", known, is_written(node))
            raise UnknownNameError(f"There is no model {named!r}.{nearest(named, known)}{how}")
        return model
    except QueryError as wrong:
        raise locate(wrong, node) from None


def resolve_source(
    source: syntax.Source, catalog: Catalog, parameters: Parameters, n_axes: int | None = None
) -> tuple[str, tuple[ImageRecord, ...]]:
    """Return how the source is shown and its images, at least one, in the source's order.

    `n_axes` are the spatial axes of the model that reads them, where it is known: a folder may be one volume.

    A name is an image set, else the one image of that file stem. Raises UnknownNameError when nothing is found,
    QueryTypeError when a name is ambiguous or a parameter is no image.
    """
    try:
        match source:
            case syntax.NameSource():
                return source.name, _named(source, catalog)
            case syntax.PathSource():
                return repr(source.path), _at(source.path, catalog, n_axes)
            case syntax.SelectSource():
                return "(SELECT)", _selected(source, catalog, parameters)
            case syntax.ParameterSource():
                images = _given(parameter_value(source.parameter, parameters), catalog, n_axes)
                if not images:
                    raise QueryTypeError("The list of images is empty.")
                return images[0].shown if len(images) == 1 else "(parameter)", images
    except QueryError as wrong:
        inside = isinstance(source, syntax.SelectSource) and wrong.offset is not None
        raise locate(wrong, source, source.span.start + 1 + (wrong.offset or 0) if inside else None) from None


def _named(source: syntax.NameSource, catalog: Catalog) -> tuple[ImageRecord, ...]:
    name = source.name
    image_set = catalog.image_set(name)
    if image_set is not None:
        if not image_set.images:
            raise QueryTypeError(f"Image set {name!r} is empty.")
        return image_set.images
    found = tuple(catalog.image_named(name))
    if len(found) > 1:
        listed = ", ".join(image.shown for image in found[:3]) + (", .." if len(found) > 3 else "")
        raise QueryTypeError(f"{name!r} names {len(found)} images ({listed}); give the path as a string.")
    if not found:
        known = list(catalog.image_names())
        how = _how_to_get("image", known, is_written(source))
        raise UnknownNameError(f"There is no image or image set {name!r}.{nearest(name, known)}{how}")
    return found


def _how_to_get(what: str, known: Sequence[str], written: bool) -> str:
    if known:
        listed = ", ".join(sorted(known)[:8]) + (", .." if len(known) > 8 else "")
        return f" Known are {listed}."
    if what == "model":
        return (
            f" There are none yet: {'CREATE MODEL name FROM uri' if written else 'create_model(name, module or uri)'}."
        )
    way = "CREATE IMAGES name FROM 'glob', or give" if written else "create_images(name, images), or give"
    return f" There are none yet: {way} a path as a string."


def _at(path: str, catalog: Catalog, n_axes: int | None) -> tuple[ImageRecord, ...]:
    try:
        found = tuple(catalog.images_at(path, n_axes))
    except ImageError as missing:
        if catalog.image_set(path) is None and not catalog.image_named(path):
            raise
        name = print_name(path)
        raise ImageError(f"{missing} Single quotes hold paths; known images of that name are {name}.") from None
    if not found:
        raise UnknownNameError(f"No image file matches {path!r}.")
    return found


def _selected(source: syntax.SelectSource, catalog: Catalog, parameters: Parameters) -> tuple[ImageRecord, ...]:
    values = select_values(source, parameters)
    found = tuple(catalog.images_selected(source.query, values) if values else catalog.images_selected(source.query))
    if not found:
        raise QueryTypeError("The SELECT yields no images.")
    return found


def select_values(source: syntax.SelectSource, parameters: Parameters) -> dict[str, Any]:
    """Return the values DuckDB binds by name: `$n` keeps its number, each `?` counts within the SELECT."""
    values: dict[str, Any] = {}
    n_marks = 0
    for parameter in source.parameters:
        if parameter.index is None:
            name = str(parameter.name)
        elif parameter.span.end - parameter.span.start > 1:  # $1
            name = str(parameter.index + 1)
        else:
            n_marks += 1
            name = str(n_marks)
        values[name] = parameter_value(parameter, parameters)
    return values


def _given(value: Any, catalog: Catalog, n_axes: int | None) -> tuple[ImageRecord, ...]:
    """Return the images a parameter stands for: records, paths, image sets or a list of them."""
    if isinstance(value, ImageRecord):
        return (value,)
    if isinstance(value, ImageSet):
        return value.images
    if isinstance(value, (str, os.PathLike)):
        return _at(os.fspath(value), catalog, n_axes)
    if isinstance(value, (list, tuple)):
        return tuple(image for item in value for image in _given(item, catalog, n_axes))
    raise QueryTypeError(f"A source takes images, paths or a list of them, not {type(value).__name__}.")
