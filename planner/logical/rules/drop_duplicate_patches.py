"""Rule `drop_duplicate_patches`: patch=[16, 16x16] computes one map, not two."""

from __future__ import annotations

from dataclasses import replace

from obeql.planner.logical.plan import LogicalNode, UnionMaps, rewrite

__all__ = ["drop_duplicate_patches"]


def drop_duplicate_patches(plan: LogicalNode) -> LogicalNode:
    """Keep the first of equal inputs of a union. A map is known by image, patch and class, so the others repeat it.

    >>> from obeql.planner.logical.example import example_plan
    >>> from obeql.planner.logical.plan import print_tree
    >>> print(print_tree(drop_duplicate_patches(example_plan(patches=(8, 8)))))
    ScoreCells  classes=all  score=logit
    └─ Classify  model=net  precision=float32
       └─ Occlude  grid=8x8 every 8x8 (4x4 windows cover)  fill=mean
          └─ ScanImages  source=scans  images=()
    """

    def once(node: LogicalNode) -> LogicalNode:
        if not isinstance(node, UnionMaps):
            return node
        kept: list[LogicalNode] = []
        for branch in node.inputs:
            if branch not in kept:
                kept.append(branch)
        if len(kept) == len(node.inputs):
            return node
        return kept[0] if len(kept) == 1 else replace(node, inputs=tuple(kept))

    return rewrite(plan, once)
