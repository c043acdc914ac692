"""Heat maps in the store: maps by content, and which runs they belong to.

Before it: `begin_run` has given a run its id. After it: the views of views.sql, `load_maps` for a result, and
`stored`, from which later statements take cells instead of computing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from obeql.errors import InternalError
from obeql.planner.catalog import StoredGrid, StoredMaps
from obeql.planner.cells import CellKey, ImageHashes, MapCells
from obeql.planner.fills import fill_with_channels, hidden_channels
from obeql.store.axes import AxisRows
from obeql.store.codec import utc_now
from obeql.store.images import ImageRows
from obeql.store.map_columns import (
    MAP_COLUMNS,
    MAP_FACTS,
    MEMBER_COLUMNS,
    Box,
    ImageMaps,
    StoredMap,
    exact_only,
    map_batch,
    map_digest,
    maps_of,
    member_batch,
    stored_maps_of,
)
from obeql.store.regions import RegionRows
from obeql.store.runs import RunRows

__all__ = ["MapRows"]

#: patch and axes of a grid as `StoredGrid` takes them, and the channels that its windows hide
_Grid = tuple[tuple[int, ...], tuple[tuple[tuple[int, ...], tuple[int, ...]], ...], tuple[int, ...] | None]

#: What later versions added to run_maps.
_ADDED = {
    "label": "VARCHAR",
    "stride_depth": "INTEGER",
    "input_depth": "INTEGER",
    "source_front": "DOUBLE",
    "source_depth": "DOUBLE",
}


class MapRows(AxisRows, RegionRows, RunRows, ImageRows):
    """The part of a store that keeps maps, which belong to runs and images; `stored` makes it a CellSource."""

    def write_maps(
        self,
        run_id: int,
        image_id: int,
        maps: Sequence[MapCells],
        *,
        class_names: Mapping[int, str],
        input_size: tuple[int, ...] | None = None,
        source_box: Box | None = None,
        strides: Sequence[tuple[int, ...]] | None = None,
    ) -> list[int]:
        """Store the maps of one image durably and return their map ids; the arguments are those of `ImageMaps`."""
        return self.write_batch(run_id, [ImageMaps(image_id, maps, class_names, input_size, source_box, strides)])

    def write_batch(self, run_id: int, images: Sequence[ImageMaps]) -> list[int]:
        """Store the maps of several images in one commit and return the map ids, in order.

        Cheaper a map than one commit an image. A map whose every number is stored already is referenced, not copied.
        """
        maps = [cells for image in images for cells in image.maps]
        if not maps:
            return []
        n_members = len(maps)
        maps += [cells for image in images for cells in image.extra_maps]
        digests = [map_digest(cells) for cells in maps]
        with self._database.transaction():
            self._require_running(run_id)
            self._note_contents({image.image_id: image.content for image in images if image.content is not None})
            ids = self._map_ids(digests)
            new = {digest: cells for digest, cells in zip(digests, maps, strict=True) if digest not in ids}
            if new:
                numbers = self._database.next_ids("map_ids", len(new))
                ids.update(zip(new, numbers, strict=True))
                self._append_maps(map_batch(numbers, list(new), list(new.values())))
                self._write_axes(numbers, list(new.values()))
            map_ids = [ids[digest] for digest in digests[:n_members]]
            entries = self._database.next_ids("entry_ids", n_members)
            self._database.append("run_maps", member_batch(run_id, entries, map_ids, images))
            self._write_regions(entries, map_ids, maps[:n_members])
            # With the whole maps the pieces of them go, and in one commit: nobody sees both.
            finished = ", ".join(str(image.image_id) for image in images)
            self._delete_pieces(f"run_id = ? AND image_id IN ({finished})", [run_id])
        return map_ids

    def write_pieces(self, run_id: int, place: int, image: ImageMaps) -> None:
        """Store durably what there is of the maps of grid number `place` of an image that is not finished.

        They take the place of earlier pieces of them, and are maps of the run until `write_batch` brings the image's.
        """
        n_maps = len(image.maps)
        with self._database.transaction():
            self._require_running(run_id)
            if image.content is not None:
                self._note_contents({image.image_id: image.content})
            numbers = self._database.next_ids("map_ids", n_maps)
            entries = self._database.next_ids("entry_ids", n_maps)
            self._append_maps(map_batch(numbers, [map_digest(cells) for cells in image.maps], image.maps))
            self._write_axes(numbers, image.maps)
            self._database.append("run_maps", member_batch(run_id, entries, numbers, [image]))
            self._write_regions(entries, numbers, image.maps)
            earlier = "run_id = ? AND image_id = ? AND place = ?"
            self._delete_pieces(earlier, [run_id, image.image_id, place])
            for entry, cells in zip(entries, image.maps, strict=True):
                self._database.append_row(
                    "piece_rows",
                    entry_id=entry,
                    run_id=run_id,
                    image_id=image.image_id,
                    place=place,
                    n_computed=int(np.count_nonzero(~np.isnan(cells.logit))),
                    written_at=utc_now(),
                )

    def _append_maps(self, rows: pa.Table) -> None:
        """Add rows of the table `maps`, with their histograms, inside a transaction."""
        self._database.append("maps", rows)
        self._write_histograms(rows)

    def drop_image_pieces(self, run_id: int, image_ids: Sequence[int]) -> None:
        """Delete the pieces of images that are finished."""
        marks = ", ".join("?" for _ in image_ids)
        chosen, values = f"run_id = ? AND image_id IN ({marks})", [run_id, *image_ids]
        if image_ids and self._database.rows(f"SELECT 1 FROM obeql_store.piece_rows WHERE {chosen} LIMIT 1", values):
            with self._database.transaction():
                self._delete_pieces(chosen, values)

    def drop_pieces(self, model_hash: str) -> None:
        """Delete cells of a model that belong to no run: those of maps not finished whose run is gone."""
        pieces = (
            # Whole maps that belong to no run are there for the statements that come next.
            "FROM obeql_store.maps WHERE model_hash = ? AND exact IS NOT NULL "
            "AND map_id NOT IN (SELECT map_id FROM obeql_store.run_maps)"
        )
        if self._database.rows(f"SELECT 1 {pieces} LIMIT 1", [model_hash]):
            with self._database.transaction():
                self._database.run(f"DELETE {pieces}", [model_hash])
                self._forget_histograms()

    def reference_map(
        self,
        run_id: int,
        image_id: int,
        map_id: int,
        *,
        class_name: str,
        quality: Mapping[str, Any] | None = None,
        input_size: tuple[int, ...] | None = None,
        source_box: Box | None = None,
        stride: tuple[int, ...] | None = None,
    ) -> None:
        """Make a stored map part of a run durably, copying nothing."""
        found = self._maps("map.map_id = ?", [map_id])
        if not found:
            raise InternalError(f"run {run_id} refers to map {map_id}, which the database does not hold")
        cells = replace(found[0], quality=dict(quality or {}))
        image = ImageMaps(
            image_id, [cells], {cells.class_id: class_name}, input_size, source_box, [stride] if stride else None
        )
        with self._database.transaction():
            self._require_running(run_id)
            entries = self._database.next_ids("entry_ids")
            self._database.append("run_maps", member_batch(run_id, entries, [map_id], [image]))

    def load_maps(self, run_id: int, image_id: int | None = None, *, planes: bool = True) -> list[StoredMap]:
        """Return the maps of a run, or of one image of it, in the order written. NaN: not computed.

        Without `planes` those are not read, and are empty.
        """
        chosen = "member.run_id = ?" if image_id is None else "member.run_id = ? AND member.image_id = ?"
        columns = self._numbered(f"{self._member_columns()}, {MAP_COLUMNS if planes else MAP_FACTS}")
        table = self._database.arrow(
            f"SELECT {columns} FROM obeql_store.run_maps AS member "
            f"JOIN obeql_store.maps AS map ON map.map_id = member.map_id WHERE {chosen}",
            [run_id] if image_id is None else [run_id, image_id],
        )
        found = stored_maps_of(self._with_planes(table))
        entries = sorted(table["entry_id"].to_pylist())  # the order in which maps were written
        cells = self._whole([each.cells for each in found], [each.map_id for each in found], entries)
        return [replace(each, cells=whole) for each, whole in zip(found, cells, strict=True)]

    def _member_columns(self) -> str:
        """Return MEMBER_COLUMNS, as far as a file of an earlier version that is open for reading only has them."""
        if not self._database.read_only:
            return MEMBER_COLUMNS
        there = self._database.rows(
            "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() "
            "AND schema_name = 'obeql_store' AND table_name = 'run_maps'"
        )
        columns = MEMBER_COLUMNS
        for name, kind in _ADDED.items():
            if (name,) not in there:
                columns = columns.replace(f"member.{name}", f"NULL::{kind} AS {name}")
        return columns

    def map_ids(self, run_id: int) -> list[int]:
        """Return the ids of a run's maps, in the order written."""
        rows = self._database.rows(
            "SELECT map_id FROM obeql_store.run_maps WHERE run_id = ? ORDER BY entry_id", [run_id]
        )
        return [map_id for (map_id,) in rows]

    def cells_of(self, map_ids: Sequence[int]) -> dict[int, MapCells]:
        """Return the cells of maps by their ids, without quality; maps that are gone are absent."""
        table = self._database.arrow(
            f"SELECT {self._numbered(MAP_COLUMNS)} FROM obeql_store.maps AS map "
            f"WHERE map.map_id IN ({', '.join('?' * len(map_ids))})",
            map_ids,
        )
        if not map_ids:
            return {}
        found = table["map_id"].to_pylist()
        return dict(zip(found, self._whole(maps_of(self._with_planes(table)), found, ()), strict=True))

    def images_with_cells(self, model_hash: str, preprocessing_hash: str) -> ImageHashes:
        """Return the images of which any cells of a model are stored."""
        rows = self._database.rows(
            "SELECT DISTINCT left(image_hash, 16) FROM obeql_store.maps WHERE model_hash = ? "
            "AND preprocessing_hash = ?",
            [model_hash, preprocessing_hash],
        )
        return ImageHashes(image_hash for (image_hash,) in rows)

    def stored(self, key: CellKey, class_ids: Sequence[int]) -> list[MapCells]:
        """Return all maps that hold exact cells of this content, on whatever grid, oldest first.

        Cells that are not exact are NaN here, so that what is not NaN may be used as it is.
        """
        if not class_ids:
            return []
        marks = ", ".join("?" for _ in class_ids)
        found = self._maps(
            "map.image_hash = ? AND map.model_hash = ? AND map.preprocessing_hash = ? AND map.patch_height = ? "
            f'AND map.patch_width = ? AND map.fill = ? AND map."precision" = ? AND map.class_id IN ({marks})',
            [
                key.image_hash,
                key.model_hash,
                key.preprocessing_hash,
                *key.patch[-2:],
                fill_with_channels(key.fill, key.channels),
                key.precision,
                *class_ids,
            ],
        )
        return [exact_only(cells) for cells in found if cells.key.patch == key.patch]

    def stored_top_class(self, key: CellKey) -> int | None:
        """Return the class the unoccluded image ranks first, if a map of it is stored, of whatever patch and fill."""
        rows = self._database.rows(
            "SELECT clean_top_class FROM obeql_store.maps WHERE image_hash = ? AND model_hash = ? "
            'AND preprocessing_hash = ? AND "precision" = ? ORDER BY map_id LIMIT 1',
            [key.image_hash, key.model_hash, key.preprocessing_hash, key.precision],
        )
        return int(rows[0][0]) if rows else None

    def stored_grids(
        self, hashes: Sequence[str | None], model_hash: str, preprocessing_hash: str, fill: str, precision: str
    ) -> list[StoredMaps]:
        """Return the stored maps of images with these content hashes; an image's place is that of its hash."""
        batch = pa.table(
            {"place": pa.array(range(len(hashes)), pa.int64()), "image_hash": pa.array(hashes, pa.string())}
        )
        # Images whose maps differ in nothing that matters here are one row, so that few rows come back. A map of which
        # cells are missing is like no other.
        rows = self._database.rows_beside(
            "WITH found AS ("
            "SELECT batch.place, map.map_id, map.class_id, map.clean_top_class, map.patch_height, map.patch_width, "
            "map.fill, map.tops, map.heights, map.lefts, map.widths, "
            "coalesce(run.run_name, 'run ' || member.run_id, 'no run') AS run, "
            "coalesce(member.n_exact < map.n_rows * map.n_cols OR member.approx, map.exact IS NOT NULL) AS is_partial, "
            "axes.patch, axes.starts, axes.lengths "
            "FROM obeql_store.maps AS map JOIN obeql_batch AS batch ON batch.image_hash = map.image_hash "
            f"LEFT JOIN {self._axis_rows} AS axes ON axes.map_id = map.map_id "
            "LEFT JOIN (SELECT map_id, min(run_id) AS run_id, min(n_exact) AS n_exact, bool_or(approx) AS approx "
            "FROM obeql_store.run_maps GROUP BY map_id) AS member ON member.map_id = map.map_id "
            "LEFT JOIN obeql_store.live_runs AS run ON run.run_id = member.run_id "
            "WHERE map.model_hash = ? AND map.preprocessing_hash = ? AND split_part(map.fill, '@', 1) = ? "
            'AND map."precision" = ? '
            "AND map.patch_height > 0"  # of grids: windows of a list are looked up when they are computed
            "), on_grid AS (SELECT *, min(map_id) OVER (PARTITION BY patch_height, patch_width, fill, tops, heights, "
            "lefts, widths, patch, starts, lengths) AS first_on_grid FROM found), by_image AS ("
            "SELECT place, list((first_on_grid, class_id, clean_top_class, run, CASE WHEN is_partial THEN map_id END) "
            "ORDER BY map_id) AS maps FROM on_grid GROUP BY place) "
            "SELECT maps, list(place ORDER BY place) AS places FROM by_image GROUP BY maps ORDER BY min(place)",
            batch,
            [model_hash, preprocessing_hash, fill, precision],
        )
        maps = [one for row in rows for one in row[0]]
        masks = self._exact_masks({map_id for *_, map_id in maps if map_id is not None})
        grids = self._grids({first for first, *_ in maps})
        return [
            StoredMaps(
                places,
                [
                    StoredGrid(class_id, *grids[first][:2], top_class, run, masks.get(map_id), grids[first][2])
                    for first, class_id, top_class, run, map_id in found
                ],
            )
            for found, places in rows
        ]

    def _grids(self, map_ids: Set[int]) -> dict[int, _Grid]:
        """Return the patch, axes and hidden channels of some maps."""
        rows = self._database.rows_beside(
            "SELECT map.map_id, coalesce(axes.patch, [patch_height, patch_width]), "
            "coalesce(axes.starts, [tops, lefts]), coalesce(axes.lengths, [heights, widths]), fill "
            f"FROM obeql_store.maps AS map LEFT JOIN {self._axis_rows} AS axes ON axes.map_id = map.map_id "
            "WHERE map.map_id IN (SELECT map_id FROM obeql_batch)",
            pa.table({"map_id": pa.array(sorted(map_ids), pa.int64())}),
        )
        return {
            map_id: (
                tuple(patch),
                tuple(zip(map(tuple, starts), map(tuple, lengths), strict=True)),
                hidden_channels(fill)[1],
            )
            for map_id, patch, starts, lengths, fill in rows
        }

    def _exact_masks(self, map_ids: Set[int]) -> dict[int, npt.NDArray[np.bool_]]:
        """Return which cells of these maps are computed and exact."""
        found = self.cells_of(sorted(map_ids)) if map_ids else {}
        return {map_id: ~np.isnan(exact_only(cells).logit) for map_id, cells in found.items()}

    @cached_property
    def _of_yes(self) -> str:
        """Return what holds for maps of one output that are class 0, in an old file that is only read; or nothing."""
        ((version,),) = self._database.rows("SELECT max(version) FROM obeql_store.schema_version")
        one_output = "(SELECT model_hash FROM obeql_store.model_rows WHERE n_classes = 1)"
        return f"map.class_id = 0 AND map.model_hash IN {one_output}" if version < 6 else ""

    def _numbered(self, columns: str) -> str:
        """Return the columns, with classes as they are numbered now."""
        if not self._of_yes:
            return columns
        name = f"CASE WHEN {self._of_yes} AND member.class_name = '0' THEN 'yes' ELSE member.class_name END"
        number = f"CASE WHEN {self._of_yes} THEN 1 ELSE map.class_id END"
        written = {"member.class_name": f"{name} AS class_name", "map.class_id": f"{number}::INTEGER AS class_id"}
        return ", ".join(written.get(column, column) for column in columns.split(", "))

    def _maps(self, condition: str, parameters: Sequence[Any]) -> list[MapCells]:
        table = self._database.arrow(
            f"SELECT {MAP_COLUMNS} FROM obeql_store.maps AS map WHERE {condition} ORDER BY map.map_id", parameters
        )
        return self._whole(maps_of(self._with_planes(table)), table["map_id"].to_pylist(), ())

    def _whole(self, maps: Sequence[MapCells], map_ids: Sequence[int], entries: Sequence[int]) -> list[MapCells]:
        """Return maps as they were stored, from their rows; `entries` as of `_with_regions`."""
        return self._with_regions(self._with_axes(maps, map_ids), map_ids, entries)

    def _map_ids(self, digests: Sequence[str]) -> dict[str, int]:
        rows = self._database.rows_beside(
            "SELECT digest, min(map_id) FROM obeql_store.maps WHERE digest IN (SELECT digest FROM obeql_batch) "
            "GROUP BY digest",
            pa.table({"digest": pa.array(digests, pa.string())}),
        )
        return dict(rows)
