"""Where boxes of one size lie on the maps of a batch, on the device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from obeql.planner.geometry import AxisWindow

__all__ = ["Place"]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Boxes (height, width) of n windows: `tops`, `lefts` int64 (n,)."""

    tops: Tensor
    lefts: Tensor
    height: int
    width: int

    def read_by(self, window: tuple[AxisWindow, AxisWindow] | None) -> Place:
        """Return what a layer of such a window reads to compute these boxes; it may reach outside the map."""
        if window is None:
            return self
        rows, cols = window
        return Place(
            _first(self.tops, rows),
            _first(self.lefts, cols),
            (self.height - 1) * rows.stride + rows.extent,
            (self.width - 1) * cols.stride + cols.extent,
        )


def _first(starts: Tensor, window: AxisWindow) -> Tensor:
    """The first position that each box reads along an axis; without a call where that is the box's own."""
    scaled = starts if window.stride == 1 else starts * window.stride
    return scaled if window.pad == 0 else scaled - window.pad
