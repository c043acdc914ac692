"""Small facts that outlive a session: settings, and rates measured once per device."""

from __future__ import annotations

import json
from typing import Any

from obeql.store.codec import dump
from obeql.store.driver import Database

__all__ = ["FactRows"]


class FactRows:
    """The part of a store that keeps facts as (topic, key, value); a value is anything JSON can say."""

    _database: Database

    def remember(self, topic: str, key: str, value: Any) -> None:
        """Store a fact; it takes the place of an earlier one, and None removes it."""
        with self._database.transaction():
            self._database.append_row(
                "fact_rows",
                entry_id=self._database.next_ids("entry_ids")[0],
                topic=topic,
                key=key,
                value=dump(value),
            )

    def fact(self, topic: str, key: str) -> Any:
        """Return the value of a fact; None where there is none."""
        rows = self._database.rows(
            "SELECT value FROM obeql_store.fact_rows WHERE topic = ? AND key = ? ORDER BY entry_id DESC LIMIT 1",
            [topic, key],
        )
        return json.loads(rows[0][0]) if rows else None

    def recalled(self, topic: str) -> dict[str, Any]:
        """Return the facts of a topic by key; lists come back for tuples."""
        rows = self._database.rows(
            "SELECT key, value FROM obeql_store.fact_rows WHERE topic = ? "
            "QUALIFY row_number() OVER (PARTITION BY key ORDER BY entry_id DESC) = 1 ORDER BY key",
            [topic],
        )
        facts = {key: json.loads(value) for key, value in rows}
        return {key: value for key, value in facts.items() if value is not None}
