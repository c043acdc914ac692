"""A small logical plan, for the examples in the docstrings of rules."""

from __future__ import annotations

from collections.abc import Sequence

from obeql.planner.catalog import ModelRecord, Preprocessing
from obeql.planner.class_selector import ALL, ClassSelector
from obeql.planner.geometry import LayerSpec, Network
from obeql.planner.grid import WindowGrid
from obeql.planner.logical.plan import (
    CachedCells,
    Classify,
    LogicalNode,
    Occlude,
    ScanImages,
    ScoreCells,
    UnionMaps,
)

__all__ = ["example_plan"]


def example_plan(patches: Sequence[int] = (8,), classes: ClassSelector = ALL, n_stored: int = 0) -> LogicalNode:
    """Return a plan over an input of 32x32 pixels, as binding makes it; of each grid, `n_stored` cells are stored."""
    layers = LayerSpec("image", "image", "source", (), (3, 32, 32)), LayerSpec("linear", "linear", "global", (0,), (2,))
    model = ModelRecord("net", "hash", None, {}, (), "softmax", Preprocessing((32, 32)), Network(layers))
    grids = [WindowGrid.over((32, 32), (patch, patch), (8, 8)) for patch in patches]
    held = tuple(CachedCells(grid, n_stored, ()) for grid in grids)
    scan = ScanImages("scans", (), held)
    maps = tuple(
        ScoreCells(Classify(Occlude(scan, grid, "mean"), model, "float32"), classes, "logit") for grid in grids
    )
    return maps[0] if len(maps) == 1 else UnionMaps(maps)
