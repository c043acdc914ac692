"""Rule `push_joined_predictions`: images whose predictions leave them out are not explained (a cascade)."""

from __future__ import annotations

from collections.abc import Sequence

from obeql.planner.pushdown.facts import CLASS_COLUMNS, IMAGE_COLUMNS, Condition, Holds, MapFacts, Restriction
from obeql.planner.pushdown.rules.push_image_conditions import images_that_meet

__all__ = ["push_joined_predictions"]


def push_joined_predictions(facts: MapFacts, conditions: Sequence[Condition], holds: Holds) -> Restriction:
    """Keep the images that a join with predictions can find, or that a query over predictions names.

    >>> from obeql.planner.pushdown.facts import PredictionJoin
    >>> join = PredictionJoin("#9", "path", (Condition("p.probability < 0.7", frozenset(["probability"])),))
    >>> facts = MapFacts({"path": ["a.png", "b.png"]}, [0, 1], None, (), joined={join: frozenset(["b.png"])})
    >>> push_joined_predictions(facts, [], lambda condition, rows: []).images
    frozenset({1})
    """
    kept = frozenset(facts.places)
    pushed, left = [], []
    for join, values in facts.joined.items():
        said = " AND ".join(condition.sql for condition in join.conditions) or f"joined by {join.column}"
        if facts.timed:
            left.append((said, "WITHIN divides the time among all images"))
            continue
        given = facts.images[join.column]
        # An image that has no value yet is new to the database: predictions would have made it known.
        kept &= {place for place, value in zip(facts.places, given, strict=True) if value in values}
        pushed.append(("push_joined_predictions", said))
    for condition in conditions:
        if not condition.tables or condition.columns - IMAGE_COLUMNS - CLASS_COLUMNS:
            continue
        made = condition.tables <= facts.predicted
        found = images_that_meet(condition, facts, holds) if made else "the predictions are made when the SQL runs"
        if isinstance(found, str):
            left.append((condition.sql, found))
        else:
            kept &= found
            pushed.append(("push_joined_predictions", condition.sql))
    return Restriction(images=kept if pushed else None, pushed=tuple(pushed), left=tuple(left))
