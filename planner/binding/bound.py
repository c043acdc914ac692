"""A bound statement: what to compute, with every name looked up and every value checked.

Before: `bind` makes it. After: `optimize` and `lower` plan it, `multi_query` and `reuse` add what they know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from obeql.planner.aggregates import AggregateAim
from obeql.planner.catalog import ImageRecord, ModelRecord
from obeql.planner.class_selector import ClassSelector
from obeql.planner.logical.plan import LogicalNode, grids_of

__all__ = ["BoundExplain", "BoundPredict"]


@dataclass(frozen=True, slots=True)
class BoundExplain:
    """An EXPLAIN OCCLUDE whose names exist and whose values fit: what to compute, not yet how.

    `options` are the options of WITH with their values, defaults included; None where planning decides. `device` is
    `auto`, `cpu`, `cuda`, `cuda:<i>` or `cuda:*`. `approx` is {} or holds target, metric and confidence. `disabled`
    are the names of the rules and choices to leave out.
    """

    statement: str
    logical: LogicalNode
    model: ModelRecord
    images: tuple[ImageRecord, ...]
    options: Mapping[str, Any]
    device: str
    memory_bytes: int | None
    approx: Mapping[str, Any] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    #: whether stored cells may answer
    reuse: bool = True
    #: whether every cell was seen to be stored (`with_stored_cells`), so that the network is probably not needed
    complete: bool = False
    #: classes that coming statements of the script ask of the same windows, see `multi_query`
    also: tuple[ClassSelector, ...] = ()
    #: k of TOP k CELLS where not all cells are asked for with EXACT, and the seconds of WITHIN
    top_cells: int | None = None
    within_s: float | None = None
    #: what the SQL around APPROX asks of each map, where a sample of the windows is to tell it
    aggregates: AggregateAim | None = None
    #: address of the Ray cluster whose actors are the workers; None: processes of this machine
    cluster: str | None = None

    @property
    def n_windows(self) -> int:
        """Windows of all images and grids, stored ones included."""
        shown = [image.shown for image in self.images]
        return sum(grid.n_over(shown) for grid in grids_of(self.logical))

    @property
    def workers(self) -> int:
        """Workers that share the images; 0 where this process explains them, as it does a single or a stored one."""
        return 0 if self.complete or len(self.images) == 1 else min(self.options["workers"], len(self.images))

    @property
    def estimates(self) -> bool:
        """Return whether cells may be estimated rather than computed."""
        return bool(self.approx) or self.top_cells is not None or self.within_s is not None


@dataclass(frozen=True, slots=True)
class BoundPredict:
    """A PREDICT: the `k` classes of each image that the model ranks highest, or all of its values."""

    statement: str
    model: ModelRecord
    images: tuple[ImageRecord, ...]
    k: int
    device: str
