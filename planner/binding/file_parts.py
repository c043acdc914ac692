"""Which parts of files are images: the option `page`, and `frames`, `every` and `start` of clips.

Part of binding: between the tables of options and the records of images, whose paths name the part behind `#`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from obeql.errors import QueryTypeError
from obeql.grammar import syntax
from obeql.planner.binding.error_location import locate
from obeql.planner.binding.image_paths import Frames, Parts
from obeql.planner.catalog import ModelRecord
from obeql.planner.input_kinds import kind_of

__all__ = ["axes_of_parts", "take_parts"]

#: Axes of what has frames.
_CLIP_AXES = 3


def take_parts(
    values: dict[str, Any], options: Sequence[syntax.Option], model: ModelRecord | None = None
) -> Parts | None:
    """Take out of a statement's option `values` what its files' parts are: pages, or frames; None: neither.

    Raises QueryTypeError, at one of its `options`, for both, and for frames where the `model` takes no clips.
    """
    pages = values.pop("page")
    given = {name: number for name in Frames.names() if (number := values.pop(name)) is not None}
    if not given:
        found: Parts | None = pages
        return found
    node = next((option for option in options if option.name in given), None)
    if pages is not None:
        which = next(iter(given))
        wrong = QueryTypeError(f"page names a picture of a file, and {which} frames of a clip: give one of them.")
    elif model is not None and len(model.preprocessing.size) != _CLIP_AXES:
        wrong = QueryTypeError(
            f"{' and '.join(given)} {'choose' if len(given) > 1 else 'chooses'} frames of clips, and model "
            f"{model.name!r} takes {kind_of(len(model.preprocessing.size)).plural}: page=3 names one picture of a file."
        )
    else:
        return Frames.of(given)
    raise wrong if node is None else locate(wrong, node)


def axes_of_parts(parts: Parts | None) -> int | None:
    """Return how many axes files have of which such parts are taken; None where it may be any number."""
    return _CLIP_AXES if isinstance(parts, Frames) else None
