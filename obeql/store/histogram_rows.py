"""Histograms in the store: written with the maps that they are of, deleted with them, made for files of before.

Before it: `histograms` has counted the cells of maps. After it: `runs` and `maps`, whose changes it follows, and SQL
that bounds counts.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from obeql.store.driver import Database
from obeql.store.histograms import histogram_batch, histograms_of

__all__ = ["FIRST_ID", "LACKING", "HistogramRows"]

#: Ids of maps in shards begin here; those bring their histograms with them.
FIRST_ID: Final = 1 << 62
#: In SQL, whether some map of the file has no histogram. Those in shards may have none.
LACKING: Final = (
    f"(SELECT count(*) FROM obeql_store.maps WHERE map_id < {FIRST_ID}) <> "
    f"(SELECT count(*) FROM obeql_store.histogram_rows WHERE map_id < {FIRST_ID})"
)
#: Maps whose histograms are made at once, of those that lack them: a row group.
_AT_ONCE = 2048


class HistogramRows:
    """The part of a store that keeps histograms."""

    _database: Database

    def _write_histograms(self, maps: pa.Table) -> None:
        """Keep the histograms of maps that are written, rows of the table `maps`, in the same transaction."""
        self._database.append("histogram_rows", histogram_batch(maps["map_id"].to_pylist(), histograms_of(maps)))

    def _forget_histograms(self) -> None:
        """Delete the histograms of maps that are gone, inside a transaction."""
        self._database.run(
            "DELETE FROM obeql_store.histogram_rows WHERE map_id NOT IN (SELECT map_id FROM obeql_store.maps)"
        )

    def _complete_histograms(self) -> None:
        """Make the histograms that maps of the file lack: those of earlier versions, and of a process that was killed.

        A row group is read, written and committed at a time; what is interrupted goes on when the file is opened again.
        """
        lacking = (
            f"SELECT map_id FROM obeql_store.maps WHERE map_id < {FIRST_ID} "
            "AND map_id NOT IN (SELECT map_id FROM obeql_store.histogram_rows) ORDER BY map_id"
        )
        ids = [map_id for (map_id,) in self._database.rows(lacking)]
        for start in range(0, len(ids), _AT_ONCE):
            part = pa.table({"map_id": pa.array(ids[start : start + _AT_ONCE], pa.int64())})
            maps = self._database.arrow_beside(
                "SELECT map_id, clean_log_odds, n_rows, n_cols, log_odds FROM obeql_store.maps "
                "WHERE map_id IN (SELECT map_id FROM obeql_batch)",
                part,
            )
            with self._database.transaction():
                self._write_histograms(maps)
