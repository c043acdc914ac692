"""The sink of a run: takes maps from the executor, stores them and keeps them for the result.

A run enters the store with its first finished image, so that a statement that finds nothing leaves the database as
it was. Failures met before that wait for it. Images that take longer than a second are stored one by one; of faster
ones all of a second go into one commit, because a commit costs as much as many maps. Only what is committed counts as
done: `settle` tells the executor how many images are, and it is what progress reports. Ctrl-C waits until a step is
done: a map is either taken or not.

Where there is a `Delivery`, workers write shards, which are taken here (`take`); maps of this process go into shards
only where these are to stay.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from obeql.planner import ExplainPlan, ImageRecord, class_names, show
from obeql.planner.binding.image_paths import with_page
from obeql.planner.cells import FailedImage
from obeql.results.heatmap import Heatmap
from obeql.results.lazy_maps import LazyMap, MapCache
from obeql.session.image_registry import ImageRegistry
from obeql.session.run_reader import cached_maps, heatmap_of
from obeql.signals import defer_sigint
from obeql.store import ImageMaps, RunRecord, Store
from obeql.store.shards.writer import Delivery, MapForm, MapShards

if TYPE_CHECKING:
    from obeql.executor.execution.context import ExplainedImage

__all__ = ["RunRecorder", "image_key", "versions"]

#: A finished image is durable after so many seconds, or when so many maps wait, or so many bytes of them.
_HOLD_SECONDS = 1.0
_HOLD_MAPS = 1024
_HOLD_BYTES = 8 * 2**20
#: Shards of workers that are taken in one commit.
_HOLD_SHARDS = 8


@cache
def versions() -> dict[str, str]:
    """Return the versions of everything a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("obeql", "torch", "torchvision", "numpy", "pillow", "duckdb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def image_key(image: ImageRecord) -> str:
    """Return what an image of a statement is known by while the statement runs."""
    return image.path if image.path is not None else f"\0{image.key}"


@dataclass
class RunRecorder:
    """Begins a run with its first image, then stores images in their order; a `CellSink`. `flush` stores what waits.

    `parameters` are the plain values the statement was given, `n_todo` is the number of images to come, `heats` holds
    the maps by `image_key` as `map_cache` keeps them, `failed` the images that could not be explained. Maps that
    workers     have written into shards are in `heats` after `collect`.
    """

    store: Store
    plan: ExplainPlan
    image_registry: ImageRegistry
    parameters: Mapping[str, Any] = field(default_factory=dict)
    delivery: Delivery | None = None
    run_id: int | None = None
    n_todo: int = 0
    heats: dict[str, list[Heatmap | LazyMap]] = field(default_factory=dict)
    failed: list[FailedImage] = field(default_factory=list)
    _waiting: list[tuple[ImageRecord, str]] = field(default_factory=list)
    #: maps that are finished and not stored yet, their number and the bytes of their planes
    _held: dict[str, tuple[ImageMaps, list[Heatmap]]] = field(default_factory=dict)
    _n_held: int = 0
    _held_bytes: int = 0
    _flushed_at: float = field(default_factory=time.monotonic)
    #: images at work of which maps are kept before they are finished
    _pieces: set[str] = field(default_factory=set)
    _known: dict[str, ImageRecord] = field(default_factory=dict)
    #: files of several pages of which the first was taken, with their pages
    _paged: dict[str, int] = field(default_factory=dict)
    #: the file of `_held`, once it is written
    _written: str | None = None
    #: shards of workers that wait, with the images they bring, and the images that came so
    _arrived: dict[str, Sequence[ImageRecord]] = field(default_factory=dict)
    _delivered: dict[str, int] = field(default_factory=dict)

    @cached_property
    def map_cache(self) -> MapCache:
        """Return what keeps the maps for the result."""
        return MapCache(self.store, in_files=self.delivery is not None and self.delivery.keep)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the names of all classes."""
        return tuple(class_names(self.plan.model))

    @cached_property
    def form(self) -> MapForm:
        """Return what is the same for all maps."""
        return MapForm.of(self.plan, self.names)

    @cached_property
    def shards(self) -> MapShards | None:
        """Return what workers write their maps with, and this process where the files stay; None: no shards."""
        if self.delivery is None:
            return None
        return MapShards.to(self.delivery, self.plan, self.store.origin(), self.form)

    @cached_property
    def _kept_files(self) -> MapShards | None:
        """Return what this process writes its maps with; None: they go into the database."""
        return self.shards if self.delivery is not None and self.delivery.keep else None

    @cached_property
    def record(self) -> RunRecord:
        """Return the run as the store is to know it."""
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
            asked=(len(plan.images), plan.n_windows * plan.classes.n_maps(plan.model.n_classes)),
        )

    def note_pages(self, image: ImageRecord, n_pages: int) -> None:
        """Remember the pages of a file of which the first was taken."""
        if n_pages > 1:
            self._paged[image.shown] = n_pages

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what to know of how the images were read: where a file has more pages than the one that was taken."""
        if not self._paged:
            return ()
        shown, n_pages = next(iter(self._paged.items()))
        others = f", and {len(self._paged) - 1} more files have several" if len(self._paged) > 1 else ""
        return (
            f"page 1 of the {n_pages} of '{shown}' was taken{others}; '{with_page(shown, 2)}' or page=2 names another, "
            "page=all takes every one",
        )

    @defer_sigint()
    def write(self, explained: ExplainedImage) -> None:
        image, maps = explained.image, explained.maps
        run_id = self._begin()
        known = self.registered(image)
        explained = replace(explained, image=known)
        self.note_pages(image, explained.facts.n_pages)
        held = self.form.image_maps(explained)
        n_maps = len(maps) + len(explained.extra_maps)
        if self._kept_files is not None:
            if not self._kept_files.has_room(n_maps):
                self.flush()
            self._kept_files.add(explained)
        shown = replace(known, columns=image.columns) if image.columns else known
        # Pixels are held by the maps that show them; a file is opened again when it is drawn.
        load, n_axes = self.image_registry.load, len(self.plan.model.preprocessing.size)
        picture = load(image, n_axes) if known.path is None else (lambda: load(known, n_axes))
        heats = [
            heatmap_of(
                *(cells, self.plan.score, self.plan.model, self.names, stride),
                *(explained.placement, shown, run_id, picture),
                label=held.labels.get(cells.class_id),
            )
            for cells, stride in zip(maps, held.strides or (), strict=True)
        ]
        self._held[image_key(image)] = held, heats
        self._n_held += n_maps
        self._held_bytes += sum(cells.plane_bytes for cells in (*maps, *explained.extra_maps))
        self.settle()

    @defer_sigint()
    def take(self, name: str, images: Sequence[ImageRecord]) -> None:
        self._begin()
        self._arrived[name] = images
        self.settle()

    @defer_sigint()
    def fail(self, image: ImageRecord, error: str) -> None:
        self.failed.append(FailedImage(image.image_id or 0, image.shown, error))
        self._waiting.append((image, error))
        self.settle()

    @defer_sigint()
    def keep(self, explained: ExplainedImage, place: int) -> None:
        run_id, known = self._begin(), self.registered(explained.image)
        strides = [self.plan.grids[place].stride] * len(explained.maps)
        held = self.form.image_maps(replace(explained, image=known))
        self.store.write_pieces(run_id, place, replace(held, strides=strides))
        self._pieces.add(image_key(explained.image))

    @property
    def has_pieces(self) -> bool:
        """Return whether cells of an unfinished image are stored."""
        return bool(self._pieces)

    def settle(self) -> int:
        """Store what waits where it is much, has waited a second, or is the last; return how many images are durable.

        Images become durable in the order in which they are finished.
        """
        late = time.monotonic() - self._flushed_at >= _HOLD_SECONDS
        if self._kept_files is not None and self._held:
            much, late = self._kept_files.due, False
        else:
            much = self._n_held >= _HOLD_MAPS or self._held_bytes >= _HOLD_BYTES or len(self._arrived) >= _HOLD_SHARDS
        if much or late or self.n_taken >= self.n_todo:
            self.flush()
        return self.n_stored + len(self.failed) - len(self._waiting)

    @defer_sigint()
    def flush(self) -> None:
        """Store durably what waits; failures of a run that has no image yet go on waiting for one."""
        if self._held:
            map_ids = iter(self._store_held())
            for key, (_, heats) in self._held.items():
                self.heats[key] = [self.map_cache.put(heat, next(map_ids)) for heat in heats]
            finished, self._held = self._held, {}
            self._n_held = self._held_bytes = 0
            self._drop_pieces(finished)
        if self._arrived:
            self._store_arrived()
        while self.run_id is not None and self._waiting:
            self.failed[-len(self._waiting)] = self._store_failure(*self._waiting[0])
            del self._waiting[0]
        self._flushed_at = time.monotonic()

    def _store_held(self) -> list[int]:
        """Store the maps of this process that wait; returns their ids in order."""
        assert self.run_id is not None
        held = [images for images, _ in self._held.values()]
        if self._kept_files is None:
            return self.store.write_batch(self.run_id, held)
        if self._written is None:  # else the file is there, and the database could not take it before
            self._written = self._kept_files.flush()
        names = [self._written]
        found = self.store.take_shards(self.run_id, self._kept_files.folder, names, self._image_ids, set(), keep=True)
        self._written = None
        return [map_id for images in held for map_id in found[images.image_id]]

    def _store_arrived(self) -> None:
        """Store the shards that wait, each image once."""
        assert self.run_id is not None and self.delivery is not None
        taken = set(self._delivered.values())
        self.store.take_shards(
            self.run_id, self.delivery.folder, list(self._arrived), self._image_ids, taken, self.delivery.keep
        )
        for image in (image for images in self._arrived.values() for image in images):
            self._delivered[image_key(image)] = self.registered(image).image_id or 0
        self._arrived = {}
        self._drop_pieces(self._delivered)

    def _drop_pieces(self, finished: Container[str]) -> None:
        """Delete the cells that were kept of images that are whole by now."""
        keys = [key for key in self._pieces if key in finished]
        if keys and self.run_id is not None:
            ids = [self._known[key].image_id for key in keys]
            self.store.drop_image_pieces(self.run_id, [each for each in ids if each is not None])
        self._pieces.difference_update(keys)

    @cached_property
    def _image_ids(self) -> dict[tuple[str | None, str | None], int]:
        """Return the ids of the plan's images by (path, key)."""
        images = [self.registered(image) for image in self.plan.images]
        return {(image.path, image.key): image.image_id for image in images if image.image_id is not None}

    def collect(self) -> None:
        """Add the maps that came in shards to `heats`, without their planes, which are read when they are asked for."""
        if not self._delivered or self.run_id is None:
            return
        keys = {image_id: key for key, image_id in self._delivered.items()}
        images: dict[int | None, ImageRecord] = {}
        for image in self.plan.images:
            known = self.registered(image)
            images[known.image_id] = replace(known, columns=image.columns or known.columns)
        entries = cached_maps(self.store, self.image_registry, self.run_id, self.plan.score, self.plan.model, images)
        for image_id, entry in entries:
            if image_id in keys:
                self.heats.setdefault(keys[image_id], []).append(entry)

    def let_go(self) -> None:
        """Remove what is left of the shards that pass into the database."""
        if self.delivery is not None and not self.delivery.keep:
            self.delivery.folder.remove_all()

    @property
    def n_stored(self) -> int:
        """Images whose maps are stored durably."""
        return len(self.heats) + len(self._delivered)

    @property
    def n_taken(self) -> int:
        """Images that are finished, failed ones included."""
        n_taken = self.n_stored + len(self._held) + len(self.failed)
        if not self._arrived:
            return n_taken
        arrived = {image_key(image) for images in self._arrived.values() for image in images}
        return n_taken + len(arrived - self._delivered.keys())

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
        """Return the image with its id; the first call stores all images of the plan at once."""
        if not self._known:
            images = self.plan.images
            self._known = dict(zip(map(image_key, images), self.store.register_images(images), strict=True))
        return self._known[image_key(image)]
