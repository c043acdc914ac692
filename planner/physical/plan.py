"""Physical operators: how a plan is carried out, each with its estimated cost.

Built by `lower`, printed by `show`, executed by `obeql.executor`. The executor has one module for each operator
of `OPERATORS`, of the same name in snake_case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from obeql.planner.aggregates import AggregateAim
from obeql.planner.catalog import ImageRecord, ModelRecord
from obeql.planner.class_selector import ClassSelector
from obeql.planner.grid import WindowGrid
from obeql.planner.logical.plan import CachedCells
from obeql.planner.proxies import PROXIES

__all__ = [
    "OPERATORS",
    "Cost",
    "CostShares",
    "DenseForward",
    "Engine",
    "ExplainPlan",
    "IncrementalForward",
    "OperatorInfo",
    "ProgressiveRefine",
    "ProxyForward",
    "PrunedTop",
    "ReducedPrecision",
    "Refinement",
    "RejectedAlternative",
    "SampledAggregates",
    "keeping",
    "part_of",
    "with_memory",
]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one image costs: multiply-accumulates, bytes of activations moved, seconds, peak extra bytes."""

    macs: float
    bytes: float
    seconds: float
    memory: float = 0.0

    def scaled(self, share: float) -> Cost:
        """Return the cost of a share of the windows; the peak of memory stays, if there are any."""
        return Cost(self.macs * share, self.bytes * share, self.seconds * share, self.memory if share else 0.0)


@dataclass(frozen=True, slots=True)
class DenseForward:
    """Run the whole network for every window, `batch` windows at a time. Exact; the reference.

    `n_lanes` batches run side by side, each with its share of the cores. Maps lie in memory `channels_last`, or as
    (N, C, H, W).
    """

    batch: int
    cost: Cost
    #: estimated seconds of each layer over all windows of an image
    layer_s: tuple[float, ...] = ()
    #: bytes that one window at a time takes, beyond the weights and the clean pass
    least_bytes: float = 0.0
    n_lanes: int = 1
    channels_last: bool = True
    #: share of the grid's windows that the cost is of
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class IncrementalForward:
    """Recompute only the box that each window changes, layer by layer; the rest comes from the clean pass.

    `regions[i]` says whether layer i runs on boxes (True) or on whole maps (False); whole maps follow once a layer
    has turned dense. `n_groups` bound how many groups of equal boxes each axis is divided into.
    `batch` windows go through the boxes at a time, `tail_batch` through the dense rest; `n_lanes` such batches run side
    by side, each with its share of the cores.
    """

    regions: tuple[bool, ...]
    n_groups: tuple[int, ...]
    batch: int
    tail_batch: int
    cost: Cost
    #: multiply-accumulates if every window had exactly its own box at every layer, the least possible
    bound_macs: float = 0.0
    #: estimated seconds of each layer over all windows of an image
    layer_s: tuple[float, ...] = ()
    #: bytes that one window at a time takes (in every lane), beyond the weights and the clean pass
    least_bytes: float = 0.0
    #: bytes of where boxes lie that may be kept from one image to the next
    kept_bytes: float = 0.0
    n_lanes: int = 1
    #: no box is wider than this share of its map; below 1 the operator is not exact
    tau: float = 1.0
    #: share of the grid's windows that the cost is of
    share: float = 1.0


Engine = DenseForward | IncrementalForward


def part_of(engine: Engine, share: float) -> Engine:
    """Return the operator with the cost of computing a share of its windows."""
    if share >= 1:
        return engine
    if isinstance(engine, IncrementalForward):
        engine = replace(engine, bound_macs=engine.bound_macs * share)
    layer_s = tuple(seconds * share for seconds in engine.layer_s)
    return replace(engine, cost=engine.cost.scaled(share), layer_s=layer_s, share=engine.share * share)


def with_memory(engine: Engine, n_bytes: float) -> Engine:
    """Return the operator with more bytes in its peak, such as those of the cells it computes."""
    return replace(engine, cost=replace(engine.cost, memory=engine.cost.memory + n_bytes))


def keeping(engine: Engine, most: float) -> Engine:
    """Return the operator where it may keep no more than `most` bytes of where boxes lie."""
    if not isinstance(engine, IncrementalForward) or engine.kept_bytes <= most:
        return engine
    cost = replace(engine.cost, memory=engine.cost.memory - (engine.kept_bytes - most))
    return replace(engine, cost=cost, kept_bytes=most)


#: Share of the windows that a level after the first computes, about.
LEVEL_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class CostShares:
    """What refining a grid costs, in shares of computing all of its windows exactly and at once.

    `look` is estimating all maps once, `level` what the windows of one level, a share of `LEVEL_SHARE`, cost more than
    in full batches. `reduced` is a window in the reduced precision over an exact one; 0 where there is none.
    """

    look: float = 0.0
    level: float = 0.0
    reduced: float = 0.0

    @property
    def has_reduced(self) -> bool:
        return self.reduced > 0.0

    def level_of(self, share: float) -> float:
        """Return what so large a share of the windows costs more; a small one costs hardly less than a usual level."""
        return self.level * max(1.0, share / LEVEL_SHARE)


@dataclass(frozen=True, slots=True)
class ReducedPrecision:
    """What computes most windows of a refinement: an engine in a number format that is faster than the run's.

    Its cells are estimates: some windows are computed in both formats, which tells how far off they are. `share` of
    the windows is expected; 1 means all of them at once.
    """

    precision: str
    engine: Engine
    share: float


@dataclass(frozen=True, slots=True)
class ProxyForward:
    """Guess all windows: what a window changes much is computed, and the rest counts to first order.

    By `method`, a row of `PROXIES`, in the size `amount` where it comes in several: of a budget of tokens their number.
    `engine` has the layers that run on boxes. `price` is what that costs, in shares of computing all windows exactly. A
    proxy is no estimate: it tells where a map has its heights, and the windows computed exactly say how far it can be
    trusted.
    """

    method: str
    engine: IncrementalForward
    price: float
    amount: int = 0

    @property
    def name(self) -> str:
        """Return what people read of it."""
        return PROXIES[self.method].shown.format(self.amount)


@dataclass(frozen=True, slots=True)
class ProgressiveRefine:
    """Compute some windows with the engine below, coarse to fine, and reconstruct the rest with a bound on the quality.

    It ends when the lower bound on `metric`, at `confidence`, reaches `target`, or when `within_s` seconds of the
    whole statement have passed; None: without that end. Where the target is too far, the map is computed exactly.
    `expected_share` of the windows is what the estimates rest on, `overhead_s` the estimated seconds of estimating.
    With `reduced`, the engine below computes the audit only, unless that shows that the target is out of reach. With
    `proxies`, maps are estimated about the guesses of one. `prices` say how soon the rest is computed at once where the
    target turns out too far, `larger` what computes many windows: engines, each with the share of the windows from
    which on it does.
    """

    metric: str
    confidence: float
    target: float | None
    within_s: float | None
    expected_share: float
    overhead_s: float
    prices: CostShares
    larger: tuple[tuple[float, Engine], ...]
    reduced: ReducedPrecision | None = None
    #: of which each image takes the one by which its map should cost least, or none
    proxies: tuple[ProxyForward, ...] = ()


@dataclass(frozen=True, slots=True)
class PrunedTop:
    """Compute windows with the engine below until the `k` of largest importance are known, at `confidence`.

    With `reduced`, the engine below computes the audit and the windows that may be among the k. `prices`, `larger` and
    `proxies` as of ProgressiveRefine.
    """

    k: int
    confidence: float
    expected_share: float
    overhead_s: float
    prices: CostShares
    larger: tuple[tuple[float, Engine], ...]
    reduced: ReducedPrecision | None = None
    proxies: tuple[ProxyForward, ...] = ()


@dataclass(frozen=True, slots=True)
class SampledAggregates:
    """Compute windows drawn at random with the engine below until what SQL asks of each map, `aim`, is known.

    The other windows are left out. `expected_share`, `overhead_s`, `prices` and `larger` as of ProgressiveRefine.
    """

    aim: AggregateAim
    expected_share: float
    overhead_s: float
    prices: CostShares
    larger: tuple[tuple[float, Engine], ...]
    reduced: None = None
    proxies: tuple[ProxyForward, ...] = ()

    @property
    def confidence(self) -> float:
        return self.aim.confidence


Refinement = ProgressiveRefine | PrunedTop | SampledAggregates


@dataclass(frozen=True, slots=True)
class RejectedAlternative:
    """An operator that was considered and not taken, with its cost where one was estimated."""

    operator: str
    reason: str
    cost: Cost | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ExplainPlan:
    """A bound, optimized and costed EXPLAIN OCCLUDE: everything the executor needs, as plain data.

    One map is computed for each image, grid (one grid a patch size) and class, in that order. `engines[g]` runs
    grid g.
    """

    statement: str
    model: ModelRecord
    images: tuple[ImageRecord, ...]
    grids: tuple[WindowGrid, ...]
    engines: tuple[Engine, ...]
    classes: ClassSelector
    fill: str
    score: str
    precision: str
    device: str
    seed: int
    top_cells: int | None = None
    run_name: str | None = None
    replace_run: bool = False
    memory_bytes: int | None = None
    #: whether the statement or a setting said so, else it is what the device has to spare
    limited: bool = False
    #: for each grid, what decides which of its windows are computed; None: all of them. Empty: all of all grids.
    refinements: tuple[Refinement | None, ...] = ()
    #: quality asked for: {} for exact, else {"target": .., "metric": .., "confidence": ..}
    approx: dict[str, Any] = field(default_factory=dict)
    #: every option with the value it has, defaults included
    options: dict[str, Any] = field(default_factory=dict)
    rejected: tuple[RejectedAlternative, ...] = ()
    #: names of the rules that changed the plan, in order
    fired: tuple[str, ...] = ()
    #: names of the rules and choices that were turned off
    disabled: tuple[str, ...] = ()
    #: images that go through the network together, for clean passes and for windows
    together: int = 1
    #: whether the grids of an image share one clean pass
    shared_pass: bool = False
    #: clean passes of an image, none of grids whose cells are all stored; and the estimated seconds of one
    n_passes: int = 0
    pass_s: float = 0.0
    #: classes that coming statements ask of the same windows; stored with the asked ones, outside of the run
    also: tuple[ClassSelector, ...] = ()
    #: whether exact cells that are stored answer instead of being computed
    reuse: bool = True
    #: the cells that were seen to be stored, one entry a grid; empty for none. The engines' costs are without them.
    held: tuple[CachedCells, ...] = ()
    #: what the estimates rest on: device, and where its rates come from; and whether these were measured
    estimated_for: str = ""
    measured_rates: bool = False
    #: the logical plan before and after the rules, printed
    logical_text: tuple[str, str] = ("", "")
    notes: tuple[str, ...] = ()
    #: workers that share the images, each on a device of its own where there are several; 0: this process
    workers: int = 0
    #: address of the Ray cluster whose actors are the workers; None: processes of this machine
    cluster: str | None = None

    @property
    def seconds(self) -> float:
        """Estimated seconds of an image, clean passes included."""
        refined = [each for each in self.refinements if each is not None]
        reduced = [each.reduced.engine for each in refined if each.reduced is not None]
        windows_s = sum(engine.cost.seconds for engine in (*self.engines, *reduced))
        return self.n_passes * self.pass_s + windows_s + sum(each.overhead_s for each in refined)

    @property
    def n_windows(self) -> int:
        """Windows asked for over all images and grids, those that are stored included."""
        return self.windows_over(self.images)

    def windows_over(self, images: Iterable[ImageRecord]) -> int:
        """Return how many windows of all grids are asked of images."""
        shown = [image.shown for image in images]
        return sum(grid.n_over(shown) for grid in self.grids)

    def __repr__(self) -> str:
        n_images = len(self.images)
        images = f"{n_images} image{'s' if n_images != 1 else ''}"
        return f"<ExplainPlan {self.model.name}: {images}, {self.n_windows:,} windows; print() shows it>"

    def __str__(self) -> str:
        """Return the text that PLAN prints."""
        from obeql.planner.printing.plan import show  # noqa: PLC0415 - which reads this module

        return show(self)


@dataclass(frozen=True, slots=True)
class OperatorInfo:
    """A row of SHOW OPERATORS."""

    name: str
    does: str
    exact: bool


OPERATORS: tuple[OperatorInfo, ...] = (
    OperatorInfo("DenseForward", "runs the whole network for every window; the reference", True),
    OperatorInfo("IncrementalForward", "recomputes only the box each window changes in every layer", True),
    OperatorInfo("ProgressiveRefine", "computes windows until the bound on the map's quality is met", False),
    OperatorInfo("PrunedTop", "computes windows until the most important ones are known", False),
    OperatorInfo("SampledAggregates", "computes windows until SQL's aggregates are known with their error", False),
    OperatorInfo(
        "ProxyForward", "guesses all windows: what they change much is computed, the rest counts to first order", False
    ),
    OperatorInfo("BatchedImages", "computes several images of few windows together, in shared batches", True),
    OperatorInfo("Distribute", "shares the images among processes of this machine or actors of Ray", True),
    OperatorInfo("ReuseCells", "takes the cells that are stored; only the others are computed", True),
)
