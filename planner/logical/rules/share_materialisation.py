"""Rule `share_materialisation`: the maps of patch=[8, 16, 32] read one clean pass of each image.

Multi-query optimization: the clean pass is the materialised view all windows of an image are computed from, and it
depends on image and model, not on the patch.
"""

from __future__ import annotations

from dataclasses import replace

from obeql.planner.logical.plan import BatchedQueries, Classify, LogicalNode, Occlude, ScoreCells, UnionMaps, rewrite

__all__ = ["share_materialisation"]


def share_materialisation(plan: LogicalNode) -> LogicalNode:
    """Turn a union of maps that differ in nothing but their windows into one `BatchedQueries`.

    >>> from obeql.planner.logical.example import example_plan
    >>> from obeql.planner.logical.plan import print_tree
    >>> print(print_tree(share_materialisation(example_plan(patches=(8, 16)))))
    ScoreCells  classes=all  score=logit
    └─ Classify  model=net  precision=float32
       └─ BatchedQueries  grids=8x8 every 8x8 (4x4 windows cover),
          │               16x16 every 8x8 (3x3 windows cover)  fill=mean
          └─ ScanImages  source=scans  images=()
    """

    def share(node: LogicalNode) -> LogicalNode:
        if not isinstance(node, UnionMaps):
            return node
        occlusions = [_occlusion(branch) for branch in node.inputs]
        first = occlusions[0]
        score = node.inputs[0]
        if first is None or not isinstance(score, ScoreCells) or not isinstance(score.input, Classify):
            return node
        for branch, occlusion in zip(node.inputs, occlusions, strict=True):
            if occlusion is None or _with_grid_of(branch, first) != score:
                return node
        grids = tuple(occlusion.grid for occlusion in occlusions if occlusion is not None)
        batched = BatchedQueries(first.input, grids, first.fill)
        return replace(score, input=replace(score.input, input=batched))

    return rewrite(plan, share)


def _occlusion(branch: LogicalNode) -> Occlude | None:
    match branch:
        case ScoreCells(input=Classify(input=Occlude() as occlusion)):
            return occlusion
    return None


def _with_grid_of(branch: LogicalNode, other: Occlude) -> LogicalNode:
    """Return the branch with the windows of `other`, so that equality tells whether anything else differs."""
    match branch:
        case ScoreCells(input=Classify(input=Occlude() as occlusion) as classify):
            moved = replace(occlusion, grid=other.grid)
            return replace(branch, input=replace(classify, input=moved))
    return branch
