"""What a clause is called in a message: as it is written in a statement, or by the keyword that Python calls it with.

Used wherever binding words an error. A tree that Python's keywords built comes without a text, and there is no clause
to point at; whoever called `db.explain(.., within=0)` reads of `within`.
"""

from __future__ import annotations

from obeql.grammar import syntax
from obeql.planner.binding.error_location import is_written

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
    "WINDOWS": "windows",
    "WITHIN": "within",
}


def clause(name: str, node: syntax.Node) -> str:
    """Return how a clause is called in a message about `node`: as written in a text, or as a keyword of Python."""
    return name if is_written(node) else _KEYWORDS[name]
