"""What the value of an option may be: a parser for each kind that `values` has none for.

Before: the plain values of a syntax tree. After: the tables of `option_tables` name these parsers, which return what
planning takes or raise BadValue. What depends on the model (does the patch fit its input?) is checked by `check_fill`
and `window_grids`.
"""

from __future__ import annotations

import re
from typing import Any

from obeql.grammar import syntax
from obeql.planner.binding.values import BadValue, Parser, axis_sizes, choice, number, shown, whole
from obeql.planner.catalog import Preprocessing
from obeql.planner.fills import CONSTANTS, FILLS, IMAGE_FILLS, SIGNAL_FILLS, fill_numbers, fill_text

__all__ = [
    "above_zero",
    "check_fill",
    "classes_drawn",
    "default_stride",
    "fill_of",
    "input_channels",
    "input_size",
    "names_of_classes",
    "numbers",
    "output_of",
    "pages",
    "patch_sizes",
    "seed",
    "segmentation",
    "worker_count",
]

#: Patch sizes of one statement; each is a map of its own to plan.
_MOST_PATCHES = 100


_MOST_WORKERS = 512


def patch_sizes(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """Parse one patch or a list of patches into ((height, width), ..), or ((size,), ..) for all axes."""
    if not isinstance(value, list):
        return (axis_sizes(name, value),)
    if not value:
        raise BadValue(f"{name} takes at least one size, not an empty list.")
    if len(value) > _MOST_PATCHES:
        raise BadValue(f"{name} takes at most {_MOST_PATCHES} sizes in a list, not {len(value)}.")
    parsed = []
    for position, item in enumerate(value):
        try:
            parsed.append(axis_sizes(name, item))
        except BadValue as wrong:
            raise BadValue(str(wrong), position) from None
    return tuple(parsed)


def fill_of(name: str, value: Any) -> str:
    """Parse a word of FILLS, a number, or numbers for each channel; returns the text `fill_numbers` reads.

    What a model takes of these, `check_fill` says.
    """
    if isinstance(value, str):
        return str(choice(*FILLS)(name, {"grey": "gray"}.get(value.lower(), value)))
    parts = value if isinstance(value, tuple) else (value,)
    if not isinstance(value, (tuple, int, float)) or isinstance(value, bool):
        raise BadValue(f"{name} takes {', '.join(FILLS)}, a color (r, g, b) or numbers, not {shown(value)}.")
    return fill_text([number(name, part) for part in parts])


def check_fill(fill: str, how: Preprocessing) -> None:
    """Raise BadValue for a fill that is none for the input of a model: of images a color, of others its channels."""
    numbers = fill_numbers(fill)
    if fill in SIGNAL_FILLS and how.kind.n_axes > 1:
        raise BadValue(
            f"fill={fill} draws a line between the ends of a window of a signal, and the model takes "
            f"{how.kind.plural}: allowed are {', '.join(IMAGE_FILLS)}."
        )
    if numbers is None:
        if not how.is_image and how.range is None and fill in CONSTANTS:
            raise BadValue(
                f"fill={fill} is a place in the range of a model, and this one has none: give it range=(low, high), or "
                "a number as fill."
            )
        return
    if not how.is_image:
        if len(numbers) not in (1, how.n_channels):
            raise BadValue(f"fill takes one number or one for each of {how.n_channels} channels, not {len(numbers)}.")
        return
    if len(numbers) == 1:
        raise BadValue(f"fill takes {', '.join(IMAGE_FILLS)} or a color (r, g, b), not {numbers[0]:g}.")
    if len(numbers) != 3:
        raise BadValue(f"fill takes three numbers (r, g, b), not {len(numbers)}.")
    for position, part in enumerate(numbers):
        if not 0 <= part <= 1:
            raise BadValue(f"fill takes colors in 0..1 (a byte divided by 255), not {part:g}.", position)


def worker_count(name: str, value: Any) -> int:
    """Parse a number of processes; more than a machine can have is a typing error."""
    found: int = whole(0)(name, value)
    if found > _MOST_WORKERS:
        raise BadValue(f"{name} is at most {_MOST_WORKERS}, not {found}.")
    return found


def seed(name: str, value: Any) -> int:
    """Parse a seed: what generators and the columns of a table take."""
    found: int = whole(0)(name, value)
    if found >= 2**63:
        raise BadValue(f"{name} is at most {2**63 - 1}, not {shown(found)}.")
    return found


def default_stride(patch: tuple[int, ...]) -> tuple[int, ...]:
    """Return a quarter of the patch along each axis, at least one pixel."""
    return tuple(max(1, length // 4) for length in patch)


#: What `segments` may call, as scikit-image does, and the most segments of an image.
_SEGMENTERS = ("slic",)


_MOST_SEGMENTS = 10_000


_CALL = re.compile(r"\s*(\w+)\s*\(\s*(\d+)\s*\)\s*")


def segmentation(name: str, value: Any) -> str:
    """Parse `slic(100)`, also as a text; returns it as it is written."""
    given: list[Any]
    if isinstance(value, str) and (match := _CALL.fullmatch(value)):
        method, given = match[1].lower(), [int(match[2])]
    elif isinstance(value, syntax.CallValue):
        method = value.name
        given = [item.value if isinstance(item, syntax.Number) else None for item in value.items]
    else:
        raise BadValue(f"{name} takes a method and about how many segments, as slic(100), not {shown(value)}.")
    choice(*_SEGMENTERS)(name, method)
    if len(given) != 1:
        raise BadValue(f"{name} takes one number, about how many segments, as {method}(100), not {len(given)}.")
    count = whole(1)(name, given[0])
    if count > _MOST_SEGMENTS:
        raise BadValue(f"{name} takes at most {_MOST_SEGMENTS:,} segments, not {count:,}.")
    return f"{method}({count})"


def pages(name: str, value: Any) -> str | tuple[int, ...]:
    """Parse pages, counted from 1: one, a list of them, or the word all."""
    if isinstance(value, str):
        return str(choice("all")(name, value))
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise BadValue(f"{name} takes at least one page, not an empty list.")
    return tuple(whole(1)(name, item) for item in items)


def input_size(name: str, value: Any) -> int | tuple[int, ...]:
    """Parse one number for every axis, or one an axis: a list or tuple of one is the length of signals."""
    sizes = axis_sizes(name, tuple(value) if isinstance(value, list) else value)
    return sizes if isinstance(value, (list, tuple)) else sizes[0]


def input_channels(name: str, value: Any) -> str | int | tuple[str, ...]:
    """Parse the colors of images, or how many channels signals have, or their names."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, str) for part in value):
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(whole(1)(name, value))
    if isinstance(value, str):
        return str(choice("rgb", "bgr", "gray")(name, value))
    raise BadValue(f"{name} takes rgb, bgr or gray, of signals a number or a list of names, not {shown(value)}.")


def numbers(name: str, value: Any) -> tuple[float, ...]:
    """Parse one number or several, one for each channel."""
    parts = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(number(name, part) for part in parts)


def names_of_classes(name: str, value: Any) -> str | tuple[str, ...]:
    """Parse a file of class names, or the names themselves."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, str) for part in value):
        return tuple(value)
    if isinstance(value, str) and value:
        return value
    raise BadValue(f"{name} takes a file of names, one a line, or a list of names, not {shown(value)}.")


def output_of(name: str, value: Any) -> str | int:
    """Parse the name of an output or its number."""
    if (isinstance(value, str) and value.strip()) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise BadValue(f"{name} takes the name of an output or its number, from 0, not {shown(value)}.")


def classes_drawn(name: str, value: Any) -> tuple[str | int, ...]:
    """Parse a class by its name or number, or a list of these."""
    items = value if isinstance(value, list) else [value]
    for position, item in enumerate(items):
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise BadValue(f"{name} takes names or numbers of classes, not {shown(item)}.", position)
    if not items:
        raise BadValue(f"{name} takes at least one class, not an empty list.")
    return tuple(items)


def above_zero(most: float | None) -> Parser:
    """Return a parser of numbers above zero, and up to `most`."""

    def parse(name: str, value: Any) -> float:
        found = number(name, value)
        if not (found > 0 and (most is None or found <= most)):
            raise BadValue(f"{name} takes a number above 0{f' and up to {most:g}' if most else ''}, not {value:g}.")
        return found

    return parse
