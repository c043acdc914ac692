"""Rule `push_image_conditions`: images of which no window can be in the answer are not explained."""

from __future__ import annotations

from collections.abc import Sequence

from obeql.planner.pushdown.facts import (
    CLASS_COLUMNS,
    IMAGE_COLUMNS,
    Condition,
    Holds,
    MapFacts,
    Restriction,
    cross_product,
)

__all__ = ["images_that_meet", "push_image_conditions"]


def push_image_conditions(facts: MapFacts, conditions: Sequence[Condition], holds: Holds) -> Restriction:
    """Keep the images that meet every condition on their columns, with any class where one is in it, too.

    >>> facts = MapFacts({"label": ["glioma", "none"]}, [0, 1], None, ())
    >>> asked = Condition("label = 'none'", frozenset(["label"]))
    >>> push_image_conditions(facts, [asked], lambda condition, rows: [1]).images
    frozenset({1})
    """
    kept = frozenset(facts.places)
    pushed, left = [], []
    for condition in conditions:
        if condition.tables or not condition.columns & IMAGE_COLUMNS:
            continue
        if condition.columns - IMAGE_COLUMNS - CLASS_COLUMNS:
            continue
        found = images_that_meet(condition, facts, holds)
        if isinstance(found, str):
            left.append((condition.sql, found))
        else:
            kept &= found
            pushed.append(("push_image_conditions", condition.sql))
    return Restriction(images=kept if pushed else None, pushed=tuple(pushed), left=tuple(left))


def images_that_meet(condition: Condition, facts: MapFacts, holds: Holds) -> frozenset[int] | str:
    """Return the places of the images that meet a condition, with any class where it names one; or why none is told."""
    if facts.timed:
        return "WITHIN divides the time among all images"
    columns, places = dict(facts.images), facts.places
    if condition.columns & CLASS_COLUMNS:
        product = cross_product(facts)
        if product is None:
            return "the classes are chosen image by image"
        columns, places, _ = product
    if "image_id" in condition.columns and None in facts.images["image_id"]:
        return "images that are new have no id yet"
    return frozenset(places[row] for row in holds(condition, columns))
