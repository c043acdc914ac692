"""What a clause is called in a message: as it is written in a statement, or by the keyword that Python calls it with.

Used wherever binding words an error. A tree that Python's keywords built comes without a text, and there is no clause
to point at; whoever called `db.explain(.., within=0)` reads of `within`.
"""

from __future__ import annotations

__all__ = ["clause"]

_KEYWORDS = {
    "APPROX": "approx",
    "CONFIDENCE": "confidence",
    "EXACT": "exact",
    "FOR ALL": "classes='all'",
    "FOR CLASS": "classes",
    "FOR LABEL": "classes='label'",
    "FOR TOP": "top",
    "INTO": "into",
    "METRIC": "metric",
    "NO REUSE": "reuse=False",
    "ON": "device",
    "REGION": "region",
    "TOP .. CELLS": "top_cells",
    "USING": "model",
    "WITHIN": "within",
}


def clause(name: str, text: str) -> str:
    """Return how a clause is called in a message about a statement that was read from `text`, empty for keywords."""
    return name if text else _KEYWORDS[name]
