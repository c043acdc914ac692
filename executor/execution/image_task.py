"""One image of a run while it is at work: what it is, which windows are left to compute, and what was found.

`executor` takes several of these through the network together; what goes wrong with one is noted in it and leaves the
others alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.errors import ImageError
from obeql.executor.execution.context import ExplainedImage
from obeql.executor.execution.map_assembly import Clean, maps_of
from obeql.executor.images import Placement, SourceFacts
from obeql.executor.operators.cached_cells import KnownCells
from obeql.executor.operators.grid_scan import Planes
from obeql.executor.operators.window_fill import Fill
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, MapCells
from obeql.planner.physical.plan import ExplainPlan

__all__ = ["ImageTask", "Prepared"]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What is kept of a decoded image: what the store is told of it, the model's input, and what hides a window.

    `pixels` (1, C, H, W) and `fill`, (1, C, 1, 1), (1, C, H, W) or what works it out from each window, are on the
    device. `keys` has one a grid.
    """

    facts: SourceFacts
    placement: Placement
    pixels: Tensor
    fill: Fill
    keys: tuple[CellKey, ...]


@dataclass(slots=True, eq=False)
class ImageTask:
    """Image number `number` of a run of `plan`. `failure` is set where it cannot be explained."""

    plan: ExplainPlan
    number: int
    image: ImageRecord
    failure: str | None = None
    prepared: Prepared | None = None
    #: logits (1, K) of the image itself, once it went through the network
    logits: Tensor | None = None
    #: classes asked for, None as long as only the network could tell; and those that coming statements ask for
    classes: list[int] | None = None
    coming: list[int] = field(default_factory=list)
    #: of these classes, what the network says of the image itself; empty as long as it did not go through it
    clean: dict[int, Clean] = field(default_factory=dict)
    #: stored cells of each grid, None where there are none
    known: list[KnownCells | None] = field(default_factory=list)
    maps: list[MapCells] = field(default_factory=list)
    extra_maps: list[MapCells] = field(default_factory=list)

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Take an ImageError as the failure of this image."""
        try:
            yield
        except ImageError as error:
            self.failure = str(error)

    @property
    def needs_network(self) -> bool:
        """Return whether the image has to go through the network for any of its grids."""
        return any(self.needs(place) for place in range(len(self.plan.grids)))

    def needs(self, place: int) -> bool:
        """Return whether windows of a grid are left to compute, or the network must tell the classes asked for."""
        return self.failure is None and (self.classes is None or bool(self.left(place).any()))

    def left(self, place: int) -> npt.NDArray[np.bool_]:
        """Return windows of grid number `place` that are left to compute, (windows,); none of an image that failed."""
        n_windows = self.plan.grids[place].n_windows
        if self.failure is not None:
            return np.zeros(n_windows, bool)
        known = self.known[place]
        left = np.ones(n_windows, bool) if known is None else known.left
        own = self._own_windows(place)
        if own is not None:
            kept = np.zeros(n_windows, bool)
            kept[own] = left[own]
            left = kept
        return left

    def _own_windows(self, place: int) -> npt.NDArray[np.intp] | None:
        """Return the windows of a grid that are listed for this image; None: all of them."""
        own = self.plan.grids[place].of_image(self.image.shown)
        return None if own is None else np.asarray(own, np.intp)

    def n_windows(self, place: int) -> int:
        """Return how many windows of a grid are asked of this image."""
        own = self._own_windows(place)
        return self.plan.grids[place].n_windows if own is None else len(own)

    def asked(self, place: int) -> list[int]:
        """Return the classes to compute for a grid: with those of coming statements where nothing of it is stored."""
        if self.failure is not None:
            return [0]  # nobody will look at it
        assert self.classes is not None
        return [*self.classes, *self.coming] if self.known[place] is None else self.classes

    def explained(self) -> ExplainedImage:
        """Return what was found of the image so far."""
        assert self.prepared is not None
        facts, placement = self.prepared.facts, self.prepared.placement
        return ExplainedImage(self.image, facts, placement, self.maps, self.extra_maps)

    def take(self, place: int, computed: Planes | None) -> Planes:
        """Make the maps of a grid from the cells `computed`, None where all are stored; returns the whole grid's.

        Raises ImageError where a computed value is not a number.
        """
        assert self.classes is not None
        if not self.n_windows(place):
            raise ImageError(f"{self.image.shown}: no window is listed for this image")
        known = self.known[place]
        if computed is None:
            assert known is not None
            planes = Planes(torch.from_numpy(known.logit), torch.from_numpy(known.others), torch.from_numpy(known.top))
        elif known is not None and computed.exact is None:
            planes = computed.over(known)
        else:
            planes = computed
        self.maps += self.maps_of(place, planes)
        with suppress(ImageError):  # values that are not numbers are the coming statement's to tell
            self.extra_maps += self._extra_maps(place, planes)
        return planes

    def maps_of(self, place: int, planes: Planes) -> list[MapCells]:
        """Return the maps of the asked classes. Raises ImageError where a computed value is not a number."""
        assert self.classes is not None and self.prepared is not None
        known, grid = self.known[place], self.plan.grids[place]
        clean = self.clean if known is None else {**self.clean, **known.clean}
        numbers = [(class_id, clean[class_id]) for class_id in self.classes]
        n_stored = self.n_windows(place) - int(self.left(place).sum())
        few = planes.of_classes(slice(len(self.classes)))
        own = self._own_windows(place)
        if own is not None:
            few, grid = few.of_windows(own), grid.only(own.tolist())
        return maps_of(self.plan, self.image.shown, self.prepared.keys[place], grid, numbers, n_stored, few)

    def _extra_maps(self, place: int, planes: Planes) -> list[MapCells]:
        assert self.classes is not None and self.prepared is not None
        n_asked = len(self.classes)
        coming = self.asked(place)[n_asked:]
        if not coming:
            return []
        grid, key = self.plan.grids[place], self.prepared.keys[place]
        numbers = [(class_id, self.clean[class_id]) for class_id in coming]
        rest = planes.of_classes(slice(n_asked, None))
        return maps_of(self.plan, self.image.shown, key, grid, numbers, 0, rest)
