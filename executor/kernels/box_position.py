"""Where boxes of one size lie on the maps of a batch, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from obeql.planner.geometry import AxisWindow

__all__ = ["Place", "Region"]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Boxes of n windows: `starts` int64 (axes, n), `sizes` one an axis."""

    starts: Tensor
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """What n windows read: `sizes` positions from `starts[axis] * scale[axis] - shift[axis]` on along each axis.

    It may reach outside the map. Scale and shift are those of a layer's window, so that a kernel takes the boxes of the
    layer as they are.
    """

    starts: Tensor
    sizes: tuple[int, ...]
    scale: tuple[int, ...]
    shift: tuple[int, ...]

    @classmethod
    def of(cls, place: Place, window: Sequence[AxisWindow] | None) -> Region:
        """Return what a layer of such a window reads to compute the boxes at `place`."""
        n_axes = len(place.sizes)
        if window is None:
            return cls(place.starts, place.sizes, (1,) * n_axes, (0,) * n_axes)
        return cls(
            place.starts,
            tuple((size - 1) * axis.stride + axis.extent for size, axis in zip(place.sizes, window, strict=True)),
            tuple(axis.stride for axis in window),
            tuple(axis.pad for axis in window),
        )

    @classmethod
    def whole(cls, place: Place, size: tuple[int, ...]) -> Region:
        """Return the whole map of `size`, whatever the boxes at `place`."""
        return cls(place.starts, size, (0,) * len(size), (0,) * len(size))
