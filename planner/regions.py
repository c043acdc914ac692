"""Windows that a query lists: boxes and masks of any place and size, one after the other.

Beside `grid`, whose windows are every combination of its axes' extents. Comes after `binding.windows`, which reads and
checks what a SELECT, a label picture or Python gives; operators, cells and the store take both kinds of windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from obeql.planner.grid import AxisGrid, Places, WindowGrid

__all__ = [
    "NO_PATCH",
    "Mask",
    "Region",
    "RegionGrid",
    "RegionList",
    "label_boxes",
    "mask_digest",
    "mask_region",
]

Mask = npt.NDArray[np.bool_]

#: What stands for the patch of windows that have none in common: a `CellKey` of regions finds regions alone.
NO_PATCH = (0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One window: its box in pixels of the model's input, and which of the box's pixels it hides, (height, width).

    A `mask` of None hides the whole box.
    """

    name: str
    top: int
    left: int
    height: int
    width: int
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class RegionList:
    """What tells the regions of a map apart, beyond their boxes: names, and digests of masks, "" for a whole box.

    `pixels` are the masks (height, width) by digest.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    pixels: Mapping[str, Mask] = field(default_factory=dict, compare=False, repr=False)

    def mask(self, number: int) -> Mask | None:
        """Return the mask of a region; None where it hides its whole box."""
        return self.pixels[self.digests[number]] if self.digests[number] else None


@dataclass(frozen=True, slots=True)
class RegionGrid(WindowGrid):
    """Windows one by one: number i hides the extent i of every axis, or of that box what its mask says.

    A map of them has one row, a column a region. With the axes of a `WindowGrid` they would be its diagonal.
    """

    listed: RegionList = RegionList((), ())
    #: by how an image is shown, the windows that are its own; None: all windows are those of every image
    members: Mapping[str, tuple[int, ...]] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        regions: Sequence[Region],
        size: tuple[int, int],
        members: Mapping[str, tuple[int, ...]] | None = None,
    ) -> RegionGrid:
        """Return the windows over a model's input of `size` (height, width), in their order."""
        masks = {mask_digest(each.mask): each.mask for each in regions if each.mask is not None}
        return cls(
            axes=(
                AxisGrid(size[0], tuple(each.top for each in regions), tuple(each.height for each in regions)),
                AxisGrid(size[1], tuple(each.left for each in regions), tuple(each.width for each in regions)),
            ),
            patch=NO_PATCH,
            stride=NO_PATCH,
            border="valid",
            listed=RegionList(
                tuple(each.name for each in regions),
                tuple("" if each.mask is None else mask_digest(each.mask) for each in regions),
                masks,
            ),
            members=members,
        )

    def of_image(self, shown: str) -> tuple[int, ...] | None:
        """Return the windows that are an image's own; None: all are."""
        return None if self.members is None else self.members.get(shown, ())

    def only(self, windows: Sequence[int]) -> RegionGrid:
        """Return some of the windows, by their numbers."""
        listed = self.listed
        digests = tuple(listed.digests[i] for i in windows)
        return RegionGrid(
            tuple(
                AxisGrid(axis.size, tuple(axis.starts[i] for i in windows), tuple(axis.lengths[i] for i in windows))
                for axis in self.axes
            ),
            self.patch,
            self.stride,
            self.border,
            listed=RegionList(
                tuple(listed.names[i] for i in windows),
                digests,
                {digest: listed.pixels[digest] for digest in digests if digest},
            ),
            channels=self.channels,
        )

    @property
    def shown_sizes(self) -> str:
        """Return how large the windows are, and how many have masks, in words that follow their number."""
        n_masks = sum(map(bool, self.listed.digests))
        pairs = sorted(zip(self.rows.lengths, self.cols.lengths, strict=True), key=lambda pair: pair[0] * pair[1])
        least, most = (f"{height}x{width}" for height, width in (pairs[0], pairs[-1]))
        sizes = f" of {least}" if least == most else f" of {least} to {most}"
        return sizes + (f", {n_masks:,} with masks" if n_masks else "")

    @property
    def digest(self) -> str:
        """Return a hash of all windows, in their order: boxes, names, masks, and which image they are of."""
        members = None if self.members is None else sorted(self.members.items())
        told = (*self.axes, self.listed.names, self.listed.digests, members)
        return hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()

    def _cells(self) -> tuple[int, ...]:
        return 1, len(self.axes[0])

    def n_over(self, images: Iterable[str]) -> int:
        """Return how many windows there are over images, given as they are shown."""
        own = [self.of_image(shown) for shown in images]
        return sum(self.n_windows if each is None else len(each) for each in own)

    def places(self, windows: Places) -> tuple[Places, ...]:
        return (windows,) * len(self.axes)

    def mask(self, window: int) -> Mask | None:
        return self.listed.mask(window)


def mask_region(name: str, mask: Mask, size: tuple[int, int], box: tuple[int, int, int, int] | None) -> Region | str:
    """Return the region of a mask over a model's input of `size`, or what is wrong with it, in words.

    The mask has the size of the input, of which the part inside `box` counts, or that of the box. The region's box is
    the smallest that holds all that is hidden.
    """
    top, left, height, width = box or (0, 0, *size)
    if mask.shape == size:
        mask = mask[top : top + height, left : left + width]
    elif mask.shape != (height, width):
        allowed = f"{height}x{width}, that of its box, or " if (height, width) != size else ""
        return f"its mask is {mask.shape[0]}x{mask.shape[1]}; a mask is {allowed}{size[0]}x{size[1]}, the input"
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return "its mask hides nothing of the input"
    inside = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    whole = bool(inside.all())
    place = top + int(rows[0]), left + int(cols[0])
    return Region(name, *place, inside.shape[0], inside.shape[1], None if whole else inside.copy())


def label_boxes(labels: npt.NDArray[Any]) -> dict[int, tuple[int, int, int, int]]:
    """Return the smallest box (top, left, height, width) that holds each label but 0 of a plane (height, width)."""
    found, number = np.unique(labels, return_inverse=True)
    number = number.reshape(labels.shape)
    n_labels = len(found)
    ends = []
    for axis in (0, 1):
        at = np.broadcast_to(np.arange(labels.shape[axis]).reshape(-1, *[1] * (1 - axis)), labels.shape)
        first, last = np.full(n_labels, labels.shape[axis]), np.full(n_labels, -1)
        np.minimum.at(first, number.reshape(-1), at.reshape(-1))
        np.maximum.at(last, number.reshape(-1), at.reshape(-1))
        ends.append((first.tolist(), (last - first + 1).tolist()))
    (tops, heights), (lefts, widths) = ends
    boxes = zip(tops, lefts, heights, widths, strict=True)
    return {label: box for label, box in zip(found.tolist(), boxes, strict=True) if label}


def mask_digest(mask: Mask) -> str:
    """Return the hash of a mask (height, width): of its size and of which pixels it hides."""
    hasher = hashlib.blake2b(repr(mask.shape).encode(), digest_size=20)
    hasher.update(np.packbits(np.ascontiguousarray(mask, dtype=np.bool_)).tobytes())
    return hasher.hexdigest()
