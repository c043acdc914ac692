"""Which sampler says what windows of an image come next, by what a statement asks for.

Used by `progressive_refine`, once an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from obeql.executor.adaptive.aggregate_sampler import AggregateSampler
from obeql.executor.adaptive.problem import Goal, Problem
from obeql.executor.adaptive.sampler import Sampler
from obeql.executor.adaptive.top_k import TopKSearch
from obeql.executor.operators.clean_pass import CleanPass
from obeql.executor.operators.grid_scan import GridScan
from obeql.executor.operators.logits import as_stored, logit_and_others
from obeql.executor.operators.measured_windows import AskColumns, MeasuredWindows
from obeql.planner.aggregates import AggregateAim
from obeql.planner.catalog import Activation
from obeql.planner.physical.plan import PrunedTop, Refinement, SampledAggregates
from obeql.planner.physical.refinement import cell_costs
from obeql.planner.scores import ScoreKind

__all__ = ["Samplers"]


class Samplers:
    """The samplers of one refinement: a fresh one for every image. `ask_columns` says what aggregates of SQL read."""

    def __init__(
        self, run: GridScan, refinement: Refinement, kind: ScoreKind, seed: int, ask_columns: AskColumns | None
    ) -> None:
        self._grid = run.grid
        self._refinement = refinement
        self._kind = kind
        self._seed = seed
        self._ask_columns = ask_columns
        self._costs = cell_costs(run.graph.network(), run.grid, run.engine)

    def of(self, clean: CleanPass, classes: Sequence[int], activation: Activation) -> Sampler:
        """Return what samples the windows of an image, before any is known."""
        refinement, n_classes = self._refinement, len(classes)
        if isinstance(refinement, SampledAggregates):
            return self._of_aggregates(refinement.aim, clean, classes, activation)
        if isinstance(refinement, PrunedTop):
            goal = Goal("top_cells", refinement.confidence, 1.0)
        else:
            goal = Goal(refinement.metric, refinement.confidence, refinement.target)
        in_one_step = refinement.reduced is not None and refinement.reduced.share >= 1
        problem = Problem(
            self._grid, self._kind, n_classes, goal, self._seed, refinement.prices, self._costs, in_one_step
        )
        return TopKSearch(problem, refinement.k) if isinstance(refinement, PrunedTop) else Sampler(problem)

    def _of_aggregates(
        self, aim: AggregateAim, clean: CleanPass, classes: Sequence[int], activation: Activation
    ) -> AggregateSampler:
        """Return what samples the windows of an image; each image has a sample of its own."""
        assert self._ask_columns is not None
        digest = hashlib.blake2b(clean.image.float().cpu().numpy().tobytes(), digest_size=4).digest()
        seed = (self._seed + int.from_bytes(digest, "little")) % 2**32
        goal = Goal("aggregates", aim.confidence, 1.0 - aim.precision)
        problem = Problem(self._grid, self._kind, len(classes), goal, seed, self._refinement.prices)
        logit, others = as_stored(*logit_and_others(clean.logits, classes, activation))
        own = list(zip(logit[0].tolist(), others[0].tolist(), strict=True))
        return AggregateSampler(problem, aim, MeasuredWindows(aim, self._ask_columns, self._grid, self._kind, own))
