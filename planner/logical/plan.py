"""Logical plan: what a statement asks for, as a tree of frozen nodes, the images at the leaves.

Before: `bind` builds the tree from names that exist. After: `optimize` rewrites it, `lower` chooses how each node is
carried out. A node is its docstring and its fields; fields that hold nodes are its inputs, the others are printed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from obeql.planner.catalog import ImageRecord, ModelRecord, Preprocessing
from obeql.planner.class_selector import ClassSelector
from obeql.planner.grid import WindowGrid, show_on, shown_axes
from obeql.planner.regions import RegionGrid

__all__ = [
    "BatchedQueries",
    "CachedCells",
    "Classify",
    "LogicalNode",
    "Occlude",
    "Preprocess",
    "ReuseCells",
    "ScanImages",
    "ScoreCells",
    "StoreRun",
    "UnionMaps",
    "find",
    "grids_of",
    "inputs_of",
    "print_tree",
    "rewrite",
    "show_channels",
    "show_grid",
]


@dataclass(frozen=True, slots=True)
class LogicalNode:
    """Base of all logical nodes."""


@dataclass(frozen=True, slots=True)
class CachedCells:
    """How many of a grid's windows, over all images, are stored for every asked class; by run, most first."""

    grid: WindowGrid
    n_cells: int
    by_run: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ScanImages(LogicalNode):
    """Read the images of the source in its order. `held` is what the store has of them, one a grid."""

    source: str
    images: tuple[ImageRecord, ...]
    held: tuple[CachedCells, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Preprocess(LogicalNode):
    """Turn each image into the model's input, (C, H, W)."""

    input: LogicalNode
    preprocessing: Preprocessing


@dataclass(frozen=True, slots=True)
class Occlude(LogicalNode):
    """Hide the windows of one grid, each in its own copy of the image."""

    input: LogicalNode
    grid: WindowGrid
    fill: str


@dataclass(frozen=True, slots=True)
class BatchedQueries(LogicalNode):
    """Occlude with several grids whose windows share one clean pass (the materialised view) of each image."""

    input: LogicalNode
    grids: tuple[WindowGrid, ...]
    fill: str


@dataclass(frozen=True, slots=True)
class Classify(LogicalNode):
    """Give every occluded image, and the clean one, its logits (K,)."""

    input: LogicalNode
    model: ModelRecord
    precision: str


@dataclass(frozen=True, slots=True)
class ReuseCells(LogicalNode):
    """Take the cells that are stored; only the others are occluded and classified."""

    input: LogicalNode
    held: tuple[CachedCells, ...]


@dataclass(frozen=True, slots=True)
class ScoreCells(LogicalNode):
    """Keep the scores of the asked classes: one map for each image, grid and class."""

    input: LogicalNode
    classes: ClassSelector
    score: str


@dataclass(frozen=True, slots=True)
class UnionMaps(LogicalNode):
    """All maps of the inputs, in their order."""

    inputs: tuple[LogicalNode, ...]


@dataclass(frozen=True, slots=True)
class StoreRun(LogicalNode):
    """Store the maps as one run; None where the run has no name."""

    input: LogicalNode
    name: str | None
    replace: bool


Wanted = TypeVar("Wanted", bound=LogicalNode)


def inputs_of(node: LogicalNode) -> tuple[LogicalNode, ...]:
    """Return the nodes that `node` reads, in order."""
    found: list[LogicalNode] = []
    for entry in fields(node):
        value = getattr(node, entry.name)
        found.extend(
            item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, LogicalNode)
        )
    return tuple(found)


def find(node: LogicalNode, kind: type[Wanted]) -> Iterator[Wanted]:
    """Yield the nodes of one kind, `node` first, then its inputs from left to right."""
    if isinstance(node, kind):
        yield node
    for child in inputs_of(node):
        yield from find(child, kind)


def grids_of(node: LogicalNode) -> tuple[WindowGrid, ...]:
    """Return the grids of windows that a plan occludes with, from left to right."""
    found: list[WindowGrid] = []
    for child in find(node, LogicalNode):
        if isinstance(child, Occlude):
            found.append(child.grid)
        elif isinstance(child, BatchedQueries):
            found.extend(child.grids)
    return tuple(found)


def rewrite(node: LogicalNode, change: Callable[[LogicalNode], LogicalNode]) -> LogicalNode:
    """Return the plan with `change` applied to every node, inputs first; the same object where nothing changed."""
    moved: dict[str, object] = {}
    for entry in fields(node):
        value = getattr(node, entry.name)
        if isinstance(value, LogicalNode):
            new: object = rewrite(value, change)
        elif isinstance(value, tuple) and value and all(isinstance(item, LogicalNode) for item in value):
            items = tuple(rewrite(item, change) for item in value)
            same = all(a is b for a, b in zip(items, value, strict=True))
            new = value if same else items
        else:
            continue
        if new is not value:
            moved[entry.name] = new
    return change(replace(node, **moved) if moved else node)


#: A no-break space keeps what belongs together on one line.
_KEEP = "\u00a0"


def print_tree(node: LogicalNode, width: int = 96) -> str:
    """Return the tree as text, one node a line, its fields behind it, broken at `width` columns."""
    return "\n".join(_lines(node, "", "", width))


def _lines(node: LogicalNode, lead: str, follow: str, width: int) -> Iterator[str]:
    children = inputs_of(node)
    shown = [
        f"{entry.name}={text}".replace(" ", _KEEP).replace(f",{_KEEP}", ", ")
        for entry in fields(node)
        if entry.repr and not _holds_nodes(value := getattr(node, entry.name)) and (text := _show(value))
    ]
    name = type(node).__name__
    bar = "│ " if children else "  "
    hanging = follow + bar + " " * len(name)
    for line in textwrap.wrap(
        f"{name}  {'  '.join(shown)}".rstrip(),
        width,
        initial_indent=lead,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    ):
        yield line.replace(_KEEP, " ")
    for position, child in enumerate(children):
        last = position == len(children) - 1
        yield from _lines(child, follow + ("└─ " if last else "├─ "), follow + ("   " if last else "│  "), width)


def _holds_nodes(value: Any) -> bool:
    return isinstance(value, LogicalNode) or (
        isinstance(value, tuple) and any(isinstance(item, LogicalNode) for item in value)
    )


def _show(value: Any) -> str:
    """Return one field as text; an empty text leaves it out."""
    text = str(value)
    match value:
        case None | False:
            text = ""
        case ModelRecord():
            text = value.name
        case Preprocessing():
            text = _show_preprocessing(value)
        case WindowGrid():
            text = show_grid(value)
        case ClassSelector(kind=kind, value=asked):
            text = kind if asked is None else f"{kind}({_show_plain(asked)})"
        case (ImageRecord(), *_):
            text = str(len(value))
        case (CachedCells(), *_):
            text = f"{sum(held.n_cells for held in value):,} cells"
        case (WindowGrid(), *_):
            text = ", ".join(show_grid(grid) for grid in value)
    return text


def _show_plain(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, tuple) else str(value)


def _show_preprocessing(how: Preprocessing) -> str:
    resize = f"shortest {how.edge}" if how.resize == "shortest" and how.edge is not None else how.resize
    channels = how.channels if isinstance(how.channels, str) else f"{how.n_channels} channels"
    return f"{how.size_text} {resize} {channels}"


def show_grid(grid: WindowGrid) -> str:
    """Return a grid as `16x16 every 4x4 (57x57 windows cover)`."""
    if isinstance(grid, RegionGrid):
        return f"{grid.n_windows:,} listed windows{grid.shown_sizes}{show_channels(grid)}"
    region = ""
    if grid.region is not None:
        starts, extents = (shown_axes(grid.size, part) for part in _halves(grid.region))
        region = f" in ({','.join(map(str, (*starts, *extents)))})"
    patch, stride, shape = (show_on(grid.size, each) for each in (grid.patch, grid.stride, grid.shape))
    return f"{patch}{show_channels(grid)} every {stride}{region} ({shape} windows {grid.border})"


def show_channels(grid: WindowGrid) -> str:
    """Return the channels that windows hide, ` of channel 2`; nothing where they hide all."""
    if grid.channels is None:
        return ""
    return f" of channel{'s' if len(grid.channels) > 1 else ''} {', '.join(map(str, grid.channels))}"


def _halves(box: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    n_axes = len(box) // 2
    return box[:n_axes], box[n_axes:]
