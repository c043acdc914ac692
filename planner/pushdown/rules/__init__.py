"""The rules of push-down, in the order they are tried: one list of their names, one file each.

A rule takes what is known of a statement inside SQL, the conditions that its rows have to meet, and a way to ask DuckDB
which rows do; it returns what is left of the statement. `SET obeql.disabled_rules` turns it off by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from obeql.planner.pushdown.facts import (
    CLASS_COLUMNS,
    IMAGE_COLUMNS,
    RUN_COLUMNS,
    WINDOW_COLUMNS,
    Condition,
    Holds,
    MapFacts,
    Restriction,
)
from obeql.planner.pushdown.rules.push_aggregates import push_aggregates
from obeql.planner.pushdown.rules.push_class_conditions import push_class_conditions
from obeql.planner.pushdown.rules.push_having import push_having
from obeql.planner.pushdown.rules.push_image_conditions import push_image_conditions
from obeql.planner.pushdown.rules.push_joined_predictions import push_joined_predictions
from obeql.planner.pushdown.rules.push_run_conditions import push_run_conditions
from obeql.planner.pushdown.rules.push_top_cells import push_top_cells
from obeql.planner.pushdown.rules.push_window_conditions import push_window_conditions

__all__ = ["PUSHDOWN_NAMES", "PUSHDOWN_RULES", "PushdownRule", "restricted"]

PushdownRule = Callable[[MapFacts, Sequence[Condition], Holds], Restriction]

PUSHDOWN_RULES: tuple[PushdownRule, ...] = (
    push_image_conditions,
    push_joined_predictions,
    push_top_cells,
    push_aggregates,
    push_having,
    push_class_conditions,
    push_window_conditions,
    push_run_conditions,
)
PUSHDOWN_NAMES: tuple[str, ...] = tuple(rule.__name__ for rule in PUSHDOWN_RULES)


def restricted(
    facts: MapFacts, conditions: Sequence[Condition], holds: Holds, disabled: Collection[str] = ()
) -> Restriction:
    """Return what all rules leave of a statement, and of each condition what became of it."""
    found: list[Restriction] = []
    for rule in PUSHDOWN_RULES:
        if rule.__name__ not in disabled:
            found.append(rule(facts, conditions, holds))
            facts = _after(found[-1], facts)
    images = [each.images for each in found if each.images is not None]
    pushed = tuple(entry for each in found for entry in each.pushed)
    taken = {text for _, text in pushed}
    reasons = {text: why for each in found for text, why in each.left if text not in taken}
    unnamed = {each.sql: _why_not(each) for each in conditions if each.sql not in taken and each.sql not in reasons}
    return Restriction(
        images=frozenset.intersection(*images) if images else None,
        classes=next((each.classes for each in found if each.classes is not None), None),
        region=next((each.region for each in found if each.region is not None), None),
        top_cells=next((each.top_cells for each in found if each.top_cells is not None), None),
        aggregates=next((each.aggregates for each in found if each.aggregates is not None), None),
        pushed=pushed,
        left=tuple((reasons | unnamed).items()),
    )


def _after(restriction: Restriction, facts: MapFacts) -> MapFacts:
    """Return what later rules are to know of a statement of which something was left out."""
    if restriction.aggregates is not None:  # whatever windows are left: a sample tells what it tells of them
        facts = replace(facts, estimates=False)
    if restriction.images is None:
        return facts
    rows = [row for row, place in enumerate(facts.places) if place in restriction.images]
    images = {name: [values[row] for row in rows] for name, values in facts.images.items()}
    return replace(facts, images=images, places=[facts.places[row] for row in rows])


def _why_not(condition: Condition) -> str:
    """Return why no rule has taken a condition."""
    if not condition.columns:
        return "it is about no column of the windows"
    if condition.columns - IMAGE_COLUMNS - CLASS_COLUMNS - WINDOW_COLUMNS - RUN_COLUMNS:
        return "it is about what is known when windows are computed"
    if condition.tables and condition.columns - IMAGE_COLUMNS - CLASS_COLUMNS:
        return "it compares windows with predictions"
    if condition.columns & WINDOW_COLUMNS and condition.columns - WINDOW_COLUMNS:
        return "it is about a window and its image or class together"
    if condition.columns & RUN_COLUMNS and condition.columns - RUN_COLUMNS:
        return "it is about the run and its images, classes or windows together"
    return "its rule is switched off"
