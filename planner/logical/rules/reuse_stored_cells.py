"""Rule `reuse_stored_cells`: cells that the store holds exactly are not computed again.

Answering queries from materialised views: a window's value depends on image, model, preprocessing, patch, fill,
precision and position, so a map of stride 4 answers one of stride 8, or of a REGION, completely.
"""

from __future__ import annotations

from dataclasses import replace

from obeql.planner.logical.plan import (
    Classify,
    LogicalNode,
    ReuseCells,
    ScanImages,
    ScoreCells,
    find,
    grids_of,
    rewrite,
)

__all__ = ["reuse_stored_cells"]


def reuse_stored_cells(plan: LogicalNode) -> LogicalNode:
    """Read stored cells before classifying, where the scan says that the store holds any of the grids' cells.

    >>> from obeql.planner.logical.example import example_plan
    >>> from obeql.planner.logical.plan import print_tree
    >>> print(print_tree(reuse_stored_cells(example_plan(n_stored=5))))
    ScoreCells  classes=all  score=logit
    └─ ReuseCells  held=5 cells
       └─ Classify  model=net  precision=float32
          └─ Occlude  grid=8x8 every 8x8 (4x4 windows cover)  fill=mean
             └─ ScanImages  source=scans  images=()
    """

    def reuse(node: LogicalNode) -> LogicalNode:
        if not isinstance(node, ScoreCells) or not isinstance(node.input, Classify):
            return node
        (scan,) = find(node, ScanImages)
        if not any(each.n_cells for each in scan.held):
            return node
        held = tuple(next(each for each in scan.held if each.grid == grid) for grid in grids_of(node))
        return replace(node, input=ReuseCells(node.input, held))

    return rewrite(plan, reuse)
