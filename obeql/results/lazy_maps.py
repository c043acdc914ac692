"""The maps of a result: in memory while they are small together, in the database beyond that.

Between the store, which holds every map of a run, and `Result`, which users index and iterate. A result of 10,000
images holds a few lines for each map; planes are read when a map is asked for, and let go with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol, overload

import numpy as np

from obeql.errors import StoreError
from obeql.planner.cells import MapCells
from obeql.results.heatmap import Heatmap

__all__ = ["KEPT_BYTES", "HeatmapList", "LazyMap", "MapCache"]

#: Planes that one result keeps in memory; it answers for these maps after the database is closed.
KEPT_BYTES = 256 * 2**20
#: Likewise where maps stay in files, as those of large runs do.
KEPT_BESIDE_FILES = 32 * 2**20

#: Planes read at once where maps are taken one after the other.
_READ_BYTES = 16 * 2**20

_NO_PLANE = np.empty((0, 0), np.float32)
_NO_CLASSES = np.empty((0, 0), np.int32)
_NO_AXIS = np.empty(0, np.int32)


class CellStore(Protocol):
    """Where the planes are."""

    def cells_of(self, map_ids: Sequence[int]) -> dict[int, MapCells]:
        """Return the cells of maps by their ids, without quality; maps that are gone are absent."""
        ...


@dataclass(frozen=True, slots=True)
class LazyMap:
    """A map whose planes are in the database: the map without them, its id there and their size."""

    heat: Heatmap
    map_id: int
    n_bytes: int

    @classmethod
    def of(cls, heat: Heatmap, map_id: int) -> LazyMap:
        """Return the map without its planes."""
        cells = heat.cells
        bare = replace(
            cells,
            starts=(_NO_AXIS,) * len(cells.starts),
            lengths=(_NO_AXIS,) * len(cells.lengths),
            logit=_NO_PLANE,
            others=_NO_PLANE.astype(np.float64),
            top_class=_NO_CLASSES,
            exact=None,
        )
        return cls(replace(heat, cells=bare), map_id, cells.plane_bytes)


class MapCache:
    """Keeps the planes of the first maps of a result, KEPT_BYTES of them or fewer, and lets go of the others."""

    def __init__(self, store: CellStore, in_files: bool = False) -> None:
        self._store = store
        self._left = min(KEPT_BYTES, KEPT_BESIDE_FILES) if in_files else KEPT_BYTES

    def put(self, heat: Heatmap, map_id: int) -> Heatmap | LazyMap:
        """Return the map, or what it can be read back by once it is stored."""
        if heat.cells.plane_bytes > self._left:
            return LazyMap.of(heat, map_id)
        self._left -= heat.cells.plane_bytes
        return heat

    def listed(self, entries: Sequence[Heatmap | LazyMap]) -> HeatmapList:
        """Return the entries as a sequence of maps, as many of them in memory as there is room for."""
        n_first = 0
        for entry in entries:
            if isinstance(entry, LazyMap):
                if entry.n_bytes > self._left:
                    break
                self._left -= entry.n_bytes
            n_first += 1
        if not any(isinstance(entry, LazyMap) for entry in entries[:n_first]):
            return HeatmapList(entries, self._store)
        first = HeatmapList(entries[:n_first], self._store)
        return HeatmapList([*first, *entries[n_first:]], self._store)


class HeatmapList(Sequence[Heatmap]):
    """Heat maps in order. Raises StoreError for a map that is no longer in the database."""

    def __init__(self, entries: Sequence[Heatmap | LazyMap], store: CellStore) -> None:
        self._entries = tuple(entries)
        self._store = store

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Heatmap: ...
    @overload
    def __getitem__(self, index: slice) -> HeatmapList: ...
    def __getitem__(self, index: int | slice) -> Heatmap | HeatmapList:
        if isinstance(index, slice):
            return HeatmapList(self._entries[index], self._store)
        return self._read([self._entries[index]])[0]

    def __iter__(self) -> Iterator[Heatmap]:
        return chain.from_iterable(map(self._read, self._portions()))

    def as_score(self, kind: str) -> HeatmapList:
        """Return the same maps seen as another score."""
        changed = [
            replace(entry, heat=entry.heat.as_score(kind)) if isinstance(entry, LazyMap) else entry.as_score(kind)
            for entry in self._entries
        ]
        return HeatmapList(changed, self._store)

    def _portions(self) -> Iterator[list[Heatmap | LazyMap]]:
        """Yield consecutive entries whose planes are read together."""
        portion: list[Heatmap | LazyMap] = []
        n_bytes = 0
        for entry in self._entries:
            portion.append(entry)
            n_bytes += entry.n_bytes if isinstance(entry, LazyMap) else 0
            if n_bytes >= _READ_BYTES:
                yield portion
                portion, n_bytes = [], 0
        if portion:
            yield portion

    def _read(self, entries: Sequence[Heatmap | LazyMap]) -> list[Heatmap]:
        wanted = [entry.map_id for entry in entries if isinstance(entry, LazyMap)]
        found = self._store.cells_of(wanted) if wanted else {}
        heats = []
        for entry in entries:
            if isinstance(entry, LazyMap):
                heat = entry.heat
                cells = found.get(entry.map_id)
                if cells is None:
                    raise StoreError(
                        f"the map of '{heat.image}' is no longer in the database: run {heat.run_id} was dropped"
                    )
                heats.append(replace(heat, cells=replace(cells, quality=heat.cells.quality)))
            else:
                heats.append(entry)
        return heats
