"""Classes of a model by number or name, as FOR CLASS and an image's label give them.

Names match exactly first, then whatever the case; without class names a class is called by its number, and the two
of a network with one output no and yes. Those two also go by 0 and 1, false and true.
"""

from __future__ import annotations

from obeql.errors import QueryTypeError, UnknownNameError, nearest
from obeql.planner.catalog import NO_YES, ModelRecord

__all__ = ["class_names", "class_number", "find_class", "with_no"]

#: What labels call the classes of a network with one output, whatever their names.
_NO_YES = ({"0", "no", "false"}, {"1", "yes", "true"})


def class_names(model: ModelRecord) -> tuple[str, ...]:
    """Return one name for each class, or for each output that is a value; the number as text where it has none."""
    return tuple(model.class_name(i) for i in range(model.n_classes))


def with_no(model: ModelRecord) -> tuple[str, ...]:
    """Return the model's class names, of one output two: with one for no where that of yes was given, or none."""
    if model.yes_no and len(model.classes) < 2:
        return (f"not {model.classes[0]}", model.classes[0]) if model.classes else NO_YES
    return model.classes


def class_number(model: ModelRecord, number: int) -> int:
    """Return the number of a class. Raises QueryTypeError, without a place, when it is out of range."""
    if not 0 <= number < model.n_classes:
        raise QueryTypeError(
            f"Class {number} does not exist; model {model.name!r} has the classes 0 to {model.n_classes - 1}."
        )
    return number


def find_class(model: ModelRecord, name: str) -> int:
    """Return the number of the class called `name`.

    Raises UnknownNameError, without a place, when there is none, QueryTypeError when several have that name.
    """
    names = class_names(model)
    matches = [i for i, known in enumerate(names) if known == name]
    matches = matches or [i for i, known in enumerate(names) if known.casefold() == name.strip().casefold()]
    if model.yes_no:
        matches = matches or [i for i, words in enumerate(_NO_YES) if name.strip().casefold() in words]
    if len(matches) == 1:
        return matches[0]
    if matches:
        numbers = " and ".join(str(i) for i in matches)
        raise QueryTypeError(f"Class {name!r} is ambiguous: it names {numbers}; give the number.")
    kind, plural = ("output", "outputs") if model.has_values else ("class", "classes")
    few = f" Its {plural} are {', '.join(names)}." if len(names) <= 8 else ""
    raise UnknownNameError(f"Model {model.name!r} has no {kind} {name!r}.{few}{nearest(name, names)}")
