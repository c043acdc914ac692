"""Rule `push_top_cells`: of estimated maps of which the most important windows are kept, only those are looked for."""

from __future__ import annotations

from collections.abc import Sequence

from obeql.planner.pushdown.facts import CLASS_COLUMNS, IMAGE_COLUMNS, Condition, Holds, MapFacts, Restriction

__all__ = ["push_top_cells"]

#: Share of a map's windows from which on a search for them saves nothing.
_MOST_SHARE = 0.05


def push_top_cells(facts: MapFacts, conditions: Sequence[Condition], _holds: Holds) -> Restriction:
    """Look for the TOP k CELLS of each map in place of APPROX where ORDER BY importance DESC LIMIT k keeps no others.

    >>> from obeql.planner.grid import WindowGrid
    >>> from obeql.planner.pushdown.aims import TopAim
    >>> grid = WindowGrid.over((64, 64), (8, 8), (2, 2))
    >>> top = TopAim(10, "ORDER BY importance DESC LIMIT 10")
    >>> facts = MapFacts({}, [0], None, [grid], approx={"target": 0.9, "confidence": 0.95}, top=top)
    >>> push_top_cells(facts, [], lambda condition, rows: []).top_cells
    10
    """
    top = facts.top
    if not facts.approx or top is None:
        return Restriction()
    if isinstance(top, str):
        return Restriction(left=(("", top),))
    n_windows = min(grid.n_windows for grid in facts.grids)
    # A condition on the image or the class keeps a map or leaves it out as a whole.
    partly = [each.sql for each in conditions if each.columns - IMAGE_COLUMNS - CLASS_COLUMNS]
    why_not = facts.unread
    if partly:
        why_not = f"{partly[0]} leaves out windows that may be among the most important ones"
    elif top.k > _MOST_SHARE * n_windows:
        why_not = f"{top.k} of {n_windows:,} windows are too many for a search to save any"
    elif facts.approx["confidence"] > facts.search_confidence:
        why_not = f"TOP .. CELLS is sure at {facts.search_confidence:g}, less than CONFIDENCE asks for"
    if why_not:
        return Restriction(left=((top.text, why_not),))
    return Restriction(top_cells=top.k, pushed=(("push_top_cells", top.text),))
