"""Plan checker: is a logical plan legal, and does a rewritten one still ask for the same maps?

Runs after binding and after every rule, so that a wrong rule is caught where it is wrong. Users never see a failure
unless there is a bug, which the message names.
"""

from __future__ import annotations

from obeql.errors import InternalError
from obeql.planner.catalog import ImageRecord, ModelRecord
from obeql.planner.class_selector import ClassSelector
from obeql.planner.logical.plan import (
    BatchedQueries,
    Classify,
    LogicalNode,
    Occlude,
    Preprocess,
    ReuseCells,
    ScanImages,
    ScoreCells,
    StoreRun,
    UnionMaps,
    find,
    grids_of,
    inputs_of,
)

__all__ = ["check_plan", "check_rewrite"]

#: What each node may read; the classes are the whole language of logical plans.
LEGAL_INPUTS: dict[type[LogicalNode], tuple[type[LogicalNode], ...]] = {
    StoreRun: (ScoreCells, UnionMaps),
    UnionMaps: (ScoreCells,),
    ScoreCells: (Classify, ReuseCells),
    ReuseCells: (Classify,),
    Classify: (Occlude, BatchedQueries),
    Occlude: (Preprocess,),
    BatchedQueries: (Preprocess,),
    Preprocess: (ScanImages,),
    ScanImages: (),
}


def check_plan(plan: LogicalNode, after: str) -> None:
    """Raise InternalError, naming the step `after` which the plan was found illegal."""
    fault = _fault(plan)
    if fault:
        raise InternalError(f"The plan is illegal after {after}: {fault}. Please report this statement.")


def check_rewrite(before: LogicalNode, plan: LogicalNode, rule: str) -> None:
    """Raise InternalError, naming the rule, when the plan is illegal or asks for other maps than before."""
    check_plan(plan, f"rule {rule}")
    for (what, old), (_, new) in zip(_asked(before), _asked(plan), strict=True):
        if old != new:
            raise InternalError(f"Rule {rule} changed the {what} of the plan. Please report this statement.")


def _fault(plan: LogicalNode) -> str:
    if not isinstance(plan, StoreRun):
        return f"its root is {type(plan).__name__}, not StoreRun"
    for node in find(plan, LogicalNode):
        legal = LEGAL_INPUTS.get(type(node))
        if legal is None:
            return f"{type(node).__name__} is no logical node"
        children = inputs_of(node)
        if bool(children) != bool(legal):
            return f"{type(node).__name__} has {len(children)} inputs"
        for child in children:
            if type(child) not in legal:
                return f"{type(node).__name__} reads {type(child).__name__}"
        fault = _fault_of(node)
        if fault:
            return f"{type(node).__name__} {fault}"
    return ""


def _fault_of(node: LogicalNode) -> str:
    """Return what is wrong with one node whose inputs are legal, or an empty text."""
    fault = ""
    match node:
        case ScanImages(images=()):
            fault = "has no images"
        case BatchedQueries(grids=grids) if len(grids) < 2:
            fault = "holds fewer than two grids"
        case UnionMaps(inputs=inputs) if len(inputs) < 2:
            fault = "joins fewer than two inputs"
        case Classify(model=model):
            sizes = {grid.size for grid in grids_of(node)}
            if sizes != {model.network.size}:
                fault = f"takes inputs of {model.network.size}, not of {sizes}"
            elif any(grid.n_windows == 0 for grid in grids_of(node)):
                fault = "reads a grid without windows"
        case ReuseCells(held=held) if [each.grid for each in held] != list(grids_of(node)):
            fault = "holds cells of other grids"
        case ScoreCells(classes=ClassSelector("ids", ids)):
            (classify,) = find(node, Classify)
            if not ids or not all(0 <= i < classify.model.n_classes for i in ids):
                fault = f"asks for the classes {ids} of {classify.model.n_classes}"
    return fault


def _unique(items: list[object]) -> list[object]:
    """Return the items without repetitions, in order; they need not be hashable."""
    kept: list[object] = []
    for item in items:
        if not any(item is known or item == known for known in kept):
            kept.append(item)
    return kept


def _asked(plan: LogicalNode) -> list[tuple[str, list[object]]]:
    """Return what a plan asks for as sets in order: a rule may drop repetitions and nothing else."""
    images: list[tuple[ImageRecord, ...]] = [node.images for node in find(plan, ScanImages)]
    models: list[ModelRecord] = [node.model for node in find(plan, Classify)]
    selectors: list[ClassSelector] = []
    for node in find(plan, ScoreCells):
        kind, rest = node.classes
        selectors.append(ClassSelector(kind, tuple(dict.fromkeys(rest)) if isinstance(rest, tuple) else rest))
    fills = [node.fill for node in find(plan, LogicalNode) if isinstance(node, (Occlude, BatchedQueries))]
    scores = [(node.score,) for node in find(plan, ScoreCells)]
    runs = [(node.name, node.replace) for node in find(plan, StoreRun)]
    groups: list[tuple[str, list[object]]] = [
        ("images", [*images]),
        ("model", [*models]),
        ("classes", [*selectors]),
        ("windows", [*grids_of(plan)]),
        ("fill", [*fills]),
        ("score", [*scores]),
        ("run", [*runs]),
    ]
    return [(what, _unique(items)) for what, items in groups]
