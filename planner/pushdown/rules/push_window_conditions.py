"""Rule `push_window_conditions`: only the box of pixels that holds the windows of the answer is explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from obeql.planner.grid import WindowGrid, show_on
from obeql.planner.pushdown.facts import WINDOW_COLUMNS, Condition, Holds, MapFacts, Restriction

__all__ = ["push_window_conditions", "window_columns"]

#: Most windows that are looked at one by one.
_MOST_WINDOWS = 1_000_000


def push_window_conditions(facts: MapFacts, conditions: Sequence[Condition], holds: Holds) -> Restriction:
    """Restrict the statement to the smallest REGION around the windows that meet every condition on their place.

    >>> grid = WindowGrid.over((32, 32), (8, 8), (8, 8))
    >>> asked = Condition("top_px >= 16", frozenset(["top_px"]))
    >>> rows = lambda condition, columns: [n for n, top in enumerate(columns["top_px"]) if top >= 16]
    >>> push_window_conditions(MapFacts({}, [], None, [grid]), [asked], rows).region
    (16, 0, 16, 32)
    """
    asked = [each for each in conditions if each.columns and not each.tables and each.columns <= WINDOW_COLUMNS]
    if not asked:
        return Restriction()

    def refused(why: str) -> Restriction:
        return Restriction(left=tuple((each.sql, why) for each in asked))

    if facts.estimates:
        return refused("maps that are estimated need windows all over the image")
    if any(len(grid.axes) > 2 for grid in facts.grids):
        return refused("windows of volumes are not left out beforehand")
    columns = window_columns(facts.grids)
    n_windows = len(columns["row"])
    if n_windows > _MOST_WINDOWS:
        return refused("there are too many windows to look at")
    kept = set(range(n_windows)).intersection(*(holds(each, columns) for each in asked))
    pushed = tuple(("push_window_conditions", each.sql) for each in asked)
    if not kept:
        return Restriction(images=frozenset(), pushed=pushed)
    grid_of = columns["grid"]
    if {grid_of[row] for row in kept} != set(range(len(facts.grids))):
        return refused("no window of one of the patches meets it")
    top, left = (min(columns[name][row] for row in kept) for name in ("top_px", "left_px"))
    bottom = max(columns["top_px"][row] + columns["height_px"][row] for row in kept)
    right = max(columns["left_px"][row] + columns["width_px"][row] for row in kept)
    region = top, left, bottom - top, right - left
    spans = zip(columns["top_px"], columns["left_px"], columns["height_px"], columns["width_px"], strict=True)
    if all(y >= top and x >= left and y + h <= bottom and x + w <= right for y, x, h, w in spans):
        return Restriction(pushed=pushed)
    return Restriction(region=region, pushed=pushed)


def window_columns(grids: Sequence[WindowGrid]) -> dict[str, list[Any]]:
    """Return the columns of `windows` that say where a window is, for all windows of the grids, and `grid`."""
    found: dict[str, list[Any]] = {name: [] for name in (*sorted(WINDOW_COLUMNS), "grid")}
    for number, grid in enumerate(grids):
        for row, (top, height) in enumerate(zip(grid.rows.starts, grid.rows.lengths, strict=True)):
            for col, (left, width) in enumerate(zip(grid.cols.starts, grid.cols.lengths, strict=True)):
                patch = show_on(grid.size, grid.patch)
                place = {"row": row, "col": col, "top_px": top, "left_px": left, "height_px": height, "width_px": width}
                for name, value in {**place, "patch": patch, "grid": number}.items():
                    found[name].append(value)
    return found
