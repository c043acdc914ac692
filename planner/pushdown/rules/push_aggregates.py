"""Rule `push_aggregates`: aggregates of estimated maps are estimated from a sample of the windows, with an error."""

from __future__ import annotations

from collections.abc import Sequence

from obeql.planner.aggregates import AggregateAim, Column
from obeql.planner.pushdown.aims import GroupAim
from obeql.planner.pushdown.facts import (
    CLASS_COLUMNS,
    IMAGE_COLUMNS,
    WINDOW_COLUMNS,
    Condition,
    Holds,
    MapFacts,
    Restriction,
)

__all__ = ["push_aggregates", "sampled"]


def push_aggregates(facts: MapFacts, conditions: Sequence[Condition], _holds: Holds) -> Restriction:
    """Compute as many windows of each map as the error of its sums, means, counts and shares needs.

    >>> from obeql.planner.aggregates import Mean
    >>> from obeql.planner.grid import WindowGrid
    >>> mean = GroupAim((Column("importance"),), (("avg(importance)", Mean(0)),), (), frozenset(["image"]), "avg")
    >>> approx, grids = {"target": 0.9, "confidence": 0.95}, [WindowGrid.over((64, 64), (8, 8), (2, 2))]
    >>> facts = MapFacts({"image": ["a"]}, [0], None, grids, approx=approx, n_classes=1, groups=mean)
    >>> push_aggregates(facts, [], lambda condition, rows: []).aggregates.written
    'avg(importance) with an error of at most 0.1'
    """
    if isinstance(facts.groups, GroupAim) and facts.groups.decisions:
        return Restriction()
    return sampled(facts, conditions, "push_aggregates")


def sampled(facts: MapFacts, conditions: Sequence[Condition], rule: str) -> Restriction:
    """Return what a sample has to tell, or why it cannot; nothing where the SELECT makes no aggregates of APPROX."""
    groups = facts.groups
    if not facts.approx or groups is None:
        return Restriction()
    if isinstance(groups, str):
        return Restriction(left=(("", groups),))
    kept = [each for each in conditions if not each.columns - IMAGE_COLUMNS - CLASS_COLUMNS]
    of_place = [each for each in conditions if each.columns and not each.tables and each.columns <= WINDOW_COLUMNS]
    others = [each.sql for each in conditions if each not in kept and each not in of_place]
    why_not = facts.unread or _no_map_each(groups.groups, facts)
    if others:
        why_not = f"{others[0]} in WHERE is about windows that are not computed; FILTER takes it"
    elif not facts.is_alone:
        why_not = "workers compute the windows, and one process asks what a sample tells"
    if why_not:
        return Restriction(left=((groups.text, why_not),))
    within = " AND ".join(f"({each.sql})" for each in of_place)
    columns = [Column(f"CASE WHEN {within} THEN {each.sql} END") if within else each for each in groups.columns]
    aim = AggregateAim(
        tuple(columns),
        groups.selected,
        groups.decisions,
        1.0 - facts.approx["target"],
        facts.approx["confidence"],
        groups.all_must_hold,
    )
    return Restriction(aggregates=aim, pushed=((rule, groups.text),))


def _no_map_each(groups: frozenset[str], facts: MapFacts) -> str:
    """Return why a group is not the windows of one map; empty where it is."""
    names = facts.images.get("image", ())
    of_image = {"image_id", "path"} | ({"image"} if len(set(names)) == len(set(facts.places)) else set())
    if len(set(facts.places)) > 1 and not groups & of_image:
        return "a group has windows of several images"
    if facts.n_classes != 1 and not groups & CLASS_COLUMNS:
        return "a group has windows of several classes"
    if len(facts.grids) > 1:
        return "there are several patches"
    if len(facts.places) > len(set(facts.places)):
        return "an image has several labels"
    return "" if groups <= IMAGE_COLUMNS | CLASS_COLUMNS else "groups divide the windows of a map"
