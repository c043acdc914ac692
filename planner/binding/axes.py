"""The numbers of a statement that stand for axes: patch, stride and REGION, laid on the spatial axes of a model.

One number stands for every axis; else there is one an axis, as the model's input has them: height and width of images,
the length of signals. What comes out has a row for signals, too, as everything after binding: a signal is one row high.
"""

from __future__ import annotations

from obeql.errors import QueryTypeError
from obeql.planner.binding.values import show_pair
from obeql.planner.catalog import ModelRecord

__all__ = ["on_axes", "region_on_axes"]


_COUNTS = {1: "one axis", 2: "two axes", 3: "three axes"}


def on_axes(name: str, numbers: tuple[int, ...], model: ModelRecord) -> tuple[int, ...]:
    """Return pixels along each axis, the slowest first, of an option of one number, or of one an axis.

    Raises QueryTypeError for another count of numbers.
    """
    how = model.preprocessing
    n_axes = len(how.size)
    if len(numbers) == 1:
        numbers = numbers * n_axes
    if len(numbers) != n_axes:
        fitting = numbers[-n_axes:] if len(numbers) > n_axes else (numbers[-1],)
        raise QueryTypeError(
            f"{name} {show_pair(numbers)} has {len(numbers)} numbers, but model {model.name!r} takes "
            f"{how.kind.plural}, which have {_COUNTS[n_axes]}: {name}={show_pair(fitting)}."
        )
    return (1, *numbers) if how.is_signal else numbers


def region_on_axes(numbers: tuple[int, ...], model: ModelRecord) -> tuple[int, ...]:
    """Return the numbers of REGION, (top, left, height, width) of images: starts, then extents, of each axis.

    A signal's row may be there: (0, start, 1, extent). Raises QueryTypeError for another count of numbers.
    """
    how = model.preprocessing
    if len(numbers) == 2 and how.is_signal:
        return 0, numbers[0], 1, numbers[1]
    if len(numbers) != 2 * len(how.map_size):
        kind = how.kind
        raise QueryTypeError(
            f"REGION takes {kind.box_text} in {kind.unit}s of the model's input, not {len(numbers)} numbers: "
            f"model {model.name!r} takes {kind.plural}."
        )
    return numbers
