"""Rule `push_class_conditions`: classes that no row of the answer can have get no map."""

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

__all__ = ["push_class_conditions"]


def push_class_conditions(facts: MapFacts, conditions: Sequence[Condition], holds: Holds) -> Restriction:
    """Keep the classes that meet every condition on them, with any image where its columns are in it, too.

    >>> facts = MapFacts({"label": ["ant"]}, [0], [(0, "ant"), (1, "bee")], ())
    >>> asked = Condition("class_name = 'bee'", frozenset(["class_name"]))
    >>> push_class_conditions(facts, [asked], lambda condition, rows: [1]).classes
    (1,)
    """
    pushed, left = [], []
    kept = None if facts.classes is None else {number for number, _ in facts.classes}
    for condition in conditions:
        if condition.tables or not condition.columns & CLASS_COLUMNS:
            continue
        if condition.columns - IMAGE_COLUMNS - CLASS_COLUMNS:
            continue
        if kept is None or facts.classes is None:
            left.append((condition.sql, "the classes are chosen image by image"))
            continue
        if facts.estimates:
            left.append((condition.sql, "maps that are estimated share the windows of all classes"))
            continue
        columns: dict[str, Sequence[object]] = {
            "class_id": [number for number, _ in facts.classes],
            "class_name": [name for _, name in facts.classes],
        }
        ids: Sequence[int] = [number for number, _ in facts.classes]
        if condition.columns & IMAGE_COLUMNS:
            product = cross_product(facts)
            if product is None or ("image_id" in condition.columns and None in facts.images["image_id"]):
                continue
            columns, _, ids = product
        kept &= {ids[row] for row in holds(condition, columns)}
        pushed.append(("push_class_conditions", condition.sql))
    if kept is None or facts.classes is None or len(kept) == len({number for number, _ in facts.classes}):
        return Restriction(pushed=tuple(pushed), left=tuple(left))
    classes = tuple(number for number, _ in facts.classes if number in kept)
    return Restriction(classes=classes, pushed=tuple(pushed), left=tuple(left))
