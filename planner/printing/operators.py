"""The physical plan as a tree of operators that say of themselves what they do, and what that is estimated to cost.

Between the plan and its print: a new operator describes itself here, and `plan` prints whatever tree it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from obeql.planner.binding.settings import ALL_GPUS
from obeql.planner.geometry import Network
from obeql.planner.grid import show_on
from obeql.planner.logical.plan import CachedCells, show_channels
from obeql.planner.physical.plan import (
    Cost,
    DenseForward,
    Engine,
    ExplainPlan,
    IncrementalForward,
    ProgressiveRefine,
    PrunedTop,
    Refinement,
    SampledAggregates,
)
from obeql.planner.printing.numbers import digits, plural, ratio
from obeql.planner.regions import RegionGrid

__all__ = ["OperatorNode", "clean_passes", "operator_tree", "total"]

#: windows, macs, bytes, seconds and memory, as far as they are known
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class OperatorNode:
    """An operator of a plan: its name, its parameters in words, and the operators that it takes from.

    `estimate` are its figures over all images, `details` further lines, (title, text) each; `grid` is the number of the
    grid of windows that it computes, by which measured figures are found.
    """

    name: str
    parameters: str
    children: tuple[OperatorNode, ...] = ()
    estimate: Figures | None = None
    details: tuple[tuple[str, str], ...] = ()
    grid: int | None = None


def operator_tree(plan: ExplainPlan) -> OperatorNode:
    """Return the operators of a plan, from the one that stores the maps down to those that compute windows."""
    nodes = tuple(_grid(plan, number) for number in range(len(plan.grids)))
    if plan.shared_pass:
        nodes = (OperatorNode("BatchedQueries", f"{len(plan.grids)} grids share one unoccluded pass", nodes),)
    if plan.together > 1:
        nodes = (OperatorNode("BatchedImages", f"{plan.together} images at a time share batches", nodes),)
    if plan.workers:
        nodes = (_distribute(plan, nodes),)
    where = f"run {plan.run_name!r}" if plan.run_name else "run without a name"
    return OperatorNode("Store", f"{where}{', replaced' if plan.run_name and plan.replace_run else ''}", nodes)


def clean_passes(plan: ExplainPlan) -> dict[str, float]:
    """Return the figures of the clean passes of all images."""
    n_passes = len(plan.images) * plan.n_passes
    macs = float(plan.model.network.macs) * n_passes
    return {"windows": n_passes, "macs": macs, "seconds": plan.pass_s * n_passes}


def total(plan: ExplainPlan) -> dict[str, float]:
    """Return the figures of a whole plan: the sum of its operators, and the peak of memory."""
    engines = [*plan.engines, *(r.reduced.engine for r in plan.refinements if r is not None and r.reduced is not None)]
    rows = [_estimate(engine.cost, 0, len(plan.images)) for engine in engines]
    summed = {key: sum(row[key] for row in rows) for key in rows[0]}
    if plan.n_passes:
        summed |= {key: summed[key] + value for key, value in clean_passes(plan).items()}
    n_computed = sum(
        round(_n_left(plan, number) * _share(plan.refinements[number] if plan.refinements else None))
        for number in range(len(plan.grids))
    )
    return summed | {"windows": n_computed, "memory": max(row["memory"] for row in rows)}


# ---- one function an operator ------------------------------------------------------------------------------


def _distribute(plan: ExplainPlan, children: tuple[OperatorNode, ...]) -> OperatorNode:
    """Describe Distribute, with the seconds that pass while the workers share the work below."""
    where = "every GPU" if plan.device == ALL_GPUS and plan.cluster is None else plan.device
    where += "" if plan.cluster is None else f", Ray at {plan.cluster}"
    seconds = plan.seconds * len(plan.images) / plan.workers
    return OperatorNode("Distribute", f"{plural(plan.workers, 'worker')} on {where}", children, {"seconds": seconds})


def _grid(plan: ExplainPlan, number: int) -> OperatorNode:
    """Describe what makes the maps of a grid: ReuseCells over a refinement over what computes windows, as there are."""
    n_left = _n_left(plan, number)
    refinement = plan.refinements[number] if plan.refinements else None
    grid, engine = plan.grids[number], plan.engines[number]
    patch = "windows of a list" if isinstance(grid, RegionGrid) else f"patch {show_on(grid.size, grid.patch)}"
    patch += show_channels(grid)
    n_windows = n_left if refinement is None else _n_expected(refinement, n_left)
    node = _engine(plan, engine, n_windows, patch, number)
    if refinement is not None:
        node = _refinement(plan, refinement, n_left, node)
    held = plan.held[number] if plan.held else None
    return node if held is None or not held.n_cells else _reuse(plan, held, node)


def _reuse(plan: ExplainPlan, held: CachedCells, child: OperatorNode) -> OperatorNode:
    n_asked = len(plan.images) * held.grid.n_windows
    by_run = ", ".join(f"{run}: {n_cells:,}" for run, n_cells in held.by_run)
    shown = f"{held.n_cells:,} of {n_asked:,} cells are stored"
    return OperatorNode("ReuseCells", shown, (child,), details=(("from", by_run),))


def _refinement(plan: ExplainPlan, refinement: Refinement, n_left: int, exact: OperatorNode) -> OperatorNode:
    """Describe ProgressiveRefine, PrunedTop or SampledAggregates above what computes the windows that they choose."""
    if isinstance(refinement, PrunedTop):
        asked = f"{plural(refinement.k, 'cell')} of largest importance, confidence {refinement.confidence:g}"
    elif isinstance(refinement, SampledAggregates):
        asked = f"{refinement.aim.written}, confidence {refinement.confidence:g}"
    else:
        asked = f"{refinement.metric}"
        asked += "" if refinement.target is None else f" >= {refinement.target:g}"
        asked += f", confidence {refinement.confidence:g}"
        asked += "" if refinement.within_s is None else f", within {digits(refinement.within_s)} s"
    children: tuple[OperatorNode, ...] = (exact,)
    reduced = refinement.reduced
    share = refinement.expected_share if reduced is None else reduced.share
    estimating = f"{digits(refinement.overhead_s * len(plan.images))} s of estimating"
    if reduced is not None:
        below = _engine(plan, reduced.engine, round(n_left * reduced.share), f"in {reduced.precision}", None)
        children = (below, exact)
    if refinement.proxies:
        proxies = refinement.proxies
        details = [("costs", f"{proxy.name}: {ratio(1, proxy.price)} less than all windows") for proxy in proxies]
        details.append(("taken", "the one by which exact windows show that the map costs least, or none"))
        children = (OperatorNode("ProxyForward", "guesses of all windows", details=tuple(details)), *children)
    if isinstance(refinement, ProgressiveRefine) and refinement.target is None:
        text = "as many windows as the time allows"
    elif reduced is None:
        text = f"{ratio(1, share)} fewer windows, {estimating}"
    else:
        some = "all windows" if share >= 1 else f"{ratio(1, share)} fewer windows"
        text = f"{some}, most in {reduced.precision}, {_n_expected(refinement, n_left):,} exact; {estimating}"
    return OperatorNode(type(refinement).__name__, asked, children, details=(("expected", text),))


def _engine(plan: ExplainPlan, engine: Engine, n_windows: int, parameters: str, grid: int | None) -> OperatorNode:
    """Describe DenseForward or IncrementalForward, which computes so many windows of all images."""
    network, estimate = plan.model.network, _estimate(engine.cost, n_windows, len(plan.images))
    if isinstance(engine, DenseForward):
        details = _dense(engine, network)
    else:
        whole = float(network.macs) * n_windows / len(plan.images)
        details = _incremental(engine, network, whole, isinstance(plan.grids[0], RegionGrid))
    return OperatorNode(type(engine).__name__, parameters, (), estimate, tuple(details), grid)


def _dense(engine: DenseForward, network: Network) -> Iterator[tuple[str, str]]:
    memory = "" if engine.channels_last else ", maps in plain memory"
    yield "batch", f"{plural(engine.batch, 'window')}{_lanes(engine)}{memory}"
    if network.whole:
        yield "network", f"runs as a whole: {network.reason}"


def _incremental(engine: IncrementalForward, network: Network, whole: float, listed: bool) -> Iterator[tuple[str, str]]:
    """Yield what there is to know of the operator; `whole` are the MACs of plain inference.

    `listed` windows are in one list of groups, others in groups of rows and of columns.
    """
    yield "work", _work(engine, whole)
    layers = [i for i, layer in enumerate(network.layers) if layer.reach != "source"]
    boxed = [i for i in layers if engine.regions[i]]
    whole_maps = [i for i in layers if not engine.regions[i]]
    if boxed:
        yield "boxes", f"{plural(len(boxed), 'layer')}, {_layer(network, boxed[0])} to {_layer(network, boxed[-1])}"
    if whole_maps:
        yield "whole maps", f"{plural(len(whole_maps), 'layer')} from {_layer(network, whole_maps[0])}"
    yield "batch", f"{plural(engine.batch, 'window')} on boxes, {engine.tail_batch} on whole maps{_lanes(engine)}"
    if listed:
        yield "groups", f"at most {plural(engine.n_groups[0], 'size')} of boxes"
    else:
        counts, axes = " x ".join(map(str, engine.n_groups)), ("planes", "rows", "columns")[-len(engine.n_groups) :]
        yield "groups", f"at most {counts} sizes of boxes, {' x '.join(axes)}"


def _lanes(engine: Engine) -> str:
    return f", {engine.n_lanes} side by side" if engine.n_lanes > 1 else ""


def _work(engine: IncrementalForward, whole: float) -> str:
    text = f"plain inference: {digits(whole / 1e9)} GMAC an image"
    if engine.cost.macs and whole:
        text += f"; here {ratio(whole, engine.cost.macs)} less"
        if engine.bound_macs:
            text += f", at best {ratio(whole, engine.bound_macs)} less"
    return text


def _layer(network: Network, index: int) -> str:
    layer = network.layers[index]
    return f"{index} {layer.name} ({layer.kind})"


# ---- how many windows --------------------------------------------------------------------------------------


def _n_left(plan: ExplainPlan, number: int) -> int:
    """Return the windows of a grid, over all images, that are not stored."""
    held = plan.held[number] if plan.held else None
    return plan.grids[number].n_over(image.shown for image in plan.images) - (held.n_cells if held else 0)


def _n_expected(refinement: Refinement, n_left: int) -> int:
    return round(n_left * refinement.expected_share)


def _share(refinement: Refinement | None) -> float:
    """Return the share of the windows that is computed, in whichever precision; some may be in both."""
    if refinement is None:
        return 1.0
    return refinement.expected_share + (refinement.reduced.share if refinement.reduced is not None else 0.0)


def _estimate(cost: Cost, n_windows: int, n_images: int) -> dict[str, float]:
    return {
        "windows": n_windows,
        "macs": cost.macs * n_images,
        "bytes": cost.bytes * n_images,
        "seconds": cost.seconds * n_images,
        "memory": cost.memory,
    }
