"""Rule `drop_duplicate_classes`: FOR CLASSES (0, 'glioma', 0) asks for each class once."""

from __future__ import annotations

from dataclasses import replace

from obeql.planner.class_selector import ClassSelector
from obeql.planner.logical.plan import LogicalNode, ScoreCells, rewrite

__all__ = ["drop_duplicate_classes"]


def drop_duplicate_classes(plan: LogicalNode) -> LogicalNode:
    """Keep the first of equal classes: a map is known by image, patch and class, so the others repeat it.

    >>> from obeql.planner.logical.example import example_plan
    >>> from obeql.planner.logical.plan import print_tree
    >>> print(print_tree(drop_duplicate_classes(example_plan(classes=ClassSelector("ids", (2, 0, 2))))))
    ScoreCells  classes=ids(2, 0)  score=logit
    └─ Classify  model=net  precision=float32
       └─ Occlude  grid=8x8 every 8x8 (4x4 windows cover)  fill=mean
          └─ ScanImages  source=scans  images=()
    """

    def once(node: LogicalNode) -> LogicalNode:
        match node:
            case ScoreCells(classes=ClassSelector("ids", ids)) if len(set(ids)) < len(ids):
                return replace(node, classes=ClassSelector("ids", tuple(dict.fromkeys(ids))))
        return node

    return rewrite(plan, once)
