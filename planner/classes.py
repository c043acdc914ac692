"""Classes of a model by number or name, as FOR CLASS and an image's label give them.

Names match exactly first, then whatever the case; without class names a class is called by its number.
"""

from __future__ import annotations

from obeql.errors import QueryTypeError, UnknownNameError, nearest
from obeql.planner.catalog import ModelRecord

__all__ = ["class_names", "class_number", "find_class"]


def class_names(model: ModelRecord) -> tuple[str, ...]:
    """Return one name for each output of the network, the number as text where it has none."""
    return tuple(model.class_name(i) for i in range(model.n_classes))


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
    if len(matches) == 1:
        return matches[0]
    if matches:
        numbers = " and ".join(str(i) for i in matches)
        raise QueryTypeError(f"Class {name!r} is ambiguous: it names {numbers}; give the number.")
    few = f" Its classes are {', '.join(names)}." if len(names) <= 8 else ""
    raise UnknownNameError(f"Model {model.name!r} has no class {name!r}.{few}{nearest(name, names)}")
