"""ProxyForward: guess every cell of a map by what a window changes much, and the rest to first order.

Between `progressive_refine`, which asks for guesses before it refines a map, and `IncrementalRun`, which runs the
graph that a proxy makes of the network. Which of the planned proxies is used is decided image by image: some windows
are computed exactly, each proxy says what it makes of the same windows, and the one is taken by which the whole map
should cost least, or none. Shares and prices decide, never measured seconds, so that the same plan leads to the same
map.

Budgets of tokens as of Dutson et al., Eventful Transformers (ICCV 2023), who reuse what they do not compute; here it
counts to first order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.executor.adaptive.gaussian_process import Axes
from obeql.executor.adaptive.lattice import between, lattices
from obeql.executor.network.first_order import guessing_graph
from obeql.executor.network.first_order.gradients import FirstOrder, first_order
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.clean_pass import CleanPass, materialise
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.executor.operators.window_fill import Fill
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import ProxyForward
from obeql.planner.physical.proxies import read_by_gradients
from obeql.planner.scores import ScoreKind

__all__ = ["Guess", "ProxyRun", "unexplained"]

Floats = npt.NDArray[np.float64]
Windows = npt.NDArray[np.int64]


#: A proxy is used where a map should cost less than this share of what it should without one.
_WORTH_WHILE = 0.75
#: What it should save at least, in its own price, which is lost where the map has to be computed whole after all.
_SAVED = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Guess:
    """What a proxy makes of all cells: float64 `changes` (windows, K) of K scores, about a constant.

    It was asked for `share` of the cells. The others lie between them. It was chosen among `n_tried` proxies.
    """

    changes: Floats
    proxy: ProxyForward
    share: float
    n_tried: int = 1

    @property
    def name(self) -> str:
        """Return what people read of it."""
        return self.proxy.name if self.share >= 1.0 else f"{self.proxy.name} at {self.share:.0%} of them"


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """A proxy with its `changes` (n, K) of the cells `windows` that it was tried on.

    `left` is the share of exact values' variance that it leaves over there, of the worst class; `needed` says which
    share of the windows is computed exactly then.
    """

    proxy: ProxyForward
    windows: Windows
    changes: Floats
    left: float
    needed: Callable[[float], float]

    def costs_less(self, between: float, share: float) -> bool:
        """Return whether a map costs less with the guesses of `share` of the cells than with those of all.

        What lies between them leaves over the share `between` of the guesses' own variance.
        """
        more = self.needed(min(1.0, self.left + between)) - self.needed(self.left)
        return more < self.proxy.price * (1.0 - share)


class ProxyRun:
    """The proxies of one network and grid, for image after image."""

    def __init__(self, graph: LayerGraph, grid: WindowGrid, proxies: Sequence[ProxyForward], kind: ScoreKind) -> None:
        self._graph = graph
        self._grid = grid
        self._kind = kind
        self._proxies = tuple(proxies)
        self._axes = Axes.of(grid)

    def guess(
        self,
        clean: CleanPass,
        fill: Fill,
        classes: Sequence[int],
        windows: Windows,
        values: Floats,
        share: Callable[[float], float],
        check: Callable[[], None] = lambda: None,
    ) -> Guess | str:
        """Return the guesses of the proxy by which the map should cost least; or why none should make it cheaper.

        `windows` (n,) are computed exactly, with modelled `values` (n, K). `share` says which share of all windows the
        map should need where a proxy leaves so much of its variance unexplained. `check` is called between batches,
        and may raise.
        """
        around = self.around(clean.image, classes)
        if isinstance(around, str):
            return around
        best: _Tried | None = None
        least, n_tried = _WORTH_WHILE * share(1.0), 0
        for proxy in self._proxies:
            if proxy.price >= least:
                continue
            changes = self.changes(proxy, around, clean.image, fill, windows, check)[windows]
            if not bool(np.isfinite(changes).all()):
                continue
            n_tried += 1
            left = max(unexplained(changes[:, k], values[:, k]) for k in range(len(classes)))
            needed = share(left)
            if proxy.price + needed < least and needed <= 1.0 - (1.0 + _SAVED) * proxy.price:
                best, least = _Tried(proxy, windows, changes, left, share), proxy.price + needed
        if best is None:
            return "they told too little" if n_tried else "they were not finite"
        # All that are offered count: how many of them were worth a try depends on the windows that certify the map.
        guess = replace(self._everywhere(best, around, clean.image, fill, check), n_tried=len(self._proxies))
        return guess if bool(np.isfinite(guess.changes).all()) else "they were not finite"

    def _everywhere(
        self, best: _Tried, around: FirstOrder, image: Tensor, fill: Fill, check: Callable[[], None]
    ) -> Guess:
        """Return guesses at all cells, from as few as save more than what lies between them may cost."""
        shape, n_classes = self._grid.shape, len(around.classes)
        changes = np.full((self._grid.n_windows, n_classes), np.nan)
        changes[best.windows] = best.changes
        known = np.isfinite(changes[:, 0])
        for lattice in lattices(shape):
            missing = np.flatnonzero(lattice.reshape(-1) & ~known)
            changes[missing] = self.changes(best.proxy, around, image, fill, missing, check)[missing]
            known[missing] = True
            if known.all() or not bool(np.isfinite(changes[known]).all()):
                break
            planes, at = changes.T.reshape(n_classes, *shape), known.reshape(shape)
            found = [between(self._axes, lattice, at, plane) for plane in planes]
            if best.costs_less(max(left for _, left in found), float(known.mean())):
                filled = np.stack([plane.reshape(-1) for plane, _ in found], axis=1)
                return Guess(filled, best.proxy, float(known.mean()))
        return Guess(changes, best.proxy, 1.0)

    def around(self, image: Tensor, classes: Sequence[int]) -> FirstOrder | str:
        """Return what the proxies need to know of an image (1, C, ...); or in words why it cannot be had."""
        network = self._graph.network()
        at: dict[int, int] = {}
        for method in {proxy.method for proxy in self._proxies}:
            at |= read_by_gradients(network, method)
        return first_order(self._graph, image, at, classes, self._kind)

    def changes(
        self,
        proxy: ProxyForward,
        around: FirstOrder,
        image: Tensor,
        fill: Fill,
        windows: Windows | None,
        check: Callable[[], None] = lambda: None,
    ) -> Floats:
        """Return the scores (windows, K) that a proxy says, NaN where it was not asked; None asks for all."""
        graph = guessing_graph(self._graph, proxy, around)
        run = IncrementalRun(graph, self._grid, proxy.engine)
        found = np.full((self._grid.n_windows, len(around.classes)), np.nan)
        asked = np.zeros((1, *self._grid.shape), bool)
        asked.reshape(-1)[slice(None) if windows is None else windows] = True

        def take(numbers: Windows, of_windows: Tensor) -> None:
            found[numbers] = of_windows.double().cpu().numpy()
            check()

        with torch.inference_mode():
            passed = materialise(graph, image, run.needed)
            run.run(passed, fill, None if windows is None else asked, take, lambda _, of_windows: of_windows)
        return found


def unexplained(guess: Floats, values: Floats) -> float:
    """Return the share of the variance of `values` (n,) that a straight line through `guess` leaves over.

    Raised by what a line explains of n values by chance; 1 where nothing varies.
    """
    n = len(values)
    spread = float(values.var() * guess.var())
    if n < 4 or not math.isfinite(spread) or spread <= 0.0:
        return 1.0
    explained = float(((guess - guess.mean()) * (values - values.mean())).mean()) ** 2 / spread
    return min(1.0, (1.0 - explained) * (n - 1) / (n - 2))
