"""Where the windows of a map lie: one axis at a time, because axes are independent.

Comes after binding (patch, stride, border and region are known) and before scheduling (`boxes`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from obeql.planner.borders import BORDERS, Border

__all__ = ["AxisGrid", "Places", "WindowGrid", "axis_grid", "show_on", "shown_axes"]

#: windows by number, (n,): where on an axis each of them lies
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AxisGrid:
    """The windows' extents along one axis of `size` pixels: window i hides [starts[i], starts[i] + lengths[i])."""

    size: int
    starts: tuple[int, ...]
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.starts)

    def within(self, start: int, length: int) -> AxisGrid:
        """Keep the windows that lie wholly inside [start, start + length)."""
        kept = [
            (s, n) for s, n in zip(self.starts, self.lengths, strict=True) if s >= start and s + n <= start + length
        ]
        return AxisGrid(self.size, tuple(s for s, _ in kept), tuple(n for _, n in kept))


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """All windows of one map in pixels of the model's input, an `AxisGrid` an axis, slowest first.

    Cell (r, c) of an image hides axes[0][r] x axes[1][c]; `rows` and `cols` are the last two axes. `region` is
    (starts.., extents..), the slowest axis first. `channels` are those that windows hide; None: all of them.
    """

    axes: tuple[AxisGrid, ...]
    patch: tuple[int, ...]
    stride: tuple[int, ...]
    border: Border
    region: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    #: windows along each axis of the map, and all of them: kept, because sets of images ask often
    shape: tuple[int, ...] = field(init=False, compare=False, repr=False)
    n_windows: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        shape = self._cells()
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "n_windows", math.prod(shape))

    def _cells(self) -> tuple[int, ...]:
        """Return the shape of a map of these windows."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def rows(self) -> AxisGrid:
        return self.axes[-2]

    @property
    def cols(self) -> AxisGrid:
        return self.axes[-1]

    @property
    def size(self) -> tuple[int, ...]:
        """Return the size of the model's input in pixels."""
        return tuple(axis.size for axis in self.axes)

    def places(self, windows: Places) -> tuple[Places, ...]:
        """Return where windows, by their flat numbers, lie on each axis."""
        return tuple(np.unravel_index(windows, self.shape))

    def of_image(self, shown: str) -> tuple[int, ...] | None:
        """Return the windows that an image has alone, by how it is shown; None: all windows are every image's."""
        return None

    def n_over(self, images: Iterable[str]) -> int:
        """Return how many windows there are over images, given as they are shown."""
        return self.n_windows * sum(1 for _ in images)

    def only(self, windows: Sequence[int]) -> WindowGrid:
        """Return a part of windows that differ from image to image, by their numbers; a grid has no such parts."""
        return self

    def mask(self, window: int) -> npt.NDArray[np.bool_] | None:
        """Return which pixels of its box a window hides, in the box's shape; None: all of them."""
        return None

    @classmethod
    def over(
        cls,
        size: tuple[int, ...],
        patch: tuple[int, ...],
        stride: tuple[int, ...],
        border: Border = "cover",
        region: tuple[int, ...] | None = None,
    ) -> WindowGrid:
        """Return the full map's windows over an image of `size`, or those of them wholly inside `region`.

        Raises ValueError when patch or stride do not fit the image; binding reports that to the user first.
        """
        axes = [axis_grid(*axis, border) for axis in zip(size, patch, stride, strict=True)]
        if region is not None:
            places = zip(axes, region[: len(size)], region[len(size) :], strict=True)
            axes = [axis.within(start, extent) for axis, start, extent in places]
        return cls(tuple(axes), patch, stride, border, region)


def axis_grid(size: int, patch: int, stride: int, border: Border) -> AxisGrid:
    """Place windows along one axis, by the rule of the border. Raises ValueError where patch or stride do not fit."""
    if not 1 <= patch <= size:
        raise ValueError(f"patch {patch} does not fit an axis of {size} pixels")
    if stride < 1:
        raise ValueError(f"stride {stride} is not positive")
    rule = BORDERS[border]
    if rule.within_patch and stride > patch:
        raise ValueError(f"border {border} covers every pixel; stride {stride} is larger than patch {patch}")
    starts, lengths = zip(*rule.windows(size, patch, stride), strict=True)
    return AxisGrid(size, starts, lengths)


def shown_axes(size: tuple[int, ...], numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Return those of one number an axis that people read: an axis of a single pixel, a signal's row, says nothing."""
    return tuple(n for n, along in zip(numbers, size, strict=True) if along > 1) or numbers[-1:]


def show_on(size: tuple[int, ...], numbers: tuple[int, ...]) -> str:
    """Return one number an axis of an input of `size` as they are written: `16x24`, `32` of signals."""
    return "x".join(map(str, shown_axes(size, numbers)))
