"""Shards into the store: their maps as rows that runs refer to, each image once, in one commit for many shards.

Before it: workers have written shards. After it: the maps are in the tables, or stay in the files and are `external`'s.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence, Set
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from obeql.errors import StoreError
from obeql.store.driver import Lane
from obeql.store.histograms import histogram_batch
from obeql.store.images import ImageContent
from obeql.store.map_columns import member_batch
from obeql.store.maps import MapRows
from obeql.store.metadata import FactRows
from obeql.store.opening import ROW_GROUP_SIZE
from obeql.store.shards.external import pattern_of
from obeql.store.shards.folder import Folder
from obeql.store.shards.format import (
    AXIS_TABLE,
    CONTENTS,
    HISTOGRAM,
    MAP_TABLE,
    SHARD_OF,
    SUFFIX,
    Shard,
    check_maps,
    read_shard,
    shard_of,
)

__all__ = ["IncomingRows"]

_MEMBERS = tuple(name for name in member_batch(0, [], [], []).column_names if name not in ("run_id", "entry_id"))
#: What has to be known here of maps whose rows DuckDB reads from the shards itself.
_NEEDED = tuple(
    dict.fromkeys(
        (
            *("map_id", "digest", "n_rows", "n_cols", "path", "key", "place", "image_hash"),
            *(name for name in _MEMBERS if name != "image_id"),
            *CONTENTS,
            *AXIS_TABLE,
            HISTOGRAM,
        )
    )
)
#: Shards that are looked into at once when a folder is taken as it is found.
_AT_ONCE = 64
#: Row groups that are filled at once take at most so much memory together.
_LANES_BYTES = 256 * 2**20
#: What DuckDB may hold beside them.
_CACHE_BYTES = 32 * 2**20
#: What a cell takes in a row group: four planes of four bytes.
_CELL_BYTES = 16
#: So many maps are written into the file at once: that writes the row group they are in anew, which is cheaper than the
#: log first only if they are much of it.
_MANY_ROWS = 512


class IncomingRows(MapRows, FactRows):
    """The part of a store that takes shards."""

    def origin(self) -> str:
        """Return the id of this database, which the shards that are written for it carry."""
        if not self._known_origin():
            self.remember("store", "origin", uuid4().hex)
        return self._known_origin()

    def _known_origin(self) -> str:
        return str(self.recalled("store").get("origin", ""))

    def take_shards(
        self,
        run_id: int,
        folder: Folder,
        names: Sequence[str],
        image_ids: Mapping[tuple[str | None, str | None], int],
        taken: Set[int],
        keep: bool,
    ) -> dict[int, list[int]]:
        """Make the maps of shards part of a run, durably, in one commit; the files stay only if `keep`.

        If not, the maps themselves are committed before that, as cells that belong to no run yet. `image_ids` are the
        ids of the run's images by (path, key). Images that are `taken` already, or in two of the shards, count once. A
        map whose every number is stored already is referenced. Raises StoreError, which names the file, for a shard
        that is missing, damaged or foreign; the run gets nothing then. Returns the map ids of each image that was
        taken, by image id.
        """
        if not names:
            return {}
        shards = [read_shard(folder, name, None if keep else _NEEDED) for name in dict.fromkeys(names)]
        rows = _together([shard.rows for shard in shards])
        with self._database.writing():
            self._require_running(run_id)
            new = {} if keep else self._take_planes(folder, shards, rows)
            with self._database.transaction():
                if keep:
                    ids = self._take_facts(folder, shards)
                else:
                    ids = self._map_ids(rows["digest"].to_pylist())
                    self._take_axes(rows, ids)
                self._take_histograms(rows, new)
                map_ids = self._take_members(run_id, rows, ids, image_ids, taken)
        needed = {shard_of(map_id) for map_id in ids.values()} if keep else set()
        for shard in shards:
            if shard.number not in needed:
                folder.remove(shard.name)
        return map_ids

    def find_shards(self, folder: Folder) -> int:
        """Take the maps of the shards in a folder that the store does not know yet, as cells that belong to no run.

        They are what a process that was killed, or another database, has left there; statements reuse them. Shards
        that are gone are forgotten unless a run needs them. Returns the number of shards found. Raises StoreError,
        which names the file, for one that is damaged or foreign.
        """
        folder.tidy()
        known = self.shard_names(folder.place)
        listed = [name for name in folder.files(SUFFIX) if name.startswith("model_hash=")]
        new = [name for name in listed if name not in known]
        for start in range(0, len(new), _AT_ONCE):
            shards = [read_shard(folder, name) for name in new[start : start + _AT_ONCE]]
            with self._database.transaction():
                self._take_facts(folder, shards, all_of_them=True)
        if gone := known.keys() - set(listed):
            self._let_go([known[name] for name in gone])
        return len(new)

    def _take_facts(self, folder: Folder, shards: Sequence[Shard], all_of_them: bool = False) -> dict[str, int]:
        """Add the maps that are new, whose planes stay in the shards, inside a transaction; returns the ids of all of
        them by their digests."""
        rows = _together([shard.rows for shard in shards])
        digests = rows["digest"].to_pylist()
        ids = self._map_ids(digests)
        if new := _first_rows(digests, ids):
            facts = rows.select([name for name in MAP_TABLE if name in rows.column_names])
            self._database.append("maps", facts.take(new))
            numbers = {row: rows["map_id"][row].as_py() for row in new}
            self._take_histograms(rows, numbers)
            ids.update((digests[row], map_id) for row, map_id in numbers.items())
        for shard in shards:
            self._take_axes(shard.rows, ids)
        origin = self._known_origin()
        needed = {shard_of(map_id) for map_id in ids.values()}
        placed = [
            (folder.place, shard.number, shard.name, shard.rows.num_rows, shard.origin == origin)
            for shard in shards
            if all_of_them or shard.number in needed
        ]
        self._note_shards(placed)
        return ids

    def _take_planes(self, folder: Folder, shards: Sequence[Shard], rows: pa.Table) -> dict[int, int]:
        """Commit the maps that are new, with their planes, as cells that belong to no run; `rows` are the shards'.

        Returns the ids of the new maps by their rows. DuckDB reads the files itself. Whole row groups are shared out to
        lanes, which fill them at once.
        """
        digests = rows["digest"].to_pylist()
        new = _first_rows(digests, self._map_ids(digests))
        if not new:
            return {}
        self._read_remote([folder.place])
        numbers = np.zeros(len(digests), np.int64)
        numbers[new] = self._database.next_ids("map_ids", len(new))
        n_cells = np.multiply(*(rows[name].to_numpy().astype(np.int64) for name in ("n_rows", "n_cols")))
        group_bytes = max(1, int(n_cells.max())) * _CELL_BYTES * ROW_GROUP_SIZE
        n_groups = len(new) // ROW_GROUP_SIZE
        n_lanes = max(1, min(self._database.n_threads(), n_groups, _LANES_BYTES // group_bytes))
        ends = [n_groups * (lane + 1) // n_lanes * ROW_GROUP_SIZE for lane in range(n_lanes - 1)]
        lanes = [_inserts(folder, shards, numbers, part) for part in np.split(np.array(new), ends)]
        try:
            self._database.insert_side_by_side(
                lanes, group_bytes * n_lanes + _CACHE_BYTES, into_file=not n_groups and len(new) >= _MANY_ROWS
            )
        except StoreError:
            for shard in shards:  # if a file is damaged, say which
                check_maps(folder, shard.name)
            raise
        finally:
            self._database.empty_cache()
        return dict(zip(new, numbers[new].tolist(), strict=True))

    def _take_histograms(self, rows: pa.Table, map_ids: Mapping[int, int]) -> None:
        """Keep the histograms of the maps in some rows of shards, inside a transaction; earlier versions wrote none."""
        if HISTOGRAM not in rows.column_names or not map_ids:
            return
        counts = rows[HISTOGRAM].take(pa.array(map_ids.keys(), pa.int64()))
        known = counts.is_valid()
        numbers = pa.array(map_ids.values(), pa.int64()).filter(known.combine_chunks())
        self._database.append("histogram_rows", histogram_batch(numbers.to_pylist(), counts.filter(known)))

    def _take_axes(self, rows: pa.Table, ids: Mapping[str, int]) -> None:
        """Store what shards say of the axes of maps that have more than two, inside a transaction."""
        if not set(AXIS_TABLE) <= set(rows.column_names):  # of an earlier version
            return
        rows = rows.filter(pc.is_valid(rows["axis_starts"])).select(["digest", *AXIS_TABLE])
        if not rows.num_rows:
            return
        map_ids = pa.array([ids[digest] for digest in rows["digest"].to_pylist()], pa.int64())
        batch = rows.drop_columns("digest").rename_columns(list(AXIS_TABLE.values())).add_column(0, "map_id", map_ids)
        known = self._database.rows_beside(
            "SELECT map_id FROM obeql_store.axis_rows WHERE map_id IN (SELECT map_id FROM obeql_batch)", batch
        )
        new = pc.invert(pc.is_in(batch["map_id"], pa.array([map_id for (map_id,) in known], pa.int64())))
        self._database.append("axis_rows", batch.filter(new))

    def _take_members(
        self,
        run_id: int,
        rows: pa.Table,
        ids: Mapping[str, int],
        image_ids: Mapping[tuple[str | None, str | None], int],
        taken: Set[int],
    ) -> dict[int, list[int]]:
        """Add what the run has to its maps, inside a transaction; returns the map ids of each image."""
        shard = [shard_of(map_id) for map_id in rows["map_id"].to_pylist()]
        named = zip(rows["path"].to_pylist(), rows["key"].to_pylist(), strict=True)
        first: dict[int, int] = {}
        chosen: list[tuple[int, int]] = []
        for row, (handle, place) in enumerate(zip(named, rows["place"].to_pylist(), strict=True)):
            image_id = image_ids.get(handle)
            if image_id is None or place is None or image_id in taken:
                continue
            if first.setdefault(image_id, shard[row]) == shard[row]:
                chosen.append((row, image_id))
        if not chosen:
            return {}
        rows = rows.select([name for name in rows.column_names if name in _NEEDED])
        if len(chosen) < len(rows):
            rows = rows.take([row for row, _ in chosen])
        owners = [image_id for _, image_id in chosen]
        map_ids = [ids[digest] for digest in rows["digest"].to_pylist()]
        own = ("image_id", "map_id")  # shards of earlier versions lack what later ones say of a map
        members = rows.select([name for name in _MEMBERS if name not in own and name in rows.column_names])
        for name, values in {
            "entry_id": self._database.next_ids("entry_ids", len(chosen)),
            "run_id": np.full(len(chosen), run_id),
            "map_id": map_ids,
            "image_id": owners,
        }.items():
            members = members.append_column(name, pa.array(values, pa.int64()))
        self._database.append("run_maps", members)
        contents = zip(*(rows[name].to_pylist() for name in ("image_hash", *CONTENTS)), strict=True)
        self._note_contents({owner: ImageContent(*said) for owner, said in zip(owners, contents, strict=True)})
        found: dict[int, list[int]] = {}
        for owner, map_id in zip(owners, map_ids, strict=True):
            found.setdefault(owner, []).append(map_id)
        return found

    def _let_go(self, shards: Sequence[int]) -> None:
        """Forget the maps of shards whose files are gone, where no run has them."""
        marks = pa.table({"shard": pa.array(shards, pa.int64())})
        loose = self._database.rows_beside(
            f"SELECT map_id FROM obeql_store.maps WHERE {SHARD_OF} IN (SELECT shard FROM obeql_batch) "
            "AND map_id NOT IN (SELECT map_id FROM obeql_store.run_maps)",
            marks,
        )
        if loose:
            with self._database.transaction():
                self._database.run(
                    f"DELETE FROM obeql_store.maps WHERE map_id IN ({', '.join(str(map_id) for (map_id,) in loose)})"
                )
                self._forget_histograms()
                self._forget_shards()


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all shards; a column that those of an earlier version lack is NULL there."""
    return pa.concat_tables(tables, promote_options="default")


def _first_rows(digests: Sequence[str], known: Container[str]) -> list[int]:
    """Return the rows whose digest is not known, the first of those that have the same."""
    new: dict[str, int] = {}
    for row, digest in enumerate(digests):
        if digest not in known:
            new.setdefault(digest, row)
    return list(new.values())


def _inserts(
    folder: Folder, shards: Sequence[Shard], numbers: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]
) -> Lane:
    """Return what inserts the chosen rows of all shards into the table `maps`; `numbers` are the rows' map ids."""
    others = ", ".join(f'"{name}"' for name in MAP_TABLE if name != "map_id")
    wanted = np.zeros_like(numbers)
    wanted[chosen] = numbers[chosen]
    inserts: list[tuple[str, Sequence[Any]]] = []
    start = 0
    for shard in shards:
        ids = wanted[start : start + shard.rows.num_rows].tolist()
        start += shard.rows.num_rows
        if any(ids):  # 0 is no id
            sql = (
                f"INSERT INTO obeql_store.maps (map_id, {others}) SELECT (?::BIGINT[])[file_row_number + 1], {others} "
                "FROM read_parquet(?, file_row_number = true, hive_partitioning = false)"
            )
            given = [ids, pattern_of(folder.path(shard.name))]
            inserts.append(
                (sql, given) if all(ids) else (f"{sql} WHERE (?::BIGINT[])[file_row_number + 1] > 0", [*given, ids])
            )
    return inserts
