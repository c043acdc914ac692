"""The numbers of a statement that stand for axes: patch, stride and REGION, laid on the spatial axes of a model.

One number stands for every axis; else there is one an axis, as the model's input has them: height and width of images,
the length of signals. What comes out has a row for signals, too, as everything after binding: a signal is one row high.
"""

from __future__ import annotations

from obeql.errors import QueryTypeError
from obeql.planner.binding.values import show_pair
from obeql.planner.catalog import ModelRecord

__all__ = ["on_axes", "region_on_axes"]


def on_axes(name: str, numbers: tuple[int, ...], model: ModelRecord) -> tuple[int, int]:
    """Return pixels (rows, columns) of an option of one number, or of one an axis.

    Raises QueryTypeError for another count of numbers.
    """
    how = model.preprocessing
    if len(numbers) == 1:
        numbers = numbers * len(how.size)
    if how.is_signal:
        if len(numbers) != 1:
            raise QueryTypeError(
                f"{name} {show_pair(numbers)} has {len(numbers)} numbers, but model {model.name!r} takes signals, "
                f"which have one axis: {name}={numbers[-1]}."
            )
        return 1, numbers[0]
    height, width = numbers
    return height, width


def region_on_axes(numbers: tuple[int, ...], model: ModelRecord) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the numbers of REGION: starts, then extents, of each axis.

    A signal's row may be there: (0, start, 1, extent). Raises QueryTypeError for another count of numbers.
    """
    how = model.preprocessing
    if len(numbers) == 2 and how.is_signal:
        return 0, numbers[0], 1, numbers[1]
    if len(numbers) != 4:
        raise QueryTypeError(
            f"REGION takes (top, left, height, width) in pixels of the model's input, not {len(numbers)} numbers: "
            f"model {model.name!r} takes images."
        )
    top, left, height, width = numbers
    return top, left, height, width
