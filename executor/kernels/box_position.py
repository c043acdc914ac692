"""Where boxes of one size lie on the maps of a batch, on the device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from obeql.planner.geometry import AxisWindow

__all__ = ["Place", "Region"]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Boxes (height, width) of n windows: `tops`, `lefts` int64 (n,)."""

    tops: Tensor
    lefts: Tensor
    height: int
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """What n windows read: (height, width) from row `tops * scale[0] - shift[0]` on, and columns likewise.

    It may reach outside the map. Scale and shift are those of a layer's window, so that a kernel takes the boxes of the
    layer as they are.
    """

    tops: Tensor
    lefts: Tensor
    height: int
    width: int
    scale: tuple[int, int] = (1, 1)
    shift: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, place: Place, window: tuple[AxisWindow, AxisWindow] | None) -> Region:
        """Return what a layer of such a window reads to compute the boxes at `place`."""
        if window is None:
            return cls(place.tops, place.lefts, place.height, place.width)
        rows, cols = window
        return cls(
            place.tops,
            place.lefts,
            (place.height - 1) * rows.stride + rows.extent,
            (place.width - 1) * cols.stride + cols.extent,
            (rows.stride, cols.stride),
            (rows.pad, cols.pad),
        )

    @classmethod
    def whole(cls, place: Place, height: int, width: int) -> Region:
        """Return the whole map, whatever the boxes at `place`."""
        return cls(place.tops, place.lefts, height, width, (0, 0))
