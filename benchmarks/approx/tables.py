"""Results as JSON with a line for each row, and as a Markdown table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine


def medians(rows: list[dict[str, Any]], keys: Sequence[str], counted: str) -> list[dict[str, Any]]:
    """Rows that agree in `keys`, as one: how many there are, as `counted`, their `cost` and how `true` they are."""
    found = []
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in rows):
        same = [row for row in rows if tuple(row[name] for name in keys) == key]
        true = [row["true"] for row in same]
        found.append(
            dict(zip(keys, key, strict=True))
            | {
                counted: len(same),
                "cost": round(statistics.median(row["cost"] for row in same), 3),
                "true median": round(statistics.median(true), 3),
                "true least": round(min(true), 3),
            }
        )
    return found


def write(out: Path | None, result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(str(row.get(key, "")) for key in head) + " |" for row in rows]
    print("\n".join(lines))
    if out is not None:
        parts = {"machine": machine(), **result}
        # A line for each row: there are hundreds of them.
        text = ",\n".join(f"{json.dumps(key)}: {_lines(value)}" for key, value in parts.items())
        out.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
        out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(json.dumps(each, separators=(",", ":")) for each in value) + "\n]"
