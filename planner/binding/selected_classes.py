"""Bind which classes a statement asks of a model, and which score of them.

Before: a statement whose model and images are known. After: `bind` lays the selector into the logical plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from obeql.errors import QueryError, QueryTypeError, UnknownNameError
from obeql.grammar import statements, syntax
from obeql.planner.binding.classes import class_names, class_number, find_class
from obeql.planner.binding.clause_names import clause
from obeql.planner.binding.clauses import DEFAULT_CLASSES
from obeql.planner.binding.error_location import is_written, locate
from obeql.planner.binding.labels import labels_of
from obeql.planner.binding.values import Parameters, parameter_value
from obeql.planner.binding.window_grids import value_node
from obeql.planner.catalog import ImageRecord, ModelRecord
from obeql.planner.class_selector import ALL, LABEL, ClassSelector

__all__ = ["bind_classes", "bind_score", "bind_top", "no_classes"]


def bind_score(statement: statements.ExplainOcclude, options: Mapping[str, Any], model: ModelRecord) -> str:
    """Return the score, which for outputs that are values is the value."""
    score = str(options["score"])
    written = any(option.name == "score" for option in statement.options)
    if model.has_values == (score == "value"):
        return score
    if model.has_values and not written:
        return "value"
    message = (
        f"score={score} is for classifiers; model {model.name!r} was created with outputs=value, so score=value."
        if model.has_values
        else f"score=value is for models that were created with outputs=value; {model.name!r} is a classifier: "
        "score=logit is what it returns."
    )
    raise locate(QueryTypeError(message), value_node(statement, "score"))


def bind_top(node: syntax.ForTop, model: ModelRecord) -> int:
    """Return k of FOR TOP k. Raises QueryTypeError where the model has fewer classes."""
    if not 1 <= node.k <= model.n_classes:
        limit = f"model {model.name!r} has {model.n_classes}" if node.k >= 1 else "at least one is needed"
        asked = f"FOR TOP {node.k}" if is_written(node) else f"top={node.k}"
        raise locate(QueryTypeError(f"{asked} asks for {node.k} classes; {limit}."), node)
    return node.k


def bind_classes(
    statement: statements.ExplainOcclude,
    model: ModelRecord,
    images: tuple[ImageRecord, ...],
    parameters: Parameters,
) -> ClassSelector:
    """Return the classes of FOR. Raises QueryTypeError, UnknownNameError, placed at the clause or its class."""
    if model.has_values and not isinstance(statement.selector, syntax.ForClasses):
        if statement.selector is None or isinstance(statement.selector, syntax.ForAll):
            return ALL
        raise locate(no_classes(model), statement.selector)
    match statement.selector:
        case None | syntax.ForPredicted():
            return DEFAULT_CLASSES
        case syntax.ForAll():
            return ALL
        case syntax.ForTop() as top:
            return ClassSelector("top", bind_top(top, model))
        case syntax.ForLabel() as node:
            _check_labels(node, model, images)
            return LABEL
        case syntax.ForClasses(items=items):
            return ClassSelector("ids", tuple(_class_id(item, model, parameters) for item in items))


def no_classes(model: ModelRecord) -> QueryTypeError:
    """Return the error of a statement that asks for ranked or labelled classes of a model of values."""
    names = ", ".join(map(repr, class_names(model)[:8]))
    return QueryTypeError(
        f"Model {model.name!r} returns values (outputs=value), not classes to rank or to label; "
        f"FOR ALL or FOR CLASS says which: {names}."
    )


def _class_id(node: syntax.Number | syntax.Text | syntax.Parameter, model: ModelRecord, parameters: Parameters) -> int:
    try:
        value = parameter_value(node, parameters) if isinstance(node, syntax.Parameter) else node.value
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, str):
            return find_class(model, value)
        if isinstance(value, int) and not isinstance(value, bool):
            return class_number(model, value)
        raise QueryTypeError(f"A class is a whole number or a name, not {value!r}.")
    except QueryError as wrong:
        raise locate(wrong, node) from None


def _check_labels(node: syntax.ForLabel, model: ModelRecord, images: tuple[ImageRecord, ...]) -> None:
    """Raise unless some image has a label that names a class; an image without one fails by itself, later."""
    labels = [label for image in images for label in labels_of(image)]
    if not labels:
        lacking = "the image has none" if len(images) == 1 else f"none of the {len(images)} images has one"
        message = f"{clause('FOR LABEL', node)} needs images with labels; {lacking}."
        raise locate(QueryTypeError(message), node)
    failure: QueryError | None = None
    for label in dict.fromkeys(labels):
        try:
            find_class(model, label)
        except QueryError as wrong:
            failure = failure or wrong
        else:
            return
    if failure is not None:
        message = f"{clause('FOR LABEL', node)}: no image's label names a class. {failure.message}"
        raise locate(UnknownNameError(message), node)
