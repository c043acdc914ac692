"""Results as JSON with a line for each row, and as a Markdown table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.machine import machine


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
