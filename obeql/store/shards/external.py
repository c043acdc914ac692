"""Maps whose planes stay in shards: which shards there are, their planes, and the view that shows them in SQL.

Before it: `loader` has taken a shard. After it: `maps` reads rows and completes them here; views and macros read
`obeql_store.map_rows`, which this module makes anew whenever the folders change.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from obeql.errors import InternalError, StoreError
from obeql.store.codec import utc_now
from obeql.store.driver import Database
from obeql.store.map_columns import PLANES
from obeql.store.shards.folder import Folder, is_remote
from obeql.store.shards.format import FIRST_ID, MAP_TABLE, SHARD_OF, SUFFIX, check_footer, read_rows, row_of, shard_of

__all__ = ["PlacedRows", "pattern_of"]

_LIVE = (
    "(FROM obeql_store.shard_rows QUALIFY row_number() OVER (PARTITION BY shard ORDER BY entry_id DESC) = 1) AS placed "
    "WHERE placed.live"
)


class PlacedRows:
    """The part of a store that knows the shards."""

    _database: Database

    def _read_placed(self) -> None:
        """Let SQL read the shards of a file that was just opened."""
        with suppress(StoreError):  # an older file lacks the table; all else can be read, what is there says so later
            if not self._database.rows("SELECT 1 FROM obeql_store.shard_rows LIMIT 1"):
                return
            folders = self._folders()
            self._read_remote(folders)
            if not self._database.read_only and self._n_shown() != len(folders):
                with self._database.transaction():
                    self._show_shards()

    def unreadable_file(self, said: str) -> StoreError | None:
        """Return why a Parquet file of maps cannot be read, where that is so; `said` may name it. None without one."""
        try:
            rows = self._database.rows(f"SELECT placed.folder, name FROM {_LIVE}")
        except StoreError:  # an older file lacks the table
            return None
        for folder, name in sorted(rows, key=lambda row: row[1] not in said):
            try:
                check_footer(Folder(folder), name)
            except StoreError as error:
                return error
        return None

    def shard_names(self, folder: str) -> dict[str, int]:
        """Return the shards of a folder that the store knows: their numbers by their names."""
        return dict(self._database.rows(f"SELECT name, shard FROM {_LIVE} AND placed.folder = ?", [folder]))

    def _with_planes(self, table: pa.Table) -> pa.Table:
        """Return the same rows with the planes that are in shards, where the table has such columns."""
        wanted = [name for name in PLANES if name in table.column_names]
        ids = table["map_id"].to_numpy() if wanted else np.empty(0, np.int64)
        away = np.flatnonzero(ids >= FIRST_ID)
        if not len(away):
            return table
        at_home = np.flatnonzero(ids < FIRST_ID)
        parts, order = [table.take(at_home)], [at_home]
        numbers = np.array([shard_of(int(map_id)) for map_id in ids[away]])
        places = self._places(sorted(set(numbers.tolist())))
        for shard, (folder, name) in places.items():
            mine = away[numbers == shard]
            planes = read_rows(Folder(folder), name, [row_of(int(map_id)) for map_id in ids[mine]], wanted)
            rows = table.take(mine)
            for column in wanted:
                kind = table.schema.field(column).type
                rows = rows.set_column(rows.column_names.index(column), column, planes[column].cast(kind))
            parts.append(rows)
            order.append(mine)
        return pa.concat_tables(parts).take(np.argsort(np.concatenate(order), kind="stable"))

    def _places(self, shards: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Return the (folder, name) of shards by their numbers."""
        batch = pa.table({"shard": pa.array(shards, pa.int64())})
        rows = self._database.rows_beside(
            f"SELECT shard, folder, name FROM {_LIVE} AND placed.shard IN (SELECT shard FROM obeql_batch)", batch
        )
        found = {shard: (folder, name) for shard, folder, name in rows}
        if missing := set(shards) - found.keys():
            raise InternalError(f"the database holds maps of {len(missing)} Parquet files that it does not know")
        return found

    def _note_shards(self, shards: Sequence[tuple[str, int, str, int, bool]], live: bool = True) -> None:
        """Remember shards, (folder, number, name, maps, own) each, inside a transaction of the caller."""
        if not shards:
            return
        folders, numbers, names, n_maps, own = zip(*shards, strict=True)
        before = set(self._folders())
        self._database.append(
            "shard_rows",
            pa.table(
                {
                    "entry_id": pa.array(self._database.next_ids("entry_ids", len(shards)), pa.int64()),
                    "shard": pa.array(numbers, pa.int64()),
                    "live": pa.array([live] * len(shards), pa.bool_()),
                    "folder": pa.array(folders, pa.string()),
                    "name": pa.array(names, pa.string()),
                    "n_maps": pa.array(n_maps, pa.int64()),
                    "own": pa.array(own, pa.bool_()),
                    "written_at": pa.array([utc_now()] * len(shards), pa.timestamp("us")),
                }
            ),
        )
        after = set(self._folders())
        if before != after or self._n_shown() != len(after):
            # Of a folder that is lost, like one that is forgotten here, the view says so when it is read: it stays.
            with suppress(StoreError) if not live else nullcontext():
                self._show_shards()

    def _forget_shards(self) -> list[tuple[Folder, str]]:
        """Forget the shards that hold no map any more, inside a transaction; returns those that were its own."""
        rows = self._database.rows(
            f"SELECT folder, shard, name, n_maps, own FROM {_LIVE} AND placed.shard NOT IN "
            f"(SELECT {SHARD_OF} FROM obeql_store.maps WHERE map_id >= {FIRST_ID})"
        )
        self._note_shards([(folder, shard, name, n_maps, own) for folder, shard, name, n_maps, own in rows], live=False)
        return [(Folder(folder), name) for folder, _, name, _, own in rows if own]

    def _folders(self) -> list[str]:
        return [place for (place,) in self._database.rows(f"SELECT DISTINCT placed.folder FROM {_LIVE} ORDER BY 1")]

    def _n_shown(self) -> int:
        """Return how many folders the view names: too many after one was forgotten while files of another were lost."""
        ((sql,),) = self._database.rows(
            "SELECT sql FROM duckdb_views() WHERE database_name = current_database() AND schema_name = 'obeql_store' "
            "AND view_name = 'map_rows'"
        )
        return str(sql).count("read_parquet(")

    def _show_shards(self) -> None:
        """Make the view that has the maps of the table and of all shards, inside a transaction of the caller."""
        columns = ", ".join(f'"{name}"' for name in MAP_TABLE)
        view = f"CREATE OR REPLACE VIEW obeql_store.map_rows AS SELECT {columns} FROM obeql_store.maps"
        folders = self._folders()
        self._read_remote(folders)
        for place in folders:
            if not Folder(place).files(SUFFIX):
                raise StoreError(
                    f"there is no Parquet file of maps in the folder {place!r} any more; put them back, or drop the "
                    "runs of these maps"
                )
            view += " UNION ALL" if place != folders[0] else f" WHERE map_id < {FIRST_ID} UNION ALL"
            view += f" SELECT {columns} FROM read_parquet({_literal(_pattern(place))}, hive_partitioning = false)"
            if len(folders) > 1:  # a shard may have been copied from one to the other
                view += f" WHERE {SHARD_OF} IN (SELECT shard FROM {_LIVE} AND placed.folder = {_literal(place)})"
        self._database.run(view)

    def _read_remote(self, folders: Sequence[str]) -> None:
        """Let SQL of this process read the object stores among the folders."""
        for place in folders:
            if is_remote(place):
                self._database.reads(place.partition("://")[0])


def _pattern(place: str) -> str:
    """Return what finds the shards of a folder."""
    root = place.rstrip("/") if is_remote(place) else Path(place).as_posix()
    return f"{pattern_of(root)}/model_hash=*/*{SUFFIX}"


def pattern_of(path: str) -> str:
    """Return the pattern that stands for one path, which may hold characters that mean something in patterns."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
