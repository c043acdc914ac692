"""The sink of a run: takes maps from the executor, stores them and keeps them for the result.

A run enters the store with its first finished image, so that a statement that finds nothing leaves the database as
it was. Failures met before that wait for it. Images that take longer than a second are stored one by one; of faster
ones all of a second go into one commit, because a commit costs as much as many maps. Only what is committed counts as
done: `settle` tells the executor how many images are, and it is what progress reports. Ctrl-C waits until a step is
done: a map is either taken or not.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from obeql.gallery import Gallery, content_of
from obeql.heatmap import Heatmap
from obeql.planner import ExplainPlan, ImageRecord, class_names, show
from obeql.planner.cells import FailedImage, MapCells
from obeql.recalling import heatmap_of
from obeql.shelf import Shelf, Shelved
from obeql.store import ImageMaps, RunRecord, Store
from obeql.undisturbed import undisturbed

if TYPE_CHECKING:
    from obeql.executor.images import SourceFacts
    from obeql.executor.images.placement import Placement

__all__ = ["RunWriter", "image_key", "versions"]

#: A finished image is durable after so many seconds, or when so many maps wait.
_HOLD_SECONDS = 1.0
_HOLD_MAPS = 256


@cache
def versions() -> dict[str, str]:
    """Versions of everything a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("obeql", "torch", "torchvision", "numpy", "pillow", "duckdb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def image_key(image: ImageRecord) -> str:
    """What an image of a statement is known by while the statement runs."""
    return image.path if image.path is not None else f"\0{image.key}"


@dataclass
class RunWriter:
    """Begins a run with its first image, then stores images in their order; a `CellSink`. `flush` stores what waits.

    `parameters` are the plain values the statement was given, `n_todo` is the number of images to come, `heats` holds
    the maps by `image_key` as `shelf` keeps them, `failed` the images that could not be explained.
    """

    store: Store
    plan: ExplainPlan
    gallery: Gallery
    parameters: Mapping[str, Any] = field(default_factory=dict)
    run_id: int | None = None
    n_todo: int = 0
    heats: dict[str, list[Heatmap | Shelved]] = field(default_factory=dict)
    failed: list[FailedImage] = field(default_factory=list)
    _beside: Sequence[MapCells] = ()
    _waiting: list[tuple[ImageRecord, str]] = field(default_factory=list)
    _held: dict[str, tuple[ImageMaps, list[Heatmap]]] = field(default_factory=dict)
    _flushed_at: float = field(default_factory=time.monotonic)
    #: maps of images at work that are kept before they are finished, by the image and the number of their grid
    _pieces: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    _decoded: tuple[str, SourceFacts, Placement] | None = None
    _known: dict[str, ImageRecord] = field(default_factory=dict)

    @cached_property
    def shelf(self) -> Shelf:
        """What keeps the maps for the result."""
        return Shelf(self.store)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all classes."""
        return tuple(class_names(self.plan.model))

    @cached_property
    def record(self) -> RunRecord:
        """The run as the store is to know it."""
        plan = self.plan
        options = dict(plan.options) | {"device": plan.device}
        if self.parameters:
            options["parameters"] = dict(self.parameters)
        return RunRecord(
            query=plan.statement,
            model=plan.model.name,
            model_hash=plan.model.model_hash,
            preprocessing_hash=plan.model.preprocessing.digest(),
            score=plan.score,
            name=plan.run_name,
            options=options,
            plan=show(plan),
            versions=versions(),
        )

    def decoded(self, image: ImageRecord, facts: SourceFacts, placement: Placement) -> None:
        """Remember the image whose maps come next."""
        self._decoded = image_key(image), facts, placement

    def keep_beside(self, image: ImageRecord, maps: Sequence[MapCells]) -> None:
        self._beside = maps

    @undisturbed()
    def write(self, image: ImageRecord, maps: Sequence[MapCells]) -> None:
        assert self._decoded is not None and self._decoded[0] == image_key(image)
        _, facts, placement = self._decoded
        run_id = self._begin()
        known = self.registered(image)
        assert known.image_id is not None
        per_grid = len(maps) // len(self.plan.grids)
        strides = [grid.stride for grid in self.plan.grids for _ in range(per_grid)]
        size = placement.model_size
        named = {cells.class_id: self.names[cells.class_id] for cells in maps}
        box = placement.source_box(0, 0, *size)
        content = content_of(facts)
        beside, self._beside = self._beside, ()
        held = ImageMaps(known.image_id, maps, named, size, box, strides, content, beside)
        shown = replace(known, columns=image.columns or known.columns)
        # Pixels are held by the maps that show them; a file is opened again when it is drawn.
        picture = self.gallery.load(image) if known.path is None else (lambda: self.gallery.load(known))
        heats = [
            heatmap_of(cells, self.plan.score, self.plan.model, self.names, stride, placement, shown, run_id, picture)
            for cells, stride in zip(maps, strides, strict=True)
        ]
        self._held[image_key(image)] = held, heats
        self.settle()

    @undisturbed()
    def fail(self, image: ImageRecord, error: str) -> None:
        self.failed.append(FailedImage(image.image_id or 0, image.shown, error))
        self._waiting.append((image, error))
        self.settle()

    @undisturbed()
    def keep(self, image: ImageRecord, place: int, maps: Sequence[MapCells]) -> None:
        key = image_key(image), place
        self._pieces[key] = self.store.write_pieces(maps, self._pieces.get(key, []))

    @property
    def has_pieces(self) -> bool:
        """Whether cells of an unfinished image are stored."""
        return bool(self._pieces)

    def settle(self) -> int:
        """Store what waits where it is much, has waited a second, or is the last; return how many images are durable.

        Images become durable in the order in which they are finished.
        """
        n_maps = sum(len(images.maps) + len(images.beside) for images, _ in self._held.values())
        late = time.monotonic() - self._flushed_at >= _HOLD_SECONDS
        if n_maps >= _HOLD_MAPS or late or self.n_taken >= self.n_todo:
            self.flush()
        return len(self.heats) + len(self.failed) - len(self._waiting)

    @undisturbed()
    def flush(self) -> None:
        """Store durably what waits; failures of a run that has no image yet go on waiting for one."""
        if self._held:
            assert self.run_id is not None
            map_ids = iter(self.store.write_batch(self.run_id, [images for images, _ in self._held.values()]))
            for key, (_, heats) in self._held.items():
                self.heats[key] = [self.shelf.put(heat, next(map_ids)) for heat in heats]
            finished = [key for key in self._pieces if key[0] in self._held]
            self._held = {}
            if finished:
                self.store.write_pieces([], [piece for key in finished for piece in self._pieces.pop(key)])
        while self.run_id is not None and self._waiting:
            self.failed[-len(self._waiting)] = self._store_failure(*self._waiting[0])
            del self._waiting[0]
        self._flushed_at = time.monotonic()

    @property
    def n_taken(self) -> int:
        """Images that are finished, failed ones included."""
        return len(self.heats) + len(self._held) + len(self.failed)

    def _begin(self) -> int:
        if self.run_id is None:
            self.run_id = self.store.begin_run(self.record, replace=self.plan.replace_run)
        return self.run_id

    def _store_failure(self, image: ImageRecord, error: str) -> FailedImage:
        assert self.run_id is not None
        failure = FailedImage(self.registered(image).image_id or 0, image.shown, error)
        self.store.fail_image(self.run_id, failure)
        return failure

    def registered(self, image: ImageRecord) -> ImageRecord:
        """The image with its id; the first call stores all images of the plan at once."""
        if not self._known:
            images = self.plan.images
            self._known = dict(zip(map(image_key, images), self.store.register_images(images), strict=True))
        return self._known[image_key(image)]
