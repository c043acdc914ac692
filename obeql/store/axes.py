"""The axes of maps that have more than two, beside the maps: those of volumes.

Before it: `map_columns` has made a map's planes lines along the last axis. After it: maps that were read have the shape
of their grid again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from obeql.planner.cells import MapCells
from obeql.store.driver import Database

__all__ = ["AXIS_COLUMNS", "AxisRows", "axis_batch", "axis_table"]

#: The table's columns, beside the id of the map.
AXIS_COLUMNS = ("patch", "starts", "lengths")
_NUMBERS = pa.list_(pa.int32())


class AxisRows:
    """The part of a store that keeps where windows lie along an axis that images do not have."""

    _database: Database

    @cached_property
    def _axis_rows(self) -> str:
        """Return the table in SQL; a file of an earlier version that is open for reading only lacks it."""
        return axis_table(self._database)

    def _write_axes(self, map_ids: Sequence[int], maps: Sequence[MapCells]) -> None:
        """Store the axes of the maps that have more than two; in a transaction of the caller."""
        deep = [(map_id, cells) for map_id, cells in zip(map_ids, maps, strict=True) if len(cells.starts) > 2]
        if deep:
            batch = axis_batch([cells for _, cells in deep])
            ids = pa.array([map_id for map_id, _ in deep], pa.int64())
            self._database.append("axis_rows", batch.add_column(0, "map_id", ids))

    def _with_axes(self, maps: Sequence[MapCells], map_ids: Sequence[int]) -> list[MapCells]:
        """Return maps with all of their axes, and planes of the shape of their grid."""
        if not maps:
            return []
        rows = self._database.rows_beside(
            f"SELECT map_id, patch, starts, lengths FROM {self._axis_rows} "
            "WHERE map_id IN (SELECT map_id FROM obeql_batch)",
            pa.table({"map_id": pa.array(sorted(set(map_ids)), pa.int64())}),
        )
        axes = {map_id: told for map_id, *told in rows}
        return [
            _unfolded(cells, *axes[map_id]) if map_id in axes else cells
            for cells, map_id in zip(maps, map_ids, strict=True)
        ]


def axis_table(database: Database) -> str:
    """Return what stands for the table in SQL: an empty one where the file is of a version before it."""
    if not database.read_only or database.rows(
        "SELECT 1 FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = 'obeql_store' "
        "AND table_name = 'axis_rows'"
    ):
        return "obeql_store.axis_rows"
    return (
        "(SELECT 0::BIGINT AS map_id, NULL::INTEGER[] AS patch, NULL::INTEGER[][] AS starts, NULL::INTEGER[][] AS "
        "lengths WHERE false)"
    )


def axis_batch(maps: Sequence[MapCells | None]) -> pa.Table:
    """Return the columns of the table, a row a map; NULL of a map of two axes or fewer, and of none."""
    deep = [cells if cells is not None and len(cells.starts) > 2 else None for cells in maps]
    return pa.table(
        {
            "patch": pa.array([cells and list(cells.key.patch) for cells in deep], _NUMBERS),
            "starts": pa.array(
                [cells and [each.tolist() for each in cells.starts] for cells in deep], pa.list_(_NUMBERS)
            ),
            "lengths": pa.array(
                [cells and [each.tolist() for each in cells.lengths] for cells in deep], pa.list_(_NUMBERS)
            ),
        }
    )


def _unfolded(
    cells: MapCells, patch: Sequence[int], starts: Sequence[Sequence[int]], lengths: Sequence[Sequence[int]]
) -> MapCells:
    """Return a map whose planes are lines along the last axis with these axes, and planes of their shape."""
    shape = tuple(map(len, starts))
    if cells.logit.size:  # else planes were not asked for
        cells = replace(
            cells,
            logit=cells.logit.reshape(shape),
            others=cells.others.reshape(shape),
            top_class=cells.top_class.reshape(shape),
            exact=None if cells.exact is None else cells.exact.reshape(shape),
        )
    return replace(
        cells,
        key=replace(cells.key, patch=tuple(patch)),
        starts=tuple(np.array(each, np.int32) for each in starts),
        lengths=tuple(np.array(each, np.int32) for each in lengths),
    )
