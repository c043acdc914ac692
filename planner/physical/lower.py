"""Lower a logical plan to physical operators: choose, by cost, how each grid of windows is computed.

Comes after `optimize`; the choice itself is `schedule`. The result goes to `show` and to the executor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from obeql.errors import InternalError, QueryTypeError
from obeql.planner.binding.bound import BoundExplain
from obeql.planner.binding.options import show_value
from obeql.planner.catalog import ImageRecord
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid, show_on, shown_axes
from obeql.planner.logical.optimize import optimize
from obeql.planner.logical.plan import (
    BatchedQueries,
    CachedCells,
    Classify,
    LogicalNode,
    Occlude,
    ReuseCells,
    ScanImages,
    ScoreCells,
    StoreRun,
    find,
    print_tree,
)
from obeql.planner.logical.rules import CHOICES, RULE_NAMES
from obeql.planner.physical.cost import Rates, clean_pass_seconds
from obeql.planner.physical.image_batching import images_per_batch
from obeql.planner.physical.memory import cell_bytes, most_kept
from obeql.planner.physical.plan import (
    LEVEL_SHARE,
    Engine,
    ExplainPlan,
    ProxyForward,
    Refinement,
    RejectedAlternative,
    keeping,
    part_of,
    with_memory,
)
from obeql.planner.physical.proxies import proxies
from obeql.planner.physical.proxies.setting import ProxySetting
from obeql.planner.physical.refinement import HALF, Asked, EngineChoices, choose_refinement
from obeql.planner.physical.schedule import choose_engine
from obeql.planner.regions import RegionGrid

__all__ = ["Chooser", "lower", "plan_explain"]

#: an operator, and those that were refused
Chosen = tuple[Engine, tuple[RejectedAlternative, ...]]
#: (network, grid, rates, memory in bytes, batch, disabled choices, images together) -> operator and those refused
Chooser = Callable[[Network, WindowGrid, Rates, int | None, int | None, frozenset[str], int], Chosen]


def plan_explain(
    bound: BoundExplain,
    rates: Rates,
    memory_bytes: int | None = None,
    choose: Chooser = choose_engine,
    reduced: tuple[str, Rates] | None = None,
) -> ExplainPlan:
    """Return the plan of a bound statement: optimize, then lower, with the rules the session left on.

    `memory_bytes` is what the device has to spare; a memory option or setting goes first, and
    without any `rates.free_bytes` counts. `choose` stands in for the
    chooser of operators in tests. `reduced` is a precision faster than the statement's, with its
    rates, in which approximate maps may compute windows.
    """
    optimized, fired = optimize(bound.logical, bound.disabled)
    plan = lower(replace(bound, logical=optimized), rates, memory_bytes, choose, reduced)
    before = print_tree(bound.logical)
    return replace(plan, fired=fired, logical_text=(before, plan.logical_text[1]))


def lower(
    bound: BoundExplain,
    rates: Rates,
    memory_bytes: int | None = None,
    choose: Chooser = choose_engine,
    reduced: tuple[str, Rates] | None = None,
) -> ExplainPlan:
    """Return the physical plan of the logical plan in `bound`, optimized or not, without rewriting it."""
    logical = _root(bound.logical)
    scan, classify, score = (next(find(logical, kind)) for kind in (ScanImages, Classify, ScoreCells))
    assert isinstance(scan, ScanImages) and isinstance(classify, Classify) and isinstance(score, ScoreCells)
    grids, fill, shared = _grids(logical)
    n_classes = sum(each.n_maps(classify.model.n_classes) for each in (score.classes, *bound.also))
    given = next((m for m in (bound.memory_bytes, memory_bytes) if m is not None), int(rates.free_bytes))
    memory = _Memory.of(given, grids, n_classes, classify.precision)
    held = {each.grid: each for node in find(logical, ReuseCells) for each in node.held}
    shares = _shares(grids, held, scan.images)
    disabled = bound.disabled & {choice.name for choice in CHOICES}
    budget = memory.for_windows
    windows = _Windows(classify.model.network, grids, shares, rates, budget, bound.options["batch"], disabled, choose)
    choices, refinements, together = _choose(bound, windows, memory, n_classes, len(scan.images), reduced)
    n_passes = sum(share > 0.0 for share in shares)
    text = print_tree(logical)
    return ExplainPlan(
        statement=bound.statement,
        model=classify.model,
        images=scan.images,
        grids=grids,
        engines=tuple(with_memory(engine, together * memory.cells / memory.times) for engine, _ in choices),
        classes=score.classes,
        fill=fill,
        score=score.score,
        precision=classify.precision,
        device=bound.device,
        seed=bound.options["seed"],
        run_name=logical.name,
        replace_run=logical.replace,
        memory_bytes=memory.given,
        limited=bound.memory_bytes is not None,
        top_cells=bound.top_cells,
        refinements=refinements if any(refinements) else (),
        approx=dict(bound.approx),
        options=_options(bound, grids),
        rejected=_rejected(grids, choices),
        disabled=tuple(name for name in RULE_NAMES if name in bound.disabled),
        together=together,
        shared_pass=shared,
        n_passes=min(1, n_passes) if shared else n_passes,
        pass_s=clean_pass_seconds(windows.network, rates, together),
        also=bound.also,
        reuse=bound.reuse,
        held=tuple(held[grid] for grid in grids) if held else (),
        estimated_for=_estimated_for(rates),
        measured_rates=rates.measured,
        logical_text=(text, text),
        notes=_notes(bound, classify.precision),
        workers=bound.workers,
        cluster=bound.cluster,
    )


def _root(logical: LogicalNode) -> StoreRun:
    """Return the root of a logical plan, which names the run that keeps its maps."""
    if not isinstance(logical, StoreRun):
        raise InternalError(
            f"The root of a plan is {type(logical).__name__}, not StoreRun. Please report this statement."
        )
    return logical


def _shares(
    grids: Sequence[WindowGrid], held: Mapping[WindowGrid, CachedCells], images: Sequence[ImageRecord]
) -> list[float]:
    """Return for each grid how many of its windows are to be computed, over all images: not stored, and an image's own.

    A share is of all windows of the grid over every image.
    """
    shown = [image.shown for image in images]
    n_held = [held[grid].n_cells if grid in held else 0 for grid in grids]
    return [(grid.n_over(shown) - n) / (grid.n_windows * len(shown)) for grid, n in zip(grids, n_held, strict=True)]


@dataclass(frozen=True, slots=True)
class _Memory:
    """What a device has to spare, of it the bytes of the cells; numbers are `times` as large as those of estimates."""

    given: int
    cells: int
    times: int

    @classmethod
    def of(cls, given: int, grids: Sequence[WindowGrid], n_classes: int, precision: str) -> _Memory:
        """Return how `given` bytes are shared. Costs are those of float32, whose numbers take half of float64's."""
        cells = int(cell_bytes([grid.n_windows for grid in grids], n_classes))
        return cls(given, cells, 2 if precision == "float64" else 1)

    @property
    def for_windows(self) -> int:
        """Return the bytes that operators may use, as estimates count them."""
        return max(1, (self.given - self.cells) // self.times)


@dataclass(frozen=True, slots=True)
class _Windows:
    """What operators are chosen for: the grids, and of each the share of windows that is not stored.

    `budget` bytes may be used; `batch` is that of the options, None for any.
    """

    network: Network
    grids: Sequence[WindowGrid]
    shares: Sequence[float]
    rates: Rates
    budget: int
    batch: int | None
    disabled: frozenset[str]
    choose: Chooser

    def chosen(self, together: int = 1) -> list[Chosen]:
        """Return what computes all windows that are not stored, grid by grid, so many images at a time.

        Each grid keeps where its boxes lie while another one runs. Several share what one alone might keep.
        """
        n_grids = len(self.grids)
        share_each = most_kept(self.budget) / n_grids if n_grids > 1 else 0.0
        windows = replace(self, budget=max(1, self.budget - int(share_each * (n_grids - 1))))
        chosen = [
            windows.of(place, self.rates.in_parts(share) if 0.0 < share < 1.0 else self.rates, together)
            for place, share in enumerate(self.shares)
        ]
        if n_grids == 1:
            return chosen
        left = self.budget - max(engine.least_bytes for engine, _ in chosen)
        most = max(0.0, min(share_each, left / n_grids))
        return [(keeping(engine, most), refused) for engine, refused in chosen]

    def of(self, place: int, rates: Rates, together: int = 1) -> Chosen:
        """Return what computes the windows of a grid that are not stored, at these rates."""
        grid, share = self.grids[place], self.shares[place]
        engine, refused = self.choose(self.network, grid, rates, self.budget, self.batch, self.disabled, together)
        refused = tuple(replace(r, cost=None if r.cost is None else r.cost.scaled(share)) for r in refused)
        return part_of(engine, share), refused

    def ways(self, place: int, audit: float, reduced: tuple[str, Rates] | None, n_classes: int) -> EngineChoices:
        """Return what may compute a grid's windows where they are refined: in levels, or all but the audit at once."""

        def by(rates: Rates) -> Engine:
            return self.of(place, rates)[0]

        fast = None
        if reduced is not None:
            name, its = reduced
            fast = name, by(its.in_parts(LEVEL_SHARE)), by(its)
        levels, few, half = (by(self.rates.in_parts(share)) for share in (LEVEL_SHARE, audit, HALF))
        return EngineChoices(levels, few, half, fast, self._proxies(place, n_classes))

    def _proxies(self, place: int, n_classes: int) -> tuple[ProxyForward, ...]:
        """Return what may guess all windows of a grid."""
        if "choose_proxy" in self.disabled or self.shares[place] < 1.0:
            return ()

        def engine_of(network: Network, rates: Rates) -> Engine:
            return replace(self, network=network).of(place, rates)[0]

        exact_s, n_windows = self.of(place, self.rates)[0].cost.seconds, self.grids[place].n_windows
        setting = ProxySetting(self.network, self.rates, exact_s, n_classes, n_windows, self.budget, engine_of)
        return proxies(setting, self.disabled)


def _choose(
    bound: BoundExplain,
    windows: _Windows,
    memory: _Memory,
    n_classes: int,
    n_images: int,
    reduced: tuple[str, Rates] | None,
) -> tuple[list[Chosen], tuple[Refinement | None, ...], int]:
    """Return what computes the windows, what decides which these are, and how many images go together."""
    choices = windows.chosen()
    if bound.memory_bytes is not None:
        _require_memory(bound.memory_bytes, memory, windows.grids, choices)
    if bound.estimates:
        choices, refinements = _refined(bound, windows, choices, n_classes, reduced)
        return choices, tuple(refinements), 1
    if n_images == 1 or "batch_images" in windows.disabled:
        return choices, (), 1
    n_each = -(-n_images // max(1, bound.workers))  # every worker gets some
    together = images_per_batch(
        windows.network,
        windows.rates,
        windows.budget,
        n_each,
        lambda n: [engine for engine, _ in windows.chosen(n)],
        memory.cells,
    )
    return windows.chosen(together), (), together


def _refined(
    bound: BoundExplain, windows: _Windows, choices: Sequence[Chosen], n_classes: int, reduced: tuple[str, Rates] | None
) -> tuple[list[Chosen], list[Refinement | None]]:
    """Return what computes the windows of an approximate statement, grid by grid, and what decides which these are."""
    goal = Asked(bound.approx, bound.top_cells, bound.within_s, bound.aggregates)
    operator = "ProgressiveRefine" if bound.top_cells is None else "PrunedTop"
    operator = "SampledAggregates" if bound.aggregates is not None else operator
    found: list[Chosen] = []
    refinements: list[Refinement | None] = []
    for place, (grid, (whole, refused)) in enumerate(zip(windows.grids, choices, strict=True)):

        def ways(audit: float, place: int = place) -> EngineChoices:
            return windows.ways(place, audit, reduced, n_classes)

        refinement, engine, why_not = choose_refinement(grid, whole, ways, n_classes, goal, windows.disabled)
        found.append((engine, (*refused, RejectedAlternative(operator, why_not)) if why_not else refused))
        refinements.append(refinement)
    return found, refinements


def _rejected(grids: Sequence[WindowGrid], choices: Sequence[Chosen]) -> tuple[RejectedAlternative, ...]:
    """Return the operators that were not taken, of several patches with the one that they are about."""
    several = len({grid.channels for grid in grids}) < len(grids)
    return tuple(
        replace(refusal, reason=(f"patch {show_on(grid.size, grid.patch)}: " if several else "") + refusal.reason)
        for grid, (_, refused) in zip(grids, choices, strict=True)
        for refusal in refused
        if grid.channels == grids[0].channels  # costs do not differ by channel
    )


def _estimated_for(rates: Rates) -> str:
    if not rates.measured:
        return f"{rates.device}, typical rates"
    return f"{rates.device}, rates measured with this model{f' {rates.origin}' if rates.origin else ''}"


def _notes(bound: BoundExplain, precision: str) -> tuple[str, ...]:
    notes = bound.notes
    if precision == "float64":
        notes = (*notes, "estimates are those of float32; float64 takes about twice the time and memory")
    if bound.also:
        notes = (*notes, "classes that the next statements ask of the same windows are computed with these")
    return notes


def _require_memory(given: int, memory: _Memory, grids: Sequence[WindowGrid], choices: Sequence[Chosen]) -> None:
    """Raise QueryTypeError where the memory given does not hold the cells, and one window of a grid at a time."""
    for grid, (engine, _) in zip(grids, choices, strict=True):
        least = engine.least_bytes * memory.times + memory.cells
        if least > given:
            _refuse_memory(given, least, grid)


def _refuse_memory(given: int, least: float, grid: WindowGrid) -> NoReturn:
    """Raise, naming the least that one window at a time takes, rounded up to what may be written in a query."""
    unit, name = (1e9, "GB") if least >= 1e9 else (1e6, "MB") if least >= 1e6 else (1e3, "kB")
    enough = math.ceil(least / unit * 10) / 10
    window = show_on(grid.size, grid.patch)
    raise QueryTypeError(
        f"memory={given} bytes is too little: one window of {window} at a time needs {enough:g}{name} "
        "beyond the weights and the unoccluded pass, the cells of its maps among it."
    )


def _options(bound: BoundExplain, grids: tuple[WindowGrid, ...]) -> dict[str, Any]:
    """Return every option as it would be written in WITH; patch and stride are those of the grids that are left."""
    if isinstance(grids[0], RegionGrid):  # which have no patch and no stride
        rest = {name: value for name, value in bound.options.items() if name not in ("patch", "stride", "border")}
        return {name: show_value(value) for name, value in rest.items()}
    laid = [grid for grid in grids if grid.channels == grids[0].channels]
    strides = tuple(shown_axes(grid.size, grid.stride) for grid in laid)
    values = {
        **bound.options,
        "patch": tuple(shown_axes(grid.size, grid.patch) for grid in laid),
        "stride": strides[0] if len(set(strides)) == 1 else strides,
    }
    return {name: show_value(value) for name, value in values.items()}


def _grids(logical: LogicalNode) -> tuple[tuple[WindowGrid, ...], str, bool]:
    """Return the grids in order, the fill, and whether the grids share one clean pass."""
    for batched in find(logical, BatchedQueries):
        return batched.grids, batched.fill, True
    occlusions = list(find(logical, Occlude))
    return tuple(node.grid for node in occlusions), occlusions[0].fill, False
