"""Whether a grid is refined or computed whole: the choice `choose_refinement` of lowering.

After the engine is chosen, whose estimated seconds say what a refinement may save. The executor's operators
`progressive_refine` and `pruned_top` carry it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from obeql.planner.boxes import axis_spans
from obeql.planner.cost import positions
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import (
    DenseForward,
    Engine,
    ProgressiveRefine,
    PrunedTop,
    ReducedPrecision,
    Refinement,
    part_of,
)

__all__ = ["REDUCED_AUDIT", "TOP_CELLS_CONFIDENCE", "audit_size", "cell_costs", "choose_refinement"]

#: Confidence of TOP .. CELLS that they are the most important ones.
TOP_CELLS_CONFIDENCE = 0.95
#: Grids of fewer windows are computed whole: what their quality is could not be told from fewer cells.
_FEWEST_WINDOWS = 150
#: Share of the windows that a refinement starts with, how good maps are then, and how fast 1 - bound falls with the
#: share: means over the maps of benchmarks/approx.py.
_FIRST_SHARE, _FIRST_BOUND, _RATE = 0.09, 0.6, 6.0
_TOP_SHARE = 0.2
#: Share of the windows in the audit, which has at least and at most so many.
_AUDIT_SHARE, _LEAST_AUDIT, _MOST_AUDIT = 0.021, 24, 200
#: How many times larger the audit is in a reduced precision.
REDUCED_AUDIT = 4
#: Levels, and seconds to estimate one map at one level for each window of the grid.
_N_LEVELS, _WINDOW_S = 4, 5e-5


def choose_refinement(
    grid: WindowGrid,
    engine: Engine,
    n_classes: int,
    approx: Mapping[str, Any],
    top_cells: int | None,
    within_s: float | None,
    disabled: frozenset[str],
    reduced: tuple[str, Engine] | None = None,
) -> tuple[Refinement | None, str]:
    """Return what refines `grid`, or None and, where something was asked for, the reason for computing it whole.

    `reduced` is a precision faster than the run's and the engine that computes all windows in it.
    """
    if not approx and top_cells is None and within_s is None:
        return None, ""
    if "choose_refinement" in disabled:
        return None, "rule choose_refinement is switched off"
    target = approx.get("target")
    if top_cells is None and target is not None and target >= 1:
        return None, "APPROX 1 asks for the exact map"
    if grid.n_windows < _FEWEST_WINDOWS and within_s is None:
        return None, f"{grid.n_windows} windows are too few for an audit to save any"
    share = min(1.0, _TOP_SHARE if top_cells is not None else 1.0 if target is None else _expected_share(target))
    n_exact = audit_size(grid.n_windows) + (2 * top_cells if top_cells is not None else 0)
    estimating = _N_LEVELS * n_classes * _WINDOW_S * grid.n_windows
    # Ways to go about it: (seconds, share of exact windows, seconds of estimating, precision for the others)
    exact_s = engine.cost.seconds
    found: list[tuple[float, float, float, ReducedPrecision | None]] = []
    plain = min(1.0, share + (top_cells or 0) / grid.n_windows)
    found.append((plain * exact_s + estimating, plain, estimating, None))
    if reduced is not None and "choose_reduced_precision" not in disabled:
        precision, whole = reduced
        audit = min(1.0, n_exact / grid.n_windows)
        share = min(1.0, share + REDUCED_AUDIT * audit_size(grid.n_windows) / grid.n_windows)
        some = ReducedPrecision(precision, part_of(whole, share), share)
        found.append((audit * exact_s + share * whole.cost.seconds + estimating, audit, estimating, some))
        once = ReducedPrecision(precision, whole, 1.0)
        one_level = estimating / _N_LEVELS
        found.append((audit * exact_s + whole.cost.seconds + one_level, audit, one_level, once))
    seconds, expected, overhead_s, fast = min(found, key=lambda each: each[0])
    if within_s is None and seconds > 0.9 * exact_s:
        return None, "estimating would take as long as computing"
    if top_cells is not None:
        return PrunedTop(top_cells, TOP_CELLS_CONFIDENCE, expected, overhead_s, fast), ""
    metric, confidence = approx.get("metric", "ssim"), approx.get("confidence", 0.95)
    return ProgressiveRefine(metric, confidence, target, within_s, expected, overhead_s, fast), ""


def audit_size(n_windows: int) -> int:
    """Windows drawn at random and computed exactly, which measure the quality."""
    return min(n_windows, max(_LEAST_AUDIT, min(_MOST_AUDIT, round(_AUDIT_SHARE * n_windows))))


def _expected_share(target: float) -> float:
    return _FIRST_SHARE + math.log(max(1.0, (1 - _FIRST_BOUND) / max(1e-9, 1 - target))) / _RATE


def cell_costs(network: Network, grid: WindowGrid, engine: Engine) -> npt.NDArray[np.float64]:
    """Multiply-accumulates of each window's own boxes, (rows, cols); equal for all where the whole network runs."""
    if isinstance(engine, DenseForward):
        return np.ones(grid.shape)
    boxed = [i for i, on in enumerate(engine.regions) if on and i]
    rest = sum(layer.macs for layer, on in zip(network.layers, engine.regions, strict=True) if not on)
    each = np.array([network.layers[i].macs / positions(network.layers[i]) for i in boxed])
    rows = axis_spans(network, 0, grid.rows, engine.regions, engine.tau).sizes[boxed]
    cols = axis_spans(network, 1, grid.cols, engine.regions, engine.tau).sizes[boxed]
    costs = (each[:, None] * rows).T @ cols + float(rest)
    positive: npt.NDArray[np.float64] = np.maximum(costs, 1.0)
    return positive
