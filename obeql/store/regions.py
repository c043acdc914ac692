"""Windows that a query listed, beside the maps of them: their names in each run, and their masks.

Before it: `maps` has written maps, or read them without what tells their windows apart. After it: they are whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from obeql.errors import InternalError
from obeql.planner.cells import MapCells
from obeql.planner.regions import NO_PATCH, Mask, RegionList
from obeql.store.driver import Database

__all__ = ["RegionRows"]


class RegionRows:
    """The part of a store that keeps what windows of a list are called and which pixels they hide."""

    _database: Database

    def _write_regions(self, entries: Sequence[int], map_ids: Sequence[int], maps: Sequence[MapCells]) -> None:
        """Store names and masks of the maps, a row of run_maps each, that have listed windows; in a transaction."""
        listed = [
            (entry, map_id, cells.listed)
            for entry, map_id, cells in zip(entries, map_ids, maps, strict=True)
            if cells.listed is not None
        ]
        if not listed:
            return
        texts = pa.list_(pa.string())
        rows = {
            "entry_id": pa.array([entry for entry, _, _ in listed], pa.int64()),
            "map_id": pa.array([map_id for _, map_id, _ in listed], pa.int64()),
            "names": pa.array([list(regions.names) for _, _, regions in listed], texts),
            "digests": pa.array([list(regions.digests) for _, _, regions in listed], texts),
        }
        self._database.append("region_rows", pa.table(rows))
        masks = {digest: mask for _, _, regions in listed for digest, mask in regions.pixels.items()}
        known = self._masks(masks) if masks else {}
        new = {digest: mask for digest, mask in masks.items() if digest not in known}
        if new:
            self._database.append("mask_rows", _mask_batch(new))

    def _with_regions(self, maps: Sequence[MapCells], map_ids: Sequence[int], entries: Sequence[int]) -> list[MapCells]:
        """Return maps with what tells their windows apart, where these are listed.

        `entries` are their rows of run_maps, whose names they get; without any, those of the oldest run.
        """
        wanted = [map_id for cells, map_id in zip(maps, map_ids, strict=True) if cells.key.patch == NO_PATCH]
        if not wanted:
            return list(maps)
        rows = self._database.rows_beside(
            "SELECT map_id, entry_id, names, digests FROM obeql_store.region_rows "
            "WHERE map_id IN (SELECT map_id FROM obeql_batch) ORDER BY entry_id",
            pa.table({"map_id": pa.array(sorted(set(wanted)), pa.int64())}),
        )
        by_entry = {entry: (names, digests) for _, entry, names, digests in rows}
        by_map: dict[int, tuple[list[str], list[str]]] = {}
        for map_id, _, names, digests in rows:
            by_map.setdefault(map_id, (names, digests))
        masks = self._masks({digest for _, _, _, digests in rows for digest in digests if digest})
        found = []
        for number, (cells, map_id) in enumerate(zip(maps, map_ids, strict=True)):
            if cells.key.patch == NO_PATCH:
                told = by_entry.get(entries[number]) if entries else None
                names, digests = told or by_map.get(map_id) or _lost(map_id)
                pixels = {digest: masks[digest] for digest in digests if digest}
                cells = replace(cells, listed=RegionList(tuple(names), tuple(digests), pixels))  # noqa: PLW2901
            found.append(cells)
        return found

    def _masks(self, digests: Iterable[str]) -> dict[str, Mask]:
        """Return the masks of these digests that are stored."""
        batch = pa.table({"digest": pa.array(sorted(digests), pa.string())})
        if not batch.num_rows:
            return {}
        rows = self._database.rows_beside(
            'SELECT digest, height, width, "rows", starts, stops FROM obeql_store.mask_rows '
            "WHERE digest IN (SELECT digest FROM obeql_batch)",
            batch,
        )
        return {digest: _filled((height, width), *spans) for digest, height, width, *spans in rows}


def _lost(map_id: int) -> Any:
    raise InternalError(f"map {map_id} lacks its regions; the database file was changed by hand")


def _mask_batch(masks: Mapping[str, Mask]) -> pa.Table:
    """Return rows of the table `mask_rows`."""
    spans = [_spans(mask) for mask in masks.values()]
    numbers = pa.list_(pa.int32())
    return pa.table(
        {
            "digest": pa.array(list(masks), pa.string()),
            "height": pa.array([mask.shape[0] for mask in masks.values()], pa.int32()),
            "width": pa.array([mask.shape[1] for mask in masks.values()], pa.int32()),
            "rows": pa.array([rows for rows, _, _ in spans], numbers),
            "starts": pa.array([starts for _, starts, _ in spans], numbers),
            "stops": pa.array([stops for _, _, stops in spans], numbers),
        }
    )


def _spans(mask: Mask) -> tuple[Any, Any, Any]:
    """Return the row, the start and the stop of every run of hidden pixels of a mask, row by row."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, stops = np.nonzero(edges == -1)
    return rows, starts, stops


def _filled(shape: tuple[int, int], rows: Sequence[int], starts: Sequence[int], stops: Sequence[int]) -> Mask:
    """Return the mask of such spans, (height, width)."""
    mask = np.zeros(shape, np.bool_)
    for row, start, stop in zip(rows, starts, stops, strict=True):
        mask[row, start:stop] = True
    return mask
