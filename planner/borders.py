"""What happens at the border of an axis, where the last window on the stride does not end there.

A rule is a row of `BORDERS`: the values of `border=`, where `grid` lays the windows, and what help and the store say
of it follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

__all__ = ["BORDERS", "BORDER_NAMES", "Border", "BorderRule"]

Border = Literal["cover", "valid", "clip"]
BORDER_NAMES: tuple[Border, ...] = get_args(Border)

#: (start, length) of each window along an axis, in its pixels
Windows: TypeAlias = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class BorderRule:
    """A rule: what becomes of the last window, in words, and where the windows of an axis lie by it.

    `windows` gets the size of the axis, the patch, which fits it, and the stride. `within_patch` says that the rule
    promises to hide every pixel, for which the stride has to be at most the patch.
    """

    does: str
    windows: Callable[[int, int, int], Windows]
    within_patch: bool = False


def _valid(size: int, patch: int, stride: int) -> Windows:
    return [(start, patch) for start in range(0, size - patch + 1, stride)]


def _cover(size: int, patch: int, stride: int) -> Windows:
    whole = _valid(size, patch, stride)
    return whole if sum(whole[-1]) == size else [*whole, (size - patch, patch)]


def _clip(size: int, patch: int, stride: int) -> Windows:
    whole = _valid(size, patch, stride)
    start = whole[-1][0] + stride
    return whole if sum(whole[-1]) == size else [*whole, (start, size - start)]


BORDERS: Mapping[Border, BorderRule] = {
    "cover": BorderRule("shifted inward", _cover),
    "valid": BorderRule("left out where it does not fit", _valid),
    "clip": BorderRule("cut (needs stride <= patch)", _clip, within_patch=True),
}
