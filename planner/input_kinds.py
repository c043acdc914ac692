"""The kinds of input that a model may take, by how many spatial axes they have: signals, images, volumes.

What people read of an axis is here: its name, what a step along it is called, how places and sizes are told. Engine and
store count axes and need no names; statements, plans, lists of windows and pictures ask `kind_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["KINDS", "InputKind", "kind_of"]


@dataclass(frozen=True, slots=True)
class InputKind:
    """One kind of input: the words for it, one an axis, the slowest axis first.

    `axes` name the sizes of the input, `starts` where a window begins, `extents` how far it reaches, `grid` the numbers
    of a cell. `unit` is a step along an axis, `short_unit` behind a number. `drawing` is the module of `obeql.drawing`
    that draws maps of them. `option_of_size` is how CREATE MODEL is told the size.
    """

    name: str
    axes: tuple[str, ...]
    starts: tuple[str, ...]
    extents: tuple[str, ...]
    grid: tuple[str, ...]
    unit: str
    short_unit: str
    drawing: str
    option_of_size: str

    @property
    def n_axes(self) -> int:
        return len(self.axes)

    @property
    def plural(self) -> str:
        """Return what several of them are called."""
        return f"{self.name}s"

    @property
    def batch_text(self) -> str:
        """Return the shape of a batch: `(N, C, height, width)`."""
        return f"(N, C, {', '.join(self.axes)})"

    @property
    def box_names(self) -> tuple[str, ...]:
        """Return the names of the numbers of a box: where it starts on each axis, then how far it reaches."""
        return (*self.starts, *self.extents)

    @property
    def box_text(self) -> str:
        """Return the numbers of a box as they are told: `(top, left, height, width)`."""
        return f"({', '.join(self.box_names)})"


_SIGNAL = InputKind(
    name="signal",
    axes=("length",),
    starts=("start",),
    extents=("length",),
    grid=("window",),
    unit="sample",
    short_unit="samples",
    drawing="curves",
    option_of_size="size=1024",
)
_IMAGE = InputKind(
    name="image",
    axes=("height", "width"),
    starts=("top", "left"),
    extents=("height", "width"),
    grid=("row", "column"),
    unit="pixel",
    short_unit="px",
    drawing="overlay",
    option_of_size="size=224 or size=(240, 320)",
)
_VOLUME = InputKind(
    name="volume",
    axes=("depth", "height", "width"),
    starts=("front", "top", "left"),
    extents=("depth", "height", "width"),
    grid=("plane", "row", "column"),
    unit="voxel",
    short_unit="voxels",
    drawing="slices",
    option_of_size="size=(96, 96, 96)",
)

#: Every kind, by how many spatial axes it has.
KINDS: Mapping[int, InputKind] = {kind.n_axes: kind for kind in (_SIGNAL, _IMAGE, _VOLUME)}


def kind_of(n_axes: int) -> InputKind:
    """Return the kind of input that has so many spatial axes: 1, 2 or 3."""
    return KINDS[n_axes]
