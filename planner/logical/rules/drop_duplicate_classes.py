"""Rule `drop_duplicate_classes`: FOR CLASSES (0, 'glioma', 0) asks for each class once."""

from __future__ import annotations

from dataclasses import replace

from obeql.planner.logical.plan import LogicalNode, ScoreCells, rewrite

__all__ = ["drop_duplicate_classes"]


def drop_duplicate_classes(plan: LogicalNode) -> LogicalNode:
    """Keep the first of equal classes: a map is known by image, patch and class, so the others repeat it."""

    def once(node: LogicalNode) -> LogicalNode:
        match node:
            case ScoreCells(classes=("ids", ids)) if len(set(ids)) < len(ids):
                return replace(node, classes=("ids", tuple(dict.fromkeys(ids))))
        return node

    return rewrite(plan, once)
