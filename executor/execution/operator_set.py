"""The operators of a plan, prepared: one for each grid, and those that refine it.

`executor` asks here for what computes windows; the network is loaded when the first of them is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import torch

from obeql.executor.devices import DTYPES
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.grid_scan import GridScan
from obeql.executor.operators.layer_timer import LayerTimer
from obeql.executor.operators.measured_windows import AskColumns
from obeql.executor.operators.progressive_refine import RefineRun
from obeql.executor.operators.proxy_forward import ProxyRun
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Engine, ExplainPlan, Refinement
from obeql.planner.scores import score_kind

__all__ = ["GraphSource", "OperatorSet"]

#: the model as captured, on the CPU, or what loads it where a window has to be computed
GraphSource = LayerGraph | Callable[[], LayerGraph]


class OperatorSet:
    """What computes the windows of a plan on a device. With `analyze` every layer is timed, in `layers` by grid."""

    def __init__(
        self,
        plan: ExplainPlan,
        graph: GraphSource,
        device: torch.device,
        analyze: bool,
        ask_columns: AskColumns | None = None,
    ) -> None:
        self.plan = plan
        self._ask_columns = ask_columns
        self.dtype = DTYPES[plan.precision]
        self._device = device
        self._graph = graph
        #: a feed, of which nobody knows how many images it will give, stands in for a plan without images
        self._several = not 0 < len(plan.images) <= plan.together
        self._clocks = [LayerTimer(device) if analyze else None for _ in plan.grids]
        self._all: list[GridScan] = []
        self._reduced_runs: list[tuple[str, GridScan]] = []

    @property
    def layers(self) -> list[dict[int, float]]:
        """Measured seconds by layer, one mapping a grid; none without clocks."""
        return [clock.seconds for clock in self._clocks if clock is not None]

    @property
    def n_skipped(self) -> int:
        """Windows so far that hide nothing, for which the clean pass answered."""
        return sum(run.n_skipped for run in self._all)

    @property
    def pace(self) -> dict[str, dict[str, tuple[float, float]]]:
        """As of `RunReport`: what the windows so far were estimated to take, and did."""
        found: dict[str, dict[str, tuple[float, float]]] = {}
        reduced = {id(run): precision for precision, run in self._reduced_runs}
        for run in self._all:
            own = found.setdefault(reduced.get(id(run), self.plan.precision), {})
            for where, (more_expected, more_busy) in run.pace.items():
                expected, busy = own.get(where, (0.0, 0.0))
                own[where] = expected + more_expected, busy + more_busy
        return found

    @cached_property
    def graph(self) -> LayerGraph:
        """Return the network on the device; loaded and moved there when a window has to be computed."""
        return self._captured().to(self._device, self.dtype)

    @cached_property
    def runs(self) -> list[GridScan]:
        """Return the operators, one a grid, prepared."""
        return [
            self._prepared(self.graph, grid, engine, clock)
            for grid, engine, clock in zip(self.plan.grids, self.plan.engines, self._clocks, strict=True)
        ]

    @cached_property
    def refined(self) -> list[RefineRun | None]:
        """Return what decides which windows of each grid are computed; None where all are."""
        plan = self.plan
        return [
            None
            if refinement is None
            else RefineRun(
                run,
                refinement,
                score_kind(plan.score),
                plan.seed,
                partial(self._larger, run.grid, clock),
                self._reduced(run, refinement),
                self._ask_columns,
                self._proxies(run, refinement),
            )
            for run, refinement, clock in zip(
                self.runs, plan.refinements or (None,) * len(plan.grids), self._clocks, strict=True
            )
        ]

    def _larger(self, grid: WindowGrid, clock: LayerTimer | None, engine: Engine) -> GridScan:
        """Return an operator of a refinement for more windows at once than most of its levels have."""
        return self._prepared(self.graph, grid, engine, clock)

    def _reduced(self, run: GridScan, refinement: Refinement) -> GridScan | None:
        """Return the operator that computes most windows of a refinement in a reduced precision."""
        if refinement.reduced is None:
            return None
        graph = self._captured().to(self._device, DTYPES[refinement.reduced.precision])
        prepared = self._prepared(graph, run.grid, refinement.reduced.engine, None)
        self._reduced_runs.append((refinement.reduced.precision, prepared))
        return prepared

    def _proxies(self, run: GridScan, refinement: Refinement) -> ProxyRun | None:
        """Return what may guess the windows of a refinement."""
        if not refinement.proxies:
            return None
        return ProxyRun(self.graph, run.grid, refinement.proxies, score_kind(self.plan.score))

    def _prepared(self, graph: LayerGraph, grid: WindowGrid, engine: Engine, clock: LayerTimer | None) -> GridScan:
        run = GridScan(graph, grid, engine, clock, self._several, "skip_unchanged" not in self.plan.disabled)
        self._all.append(run)
        return run

    def _captured(self) -> LayerGraph:
        return self._graph if isinstance(self._graph, LayerGraph) else self._graph()
