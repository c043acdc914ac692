"""Kriging: a random field over the grid of windows, given the cells computed so far.

Between `sampler`, which owns the cells, and plain linear algebra. The field is a Gaussian process with a product of
Matern-3/2 correlations, one an axis (neighbouring windows overlap, so their values resemble each other over about a
patch), and a scale that varies over the map. Length and scale come from the computed cells alone: the length by
marginal likelihood, the scale from leave-one-out residuals. Large grids are worked out tile by tile.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equations 2.25, 2.30, 5.12; draws by
Matheron's rule (Wilson et al., Pathwise Conditioning of Gaussian Processes, JMLR 22, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np
import numpy.typing as npt
import torch

from obeql.planner.grid import WindowGrid

__all__ = ["Axes", "Field", "Posterior", "fit_field", "n_extended", "select_spread", "work_of"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
#: where cells (n,) lie on each axis
Places = tuple[Ints, ...]

#: Correlation lengths that are tried, in patches.
_LENGTHS = (0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.5, 4.0)
#: Added to correlations of a cell with itself: rounding of float32 scores, and well-posed equations.
_NUGGET = 1e-6
#: Cells the correlation length is fitted to; more hardly change it.
_MOST_FITTED = 500
#: The scale at a cell is a mean over computed cells within about this many cells, and this many cells' worth of the
#: map's mean.
_SCALE_REACH, _SCALE_PRIOR = 3.0, 4.0
_SCALE_ROUNDS = 2
#: No standard deviation is below this share of the largest value, which is beyond what float32 carries.
_LEAST_SCALE = 1e-9
#: Share of a grid's cells that doubles the work of estimating, if they are known.
_SHARE_OF_DOUBLE_WORK = 0.45
#: Covariances of a tile's cells with known ones that are held at once, 64 MB: more only where there are three axes.
_MOST_COVARIANCES = 2**23


@dataclass(frozen=True, slots=True)
class _Tiling:
    """How grids are cut: cells around a tile that are read, so many times the mean `distances` of known cells, whose
    nearest ones say all there is to know, at `least` and at `most`; sides of tiles are so many times this (`halos`).
    """

    distances: float
    least: int
    most: int
    halos: int


#: By the number of axes: on more of them as many neighbors lie closer, and boxes of cells hold more.
_TILINGS = {1: _Tiling(3.5, 10, 100, 3), 2: _Tiling(3.5, 5, 10, 3), 3: _Tiling(2.5, 3, 8, 2)}


def n_extended(shape: Sequence[int]) -> int:
    """Return on how many axes of a grid windows lie beside each other, at least 1: of a signal's, one row high, 1."""
    return max(1, sum(n > 1 for n in shape))


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """Where the windows start along each axis, in patches: float64 (n,) an axis, the slowest first."""

    places: tuple[Floats, ...]

    @classmethod
    def of(cls, grid: WindowGrid) -> Axes:
        """Return the axes of a grid."""
        return cls(tuple(np.asarray(axis.starts) / n for axis, n in zip(grid.axes, grid.patch, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(len, self.places))

    def correlations(self, length: float) -> tuple[Floats, ...]:
        """Return correlations along each axis, (n, n) an axis; those of two cells are their product."""
        return tuple(_matern(places, length) for places in self.places)


def _matern(places: Floats, length: float) -> Floats:
    distance = np.sqrt(3.0) / length * np.abs(places[:, None] - places)
    correlation: Floats = (1.0 + distance) * np.exp(-distance)
    return correlation


def _along_axes(matrices: Sequence[torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Return values (..., *shape) with a matrix (n, n) applied along each of the last axes."""
    first = values.dim() - len(matrices)
    for axis, matrix in enumerate(matrices, first):
        values = (values.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return values


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """The process before it is conditioned, about a constant: `length` in patches, standard deviations `scale`.

    `scale` is float64 of the grid's shape. `squares` are the squared leave-one-out residuals of the cells it was fitted
    to, each over its variance: about 1 on average, more where the field is not Gaussian.
    """

    axes: Axes
    length: float
    scale: Floats
    squares: Floats

    def draws(self, n: int, random: np.random.Generator) -> Floats:
        """Return n draws of the process without its mean, (n, *shape)."""
        factors = [
            torch.linalg.cholesky(torch.from_numpy(c + _NUGGET * np.eye(len(c))))
            for c in self.axes.correlations(self.length)
        ]
        noise = torch.from_numpy(random.standard_normal((n, *self.axes.shape)))
        drawn: Floats = _along_axes(factors, noise).numpy() * self.scale
        return drawn

    def left_out(self, known: Flags, values: Floats) -> tuple[Floats, Floats]:
        """Return residuals and variances (known cells,) of the cells `known` (*shape), each predicted from the others.

        `values` minus their own mean are what the process describes. Source: Rasmussen and Williams, equation 5.12.
        """
        centred = values - values.mean()
        residuals, variances = np.empty(len(values)), np.empty(len(values))
        n = np.full(known.shape, -1)
        n[known] = np.arange(len(values))
        for tile in _tiles(known):
            at = tile.known(known)
            own = n[at]
            inverse = torch.cholesky_inverse(self._factor(at))
            diagonal = inverse.diagonal().numpy()
            solved = (inverse @ torch.from_numpy(centred[own])).numpy()
            here = np.zeros(known.shape, bool)
            here[tile.inner] = True
            keep = here[at]
            residuals[own[keep]] = (solved / diagonal)[keep]
            variances[own[keep]] = 1.0 / diagonal[keep]
        return residuals, variances

    def posterior(self, known: Flags, values: Floats, draws: Floats | None = None) -> Posterior:
        """Condition on the cells `known` (*shape) having `values` (m, known cells), the last axis fastest.

        Several sets of values share the correlations; `values` minus their own mean are what the process describes.
        `draws` (n, *shape) of the process become draws of the first set's posterior, and tell its variance.
        """
        shape = self.axes.shape
        if known.all():
            means = values.reshape(-1, *shape)
            return Posterior(means, np.zeros(shape), None if draws is None else np.broadcast_to(means[0], draws.shape))
        centres = values.mean(axis=1).reshape(-1, *(1,) * len(shape))
        means = np.broadcast_to(centres, (len(values), *shape)).copy()
        offsets = values - values.mean(axis=1, keepdims=True)
        variance = np.zeros(shape)
        drawn = None if draws is None else np.empty_like(draws)
        n = np.full(shape, -1)
        n[known] = np.arange(int(known.sum()))
        for tile in _tiles(known):
            at = tile.known(known)
            targets = offsets[:, n[at]]
            if draws is not None:
                targets = np.concatenate([targets, draws.reshape(len(draws), -1)[:, np.ravel_multi_index(at, shape)]])
            factor = self._factor(at)
            solved = torch.cholesky_solve(torch.from_numpy(np.ascontiguousarray(targets.T)), factor)
            for box in tile.slabs(len(at[0])):
                place, box_shape = (slice(None), *box), tuple(s.stop - s.start for s in box)
                at_box = self._between(box, at)
                found = (at_box @ solved).numpy().T
                means[place] += found[: len(values)].reshape(-1, *box_shape)
                if drawn is not None and draws is not None:
                    errors = draws[place] - found[len(values) :].reshape(-1, *box_shape)
                    drawn[place] = means[0][box] + errors
                    # About as good as the triangular solution below, for less than half of the work.
                    variance[box] = (errors * errors).mean(axis=0)
                else:
                    half = torch.linalg.solve_triangular(factor.float(), at_box.T.float(), upper=False)
                    explained = (half * half).sum(dim=0).numpy().reshape(box_shape)
                    variance[box] = np.maximum(self.scale[box] ** 2 - explained, 0.0)
        variance[known] = 0.0
        means[:, known] = values
        if drawn is not None:
            drawn[:, known] = values[0]
        return Posterior(means, variance, drawn)

    def _factor(self, at: Places) -> torch.Tensor:
        """Return the lower Cholesky factor of the covariances of cells with each other, (n, n)."""
        system = _products(self.axes, self.length, at)
        scale = torch.from_numpy(self.scale[at])
        system *= scale[:, None]
        system *= scale
        factor: torch.Tensor = torch.linalg.cholesky(system)
        return factor

    def _between(self, box: tuple[slice, ...], at: Places) -> torch.Tensor:
        """Return the covariances of every cell of a box with given cells: (cells of the box, n)."""
        between = torch.from_numpy(self.scale[at])
        for along, inside, places in zip(self.axes.correlations(self.length), box, at, strict=True):
            between = between[..., None, :] * torch.from_numpy(along[inside][:, places])
        between *= torch.from_numpy(np.ascontiguousarray(self.scale[box]))[..., None]
        return between.flatten(0, -2)


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What is known of a map: `means` (m, *shape) for each set of values, `variance` (*shape) of the first.

    `draws` (n, *shape) are maps the first might be. Where a cell was computed the variance is 0 and all agree.
    """

    means: Floats
    variance: Floats
    draws: Floats | None = None

    def plus(self, *trends: Floats) -> Posterior:
        """Return what is known of the map about trends (*shape) that were taken out, one for each set of values."""
        draws = None if self.draws is None else self.draws + trends[0]
        return Posterior(self.means + np.stack(trends), self.variance, draws)


@dataclass(frozen=True, slots=True)
class _Tile:
    """A box of cells to work out, and the box around it whose computed cells are read."""

    inner: tuple[slice, ...]
    outer: tuple[slice, ...]

    def known(self, known: Flags) -> Places:
        """Return where the `known` cells (*shape) of the outer box lie."""
        inside = np.nonzero(known[self.outer])
        return tuple(places + side.start for places, side in zip(inside, self.outer, strict=True))

    def slabs(self, n_known: int) -> Iterator[tuple[slice, ...]]:
        """Cut the inner box across its first axis, so that covariances with so many cells fit into memory."""
        first, *others = self.inner
        n_across = math.prod(side.stop - side.start for side in others)
        step = max(1, _MOST_COVARIANCES // max(1, n_across * n_known))
        for start in range(first.start, first.stop, step):
            yield slice(start, min(first.stop, start + step)), *others


def _tiles(known: Flags) -> Iterator[_Tile]:
    """Cut a grid with the cells `known` into tiles; a grid not much larger than one is a single tile."""
    n_axes = n_extended(known.shape)
    tiling = _TILINGS[n_axes]
    distance = (known.size / int(known.sum())) ** (1 / n_axes)
    halo = min(tiling.most, max(tiling.least, math.ceil(tiling.distances * distance)))
    side = tiling.halos * halo
    cuts = []
    for size in known.shape:
        n = max(1, -(-size // (side + halo)))
        edges = np.linspace(0, size, n + 1).astype(int)
        cuts.append(
            [
                (slice(a, b), slice(max(0, a - halo), min(size, b + halo)))
                for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            ]
        )
    for cut in product(*cuts):
        yield _Tile(tuple(inner for inner, _ in cut), tuple(outer for _, outer in cut))


def work_of(n_known: int, n_cells: int) -> float:
    """Return what estimating a map of `n_cells` from so many costs, over that from hardly any; measured on a CPU."""
    return 1.0 if n_known >= n_cells else 1.0 + (n_known / n_cells / _SHARE_OF_DOUBLE_WORK) ** 2


def fit_field(axes: Axes, known: Flags, values: Floats) -> Field:
    """Fit the process to computed cells: `known` (*shape) with `values` (n,), the last axis fastest.

    Values that do not vary give a scale that is hardly above 0.
    """
    centred = values - values.mean()
    spread = float(np.sqrt(np.mean(centred * centred)))
    least = _LEAST_SCALE * max(1.0, float(np.abs(values).max()))
    if spread <= least:
        return Field(axes, _LENGTHS[0], np.full(axes.shape, least), np.ones(len(values)))
    length = _fitted_length(axes, np.nonzero(known), centred)
    field = Field(axes, length, np.full(axes.shape, spread), np.ones(len(values)))
    for _ in range(_SCALE_ROUNDS):
        residuals, variances = field.left_out(known, centred)
        squares = residuals * residuals / variances
        smooth = _smoothed(squares, known)
        field = Field(axes, length, np.maximum(field.scale * np.sqrt(smooth), least), squares / smooth[known])
    return field


def _fitted_length(axes: Axes, at: Places, centred: Floats) -> float:
    """Return the correlation length of largest marginal likelihood, the scale being the best one for each."""
    n = len(centred)
    if n > _MOST_FITTED:
        # A compact part, not a thinned one: neighbours are what tells lengths apart.
        middle = reduce(np.hypot, (places - np.median(places) for places in at))
        nearest = np.argsort(middle, kind="stable")[:_MOST_FITTED]
        at, centred, n = tuple(places[nearest] for places in at), centred[nearest], _MOST_FITTED

    def likelihood(length: float) -> float:
        factor = torch.linalg.cholesky(_products(axes, length, at))
        half = torch.linalg.solve_triangular(factor, torch.from_numpy(centred)[:, None], upper=False)
        variance = float((half * half).mean())
        return -0.5 * n * math.log(variance) - float(factor.diagonal().log().sum())

    return _highest(_LENGTHS, likelihood)


def _highest(places: Sequence[float], height: Callable[[float], float]) -> float:
    """Return the place of largest height, climbed to from the middle: heights rise to it and fall after it."""
    at = len(places) // 2
    best = height(places[at])
    for step in (1, -1):
        start = at
        while 0 <= at + step < len(places) and (value := height(places[at + step])) > best:
            at, best = at + step, value
        if at != start:
            break
    return places[at]


def _smoothed(squares: Floats, known: Flags) -> Floats:
    """Return the means of the squares (n,) of `known` cells around each cell of the grid.

    Where few are near they are drawn towards their mean over the map.
    """
    spread = np.zeros((2, *known.shape))
    spread[0][known], spread[1][known] = squares, 1.0
    # NumPy's matrix products have threads of their own, which PyTorch's would wait for.
    weights = [
        torch.from_numpy(np.exp(-0.5 * ((np.arange(n)[:, None] - np.arange(n)) / _SCALE_REACH) ** 2))
        for n in known.shape
    ]
    near, many = _along_axes(weights, torch.from_numpy(spread)).numpy()
    total = max(float(squares.mean()), np.finfo(float).tiny)
    smooth: Floats = (near + _SCALE_PRIOR * total) / (many + _SCALE_PRIOR)
    return smooth


def _products(axes: Axes, length: float, at: Places) -> torch.Tensor:
    """Return the correlations of cells with each other, (n, n), well-posed."""
    each = zip(axes.correlations(length), at, strict=True)
    system = reduce(torch.mul, (torch.from_numpy(along[:, places][places]) for along, places in each))
    system.diagonal().add_(_NUGGET)
    return system


def select_spread(gain: Floats, taken: Flags, n: int, field: Field) -> Ints:
    """Choose n cells of large `gain` (*shape) that are not `taken`, flat numbers in the order chosen.

    Each choice takes from its neighbours' gains what it tells about them, by the square of their correlation, so
    that a batch chosen at once does not crowd.
    """
    left = np.where(taken, -1.0, gain)
    squared = [c * c for c in field.axes.correlations(field.length)]
    reach = [_reach(c) for c in squared]
    chosen = np.empty(min(n, int((~taken).sum())), np.int64)
    for k in range(len(chosen)):
        best = int(left.argmax())
        place = tuple(map(int, np.unravel_index(best, left.shape)))
        chosen[k] = best
        box = tuple(slice(max(0, at - far), at + far + 1) for at, far in zip(place, reach, strict=True))
        told = reduce(np.multiply.outer, (c[at, side] for c, at, side in zip(squared, place, box, strict=True)))
        near = left[box]
        near *= np.where(near > 0, 1.0 - told, 1.0)
        left[place] = -1.0
    return chosen


def _reach(squared: Floats) -> int:
    """Return the cells along an axis beyond which correlations are slight."""
    return int(max(1, (squared[len(squared) // 2] > 0.01).sum() // 2))
