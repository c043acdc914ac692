"""Deletion and insertion curves in the store, beside the runs whose maps they judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from obeql.store.codec import utc_now
from obeql.store.driver import Database

__all__ = ["EvaluationRow", "EvaluationRows"]


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One curve of one map of a run: `probabilities` of its class after each of `shares` of the pixels.

    `measure` is `deletion` or `insertion`, `auc` the area under the curve, `fill` what hides pixels.
    """

    run_id: int
    map_id: int
    image_id: int
    measure: str
    auc: float
    steps: int
    fill: str
    shares: Sequence[float]
    probabilities: Sequence[float]


class EvaluationRows:
    """The part of a store that keeps curves; the view `evaluations` shows the latest of each kind."""

    _database: Database

    def put_evaluations(self, rows: Sequence[EvaluationRow]) -> None:
        """Store curves durably, in one commit."""
        if not rows:
            return
        batch = pa.table({name: [getattr(row, name) for row in rows] for name in EvaluationRow.__dataclass_fields__})
        with self._database.transaction():
            entries = self._database.next_ids("entry_ids", len(rows))
            batch = batch.append_column("entry_id", pa.array(entries, pa.int64()))
            times = pa.array([utc_now()] * len(rows), pa.timestamp("us"))
            self._database.append("evaluation_rows", batch.append_column("written_at", times))
