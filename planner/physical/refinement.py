"""Whether a grid is refined or computed whole: the choice `choose_refinement` of lowering.

After the engine is chosen, whose estimated seconds say what a refinement may save. The executor's operators
`progressive_refine` and `pruned_top` carry it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from obeql.planner.aggregates import AggregateAim
from obeql.planner.boxes import axis_spans
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.batches import summed_products
from obeql.planner.physical.cost import positions
from obeql.planner.physical.plan import (
    LEVEL_SHARE,
    CostShares,
    DenseForward,
    Engine,
    ProgressiveRefine,
    ProxyForward,
    PrunedTop,
    ReducedPrecision,
    Refinement,
    SampledAggregates,
    part_of,
)
from obeql.planner.physical.proxies import PROXY_TRIAL

__all__ = [
    "AUDIT_TIMES",
    "HALF",
    "LATTICE_SHARE",
    "LOOK_WINDOW_S",
    "MOST_REDUCED_PRICE",
    "MOST_WASTE",
    "TOP_CELLS_CONFIDENCE",
    "Asked",
    "EngineChoices",
    "audit_size",
    "cell_costs",
    "choose_refinement",
    "share_with_proxy",
    "share_within",
    "top_share_with_proxy",
]

#: Confidence of TOP .. CELLS that they are the most important ones.
TOP_CELLS_CONFIDENCE = 0.95
#: Grids of fewer windows are computed whole: what their quality is could not be told from fewer cells.
_FEWEST_WINDOWS = 150
#: Share of the windows that a refinement starts with, how good maps are then, and how fast 1 - bound falls with the
#: share: means over the maps of benchmarks/approx.
_FIRST_SHARE, _FIRST_BOUND, _RATE = 0.15, 0.6, 6.0
#: A refinement is begun where it is expected to take less than this share of the seconds of computing all: some fail,
#: and what they wasted is lost.
_WORTH_WHILE = 0.7
#: What a window in a reduced precision may cost, in exact ones: where it saves less, rounding eats up the rest.
MOST_REDUCED_PRICE = 0.55
_TOP_SHARE = 0.2
#: Share of the windows that aggregates of SQL are expected to take.
_SAMPLED_SHARE = 0.05
#: Share of the windows that are drawn at random and computed exactly whatever else is, at least and at most so many.
_AUDIT_SHARE, _LEAST_AUDIT, _MOST_AUDIT = 0.021, 24, 200
#: How many times as many the audit has, in the precision of most windows.
AUDIT_TIMES = 6
#: Share of the windows that the first lattice computes, about.
LATTICE_SHARE = 0.07
#: What a refinement may waste, as a share of computing all exactly: estimating, windows in a reduced precision, small
#: batches. Unless the target is as good as reached, a level that would waste more is not begun; all that is left is
#: computed at once instead.
MOST_WASTE = 0.08
#: Shares of the windows from which on the engines planned for a level, and for all windows, compute a level.
_SOME, _MANY = 0.04, 0.25
#: Where a proxy guesses all windows: the audit that certifies a map, in windows, of which the first ones try the proxy;
#: what of its variance a plan expects the proxy to leave over; what SSIM loses for each share left over, how much of
#: what the target allows guesses may lose, and how fast the loss falls with the share computed. By replays of maps of a
#: vision transformer.
_CERTIFYING, _UNEXPLAINED, _LOST, _ALLOWED, _GUESSED_RATE = 80, 0.05, 1.2, 0.65, 3.6
#: Share of the time of WITHIN that guesses may be expected to take.
_GUESSING_TIME = 0.5
#: Standard deviations of what a proxy leaves over, beyond which a guess is no candidate of TOP .. CELLS.
_SURELY_LESS = 2.5
#: Levels, and seconds to estimate one map at one level for each window of the grid, on average and with few known; and
#: those that it takes however small the grid.
_N_LEVELS, LOOK_WINDOW_S, _LEAST_WINDOW_S, _LOOK_S = 3, 2.5e-5, 1.8e-5, 0.015
#: What the first level of a target may waste, in shares of computing all exactly: where it fails, a look at the map and
#: its small batches were for nothing. And a share of the windows, whose price tells what batches cost however few.
_MOST_FIRST, HALF = 0.06, 0.5


@dataclass(frozen=True, slots=True)
class Asked:
    """What a statement asks for less than all exact cells with: APPROX, TOP k CELLS, WITHIN, aggregates of SQL."""

    approx: Mapping[str, Any]
    top_cells: int | None = None
    within_s: float | None = None
    aggregates: AggregateAim | None = None

    @property
    def target(self) -> float | None:
        return self.approx.get("target")


@dataclass(frozen=True, slots=True)
class EngineChoices:
    """The engines that could compute one grid, each with the cost of all windows.

    `levels` computes some at a time, `audit` few, `half` as many as are left where the others fail. `reduced` is a
    precision faster than the run's, with engines for levels and for all windows in it. `proxies` guess all windows.
    """

    levels: Engine
    audit: Engine
    half: Engine
    reduced: tuple[str, Engine, Engine] | None = None
    proxies: tuple[ProxyForward, ...] = ()


@dataclass(frozen=True, slots=True)
class _Option:
    """One way to refine: the seconds it takes, and what computes the windows."""

    seconds: float
    engine: Engine
    share: float
    overhead_s: float
    prices: CostShares
    reduced: ReducedPrecision | None = None
    proxies: tuple[ProxyForward, ...] = ()


def choose_refinement(
    grid: WindowGrid,
    engine: Engine,
    ways: Callable[[float], EngineChoices],
    n_classes: int,
    asked: Asked,
    disabled: frozenset[str],
) -> tuple[Refinement | None, Engine, str]:
    """Return what refines `grid`, the engine below it, and, where the grid is computed whole after all, why.

    `engine` computes all windows; `ways(share)` are those for refining, with `share` of the windows in an audit.
    """
    why_not = _hindrance(grid, asked, disabled)
    if why_not:
        return None, engine, why_not
    if asked.aggregates is not None:
        return _sampled(grid, engine, ways(_SAMPLED_SHARE), asked.aggregates)
    n_exact = audit_size(grid.n_windows) + 2 * (asked.top_cells or 0)
    audit = min(1.0, n_exact / grid.n_windows)
    only_exact = "choose_reduced_precision" in disabled
    found = ways(audit)
    options = list(_options(grid, engine, found, n_classes, asked, audit, only_exact))
    best = min(options, key=lambda option: option.seconds, default=None)
    if best is None or (asked.within_s is None and best.seconds > _WORTH_WHILE * engine.cost.seconds):
        return None, engine, "refining would save too little, and may fail"
    below = part_of(best.engine, best.share)
    larger = (_SOME, found.levels), (_MANY, engine)
    measures = best.share, best.overhead_s, best.prices, larger, best.reduced
    if asked.top_cells is not None:
        return PrunedTop(asked.top_cells, TOP_CELLS_CONFIDENCE, *measures, best.proxies), below, ""
    metric, confidence = asked.approx.get("metric", "ssim"), asked.approx.get("confidence", 0.95)
    refine = ProgressiveRefine(metric, confidence, asked.target, asked.within_s, *measures, best.proxies)
    return refine, below, ""


def _sampled(
    grid: WindowGrid, engine: Engine, ways: EngineChoices, aim: AggregateAim
) -> tuple[Refinement | None, Engine, str]:
    """Return what samples the windows of a grid; a sample wastes nothing, as all that it computes is exact."""
    larger = (_SOME, ways.levels), (_MANY, engine)
    refinement = SampledAggregates(aim, _SAMPLED_SHARE, 0.0, CostShares(), larger)
    return refinement, part_of(ways.audit, _SAMPLED_SHARE), ""


def _hindrance(grid: WindowGrid, asked: Asked, disabled: frozenset[str]) -> str:
    """Return why all windows are computed whatever it costs; empty where nothing speaks for that."""
    if "choose_refinement" in disabled:
        return "rule choose_refinement is switched off"
    if asked.top_cells is None and asked.target is not None and asked.target >= 1:
        return "APPROX 1 asks for the exact map"
    if grid.n_windows < _FEWEST_WINDOWS and asked.within_s is None:
        return f"{grid.n_windows} windows are too few for an audit to save any"
    return ""


def _options(
    grid: WindowGrid, whole: Engine, ways: EngineChoices, n_classes: int, asked: Asked, audit: float, only_exact: bool
) -> Iterator[_Option]:
    """Yield all cells in the run's precision, or most in a reduced one, level by level or at once."""
    share = _TOP_SHARE if asked.top_cells is not None else 1.0
    share = share if asked.target is None else _expected_share(asked.target)
    look_s = n_classes * (_LOOK_S + LOOK_WINDOW_S * grid.n_windows)
    whole_s = max(1e-9, whole.cost.seconds)
    plain = min(1.0, share + (asked.top_cells or 0) / grid.n_windows)
    estimating = _N_LEVELS * look_s
    # What a level costs more than in full batches, and that those of the windows left over cost the same once more.
    dearer = ways.levels.cost.seconds / whole_s - 1.0 + max(0.0, ways.half.cost.seconds / whole_s - 1.0)
    look = n_classes * (_LOOK_S + _LEAST_WINDOW_S * grid.n_windows) / whole_s
    prices = CostShares(look, LEVEL_SHARE * max(0.0, dearer))
    is_target = asked.target is not None and asked.top_cells is None and asked.within_s is None
    first = LATTICE_SHARE + AUDIT_TIMES * audit_size(grid.n_windows) / grid.n_windows
    if is_target:
        plain = min(1.0, max(plain, first))
    guided = _share_with_guesses(grid, ways, asked, whole.cost.seconds)
    if guided is not None:
        middle = ways.proxies[len(ways.proxies) // 2].price * whole.cost.seconds
        seconds = middle + guided * ways.levels.cost.seconds + estimating
        yield _Option(seconds, ways.levels, guided, estimating + middle, prices, proxies=ways.proxies)
    # Without guesses, few maps that a proxy is for can be had.
    may_fail = is_target and prices.look + prices.level_of(first) > _MOST_FIRST
    if guided is None and not may_fail:
        yield _Option(plain * ways.levels.cost.seconds + estimating, ways.levels, plain, estimating, prices)
    if ways.reduced is None or only_exact:
        return
    precision, levels, at_once = ways.reduced
    if at_once.cost.seconds > MOST_REDUCED_PRICE * whole_s:
        return
    audit_s = audit * ways.audit.cost.seconds
    some = min(1.0, max(share, first))
    prices = replace(prices, reduced=levels.cost.seconds / whole_s)
    for engine, part, overhead_s in ((levels, some, estimating), (at_once, 1.0, 2 * look_s)):
        reduced = ReducedPrecision(precision, part_of(engine, part), part)
        seconds = audit_s + part * engine.cost.seconds + overhead_s
        yield _Option(seconds, ways.audit, audit, overhead_s, prices, reduced)


def _share_with_guesses(grid: WindowGrid, ways: EngineChoices, asked: Asked, whole_s: float) -> float | None:
    """Return the share of the windows that are computed where a proxy guesses all; None where none should."""
    if not ways.proxies:
        return None
    if asked.within_s is not None:
        return 1.0 if ways.proxies[0].price * whole_s < _GUESSING_TIME * asked.within_s else None
    if asked.top_cells is not None:
        return top_share_with_proxy(asked.top_cells, _UNEXPLAINED, grid.n_windows)
    if asked.approx.get("metric") == "maxerr":  # one cell decides about it, guessed or not
        return None
    return share_with_proxy(asked.target or 0.0, _UNEXPLAINED, grid.n_windows)


def share_with_proxy(target: float, unexplained: float, n_windows: int) -> float:
    """Return the share of the windows that a target should need where a proxy explains all but so much of the map."""
    lost = _LOST * max(1e-9, unexplained) / max(1e-9, _ALLOWED * (1 - target))
    return min(1.0, _CERTIFYING / n_windows + max(0.0, math.log(lost)) / _GUESSED_RATE)


def top_share_with_proxy(k: int, unexplained: float, n_windows: int) -> float:
    """Return the share of the windows that a search for k cells should need where a proxy leaves so much unexplained.

    Those that may be among the k if values are normal: a guess lies so far from the k-th best at most.
    """
    kth = NormalDist().inv_cdf(min(0.999, max(0.5 / n_windows, k / n_windows)))
    likely = NormalDist().cdf(kth + _SURELY_LESS * math.sqrt(min(1.0, max(0.0, unexplained))))
    return min(1.0, (PROXY_TRIAL + _CERTIFYING) / n_windows + likely)


def share_within(affordable: float, unexplained: float) -> float:
    """Return, of a map that is as good as time allows, the share of windows that it is worth; of all, by guesses less.

    `affordable` is the share for which there is time. Less unexplained is worth what as many more windows would be.
    """
    return min(1.0, affordable) + math.log(max(1e-9, unexplained)) / _GUESSED_RATE


def audit_size(n_windows: int) -> int:
    """Return the windows drawn at random and computed exactly: they try a reduced precision, and begin the audit."""
    return min(n_windows, max(_LEAST_AUDIT, min(_MOST_AUDIT, round(_AUDIT_SHARE * n_windows))))


def _expected_share(target: float) -> float:
    return _FIRST_SHARE + math.log(max(1.0, (1 - _FIRST_BOUND) / max(1e-9, 1 - target))) / _RATE


def cell_costs(network: Network, grid: WindowGrid, engine: Engine) -> npt.NDArray[np.float64]:
    """Return the multiply-accumulates of each window's own boxes, in the grid's shape.

    They are equal where the whole network runs.
    """
    if isinstance(engine, DenseForward):
        return np.ones(grid.shape)
    boxed = [i for i, on in enumerate(engine.regions) if on and i]
    rest = sum(layer.macs for layer, on in zip(network.layers, engine.regions, strict=True) if not on)
    each = np.array([network.layers[i].macs / positions(network.layers[i]) for i in boxed])
    spans = [axis_spans(network, k, axis, engine.regions, engine.tau) for k, axis in enumerate(grid.axes)]
    costs = summed_products(each, [of.sizes[boxed].T.astype(float) for of in spans]) + float(rest)
    positive: npt.NDArray[np.float64] = np.maximum(costs, 1.0)
    return positive
