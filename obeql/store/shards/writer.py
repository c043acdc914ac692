"""Writes finished maps into shards: in worker processes, and in this one where maps stay files.

Between the executor, which hands over an image's maps, and `format`, which knows the form of the files.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from obeql.errors import QueryTypeError
from obeql.planner import ExplainPlan, ImageRecord, ModelRecord
from obeql.planner.binding.labels import labelled_classes, labels_of
from obeql.store import MEMORY, ImageContent, ImageMaps
from obeql.store.shards.folder import Folder, is_remote
from obeql.store.shards.format import MOST_ROWS, shard_bytes, shard_name

if TYPE_CHECKING:
    from obeql.executor.execution.context import ExplainedImage

__all__ = ["Delivery", "MapForm", "MapShards", "delivery_of"]

#: A shard is written once so many bytes of planes wait, or so many maps, or the first has waited so many seconds.
_MOST_BYTES = 64 * 2**20
_MOST_MAPS = 1024
_KEPT_SECONDS = 30.0
_PASSING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where maps are written as shards, and whether they stay there: if not, they pass into the database."""

    folder: Folder
    keep: bool

    def of_one_run(self, origin: str) -> Delivery:
        """Return shards that pass: they lie in a folder of their own, which nobody else looks into.

        `origin` is the id of the database. One process has it open at a time, so that folders of others for the same
        database are of processes that were killed: they are removed here.
        """
        if self.keep:
            return self
        ours = f"passing-{origin}-"
        for name in self.folder.folders():
            if name.startswith(ours) and not name.startswith(f"{ours}{os.getpid()}-"):
                Folder(self.folder.path(name)).remove_all()
        return replace(self, folder=Folder(self.folder.path(f"{ours}{os.getpid()}-{token_hex(4)}")))


def delivery_of(kind: str, place: str | None, database: str) -> Delivery | None:
    """Return what obeql.store and obeql.store_folder say, for a database at a path; None: maps do not become files.

    Raises QueryTypeError where the files of a database in memory would have no place.
    """
    keep = kind == "parquet"
    if place is None and not keep:
        return None
    if place is None and database == MEMORY:
        raise QueryTypeError(
            "obeql.store = 'parquet' needs a folder where the database is in memory; "
            "SET obeql.store_folder = 'maps', or connect to a file."
        )
    place = place or str(Path(database).with_suffix(".maps"))
    return Delivery(Folder(place if is_remote(place) else str(Path(place).expanduser().resolve())), keep)


@dataclass(frozen=True, slots=True)
class MapForm:
    """What is the same for all maps of a run.

    That is the model, the names of its classes, the (vertical, horizontal) stride of each grid, and whether labels ask
    for the classes.
    """

    model: ModelRecord
    class_names: tuple[str, ...]
    strides: tuple[tuple[int, ...], ...]
    by_label: bool

    @classmethod
    def of(cls, plan: ExplainPlan, class_names: tuple[str, ...]) -> MapForm:
        return cls(plan.model, class_names, tuple(grid.stride for grid in plan.grids), plan.classes.kind == "label")

    def image_maps(self, explained: ExplainedImage) -> ImageMaps:
        """Return the maps of an image as the store takes them, those of all classes, grid after grid."""
        image, maps, placement = explained.image, explained.maps, explained.placement
        per_grid = max(1, len(maps) // len(self.strides))
        named = {cells.class_id: self.class_names[cells.class_id] for cells in maps}
        box = placement.source_box(*(0,) * len(placement.model_size), *placement.model_size)
        strides = [stride for stride in self.strides for _ in range(per_grid)]
        labels = labelled_classes(self.model, labels_of(image)) if self.by_label else {}
        content, extra = ImageContent.of(explained.facts), explained.extra_maps
        return ImageMaps(image.image_id or 0, maps, named, placement.model_size, box, strides, content, extra, labels)


@dataclass
class MapShards:
    """A `ShardWriter`. `origin` is the id of the database it writes for."""

    folder: Folder
    model_hash: str
    origin: str
    form: MapForm
    hold_seconds: float = _KEPT_SECONDS
    _waiting: list[tuple[ImageRecord, ImageMaps]] = field(default_factory=list)
    _n_bytes: int = 0
    _n_maps: int = 0
    _since: float = 0.0

    @classmethod
    def to(cls, delivery: Delivery, plan: ExplainPlan, origin: str, form: MapForm) -> MapShards:
        """Return what writes the maps of a plan to where they are to be delivered."""
        seconds = _KEPT_SECONDS if delivery.keep else _PASSING_SECONDS
        return cls(delivery.folder, plan.model.model_hash, origin, form, seconds)

    def has_room(self, n_maps: int) -> bool:
        return not self._waiting or self._n_maps + n_maps <= MOST_ROWS

    def add(self, explained: ExplainedImage) -> None:
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append((explained.image, self.form.image_maps(explained)))
        maps = (*explained.maps, *explained.extra_maps)
        self._n_bytes += sum(cells.logit.size * 4 * 4 for cells in maps)
        self._n_maps += len(maps)

    @property
    def due(self) -> bool:
        if not self._waiting:
            return False
        late = time.monotonic() - self._since >= self.hold_seconds
        return late or self._n_bytes >= _MOST_BYTES or self._n_maps >= _MOST_MAPS

    def flush(self) -> str:
        shard, content = shard_bytes(self._waiting, self.origin)
        name = shard_name(self.model_hash, shard)
        self.folder.write(name, content)
        self._waiting, self._n_bytes, self._n_maps = [], 0, 0
        return name
