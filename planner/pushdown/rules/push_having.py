"""Rule `push_having`: an image is decided as soon as a sample of its windows decides HAVING."""

from __future__ import annotations

from collections.abc import Sequence

from obeql.planner.pushdown.aims import GroupAim
from obeql.planner.pushdown.facts import Condition, Holds, MapFacts, Restriction
from obeql.planner.pushdown.rules.push_aggregates import sampled

__all__ = ["push_having"]


def push_having(facts: MapFacts, conditions: Sequence[Condition], _holds: Holds) -> Restriction:
    """Compute as many windows of each map as it takes to tell on which side of HAVING its aggregates are.

    >>> from obeql.planner.aggregates import Arithmetic, Column, Mean, Number
    >>> from obeql.planner.grid import WindowGrid
    >>> above = Arithmetic("-", Mean(0), Number(0.1))
    >>> asked = GroupAim((Column("importance"),), (), (above,), frozenset(["image"]), "avg(importance) > 0.1")
    >>> approx, grids = {"target": 0.9, "confidence": 0.95}, [WindowGrid.over((64, 64), (8, 8), (2, 2))]
    >>> facts = MapFacts({"image": ["a"]}, [0], None, grids, approx=approx, n_classes=1, groups=asked)
    >>> push_having(facts, [], lambda condition, rows: []).aggregates.written
    'HAVING decided'
    """
    if not isinstance(facts.groups, GroupAim) or not facts.groups.decisions:
        return Restriction()
    return sampled(facts, conditions, "push_having")
