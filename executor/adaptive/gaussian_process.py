"""Kriging: a random field over the grid of windows, given the cells computed so far.

Between `sampler`, which owns the cells, and plain linear algebra. The field is a Gaussian process with a product of
Matern-3/2 correlations (neighbouring windows overlap, so their values resemble each other over about a patch) and a
scale that varies over the map. Length and scale come from the computed cells alone: the length by marginal
likelihood, the scale from leave-one-out residuals. Large grids are worked out tile by tile.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equations 2.25, 2.30, 5.12; draws by
Matheron's rule (Wilson et al., Pathwise Conditioning of Gaussian Processes, JMLR 22, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from obeql.planner.grid import WindowGrid

__all__ = ["Axes", "Field", "Posterior", "fit_field", "select_spread", "work_of"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

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
#: Cells around a tile that are read: so many times the mean distance of known cells, whose nearest ones say all there
#: is to know, at least and at most. Sides of tiles are so many times this.
_HALO_DISTANCES, _LEAST_HALO, _MOST_HALO, _TILE_HALOS = 3.5, 5, 10, 3
#: Share of a grid's cells that doubles the work of estimating, if they are known.
_SHARE_OF_DOUBLE_WORK = 0.45


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """Where the windows start along both axes, in patches: float64 (rows,), (cols,)."""

    rows: Floats
    cols: Floats

    @classmethod
    def of(cls, grid: WindowGrid) -> Axes:
        """Return the axes of a grid."""
        return cls(np.asarray(grid.rows.starts) / grid.patch[0], np.asarray(grid.cols.starts) / grid.patch[1])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.cols)

    def correlations(self, length: float) -> tuple[Floats, Floats]:
        """Correlations along the rows (rows, rows) and the columns (cols, cols); a pair's is their product."""
        return _matern(self.rows, length), _matern(self.cols, length)


def _matern(places: Floats, length: float) -> Floats:
    distance = np.sqrt(3.0) / length * np.abs(places[:, None] - places)
    correlation: Floats = (1.0 + distance) * np.exp(-distance)
    return correlation


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """The process before it is conditioned, about a constant: `length` in patches, standard deviations `scale`.

    `scale` is float64 (rows, cols). `squares` are the squared leave-one-out residuals of the cells it was fitted to,
    each over its variance: about 1 on average, more where the field is not Gaussian.
    """

    axes: Axes
    length: float
    scale: Floats
    squares: Floats

    def draws(self, n: int, random: np.random.Generator) -> Floats:
        """Return n draws of the process without its mean, (n, rows, cols)."""
        rows, cols = (
            torch.linalg.cholesky(torch.from_numpy(c + _NUGGET * np.eye(len(c))))
            for c in self.axes.correlations(self.length)
        )
        noise = torch.from_numpy(random.standard_normal((n, *self.axes.shape)))
        drawn: Floats = (rows @ noise @ cols.T).numpy() * self.scale
        return drawn

    def left_out(self, known: Flags, values: Floats) -> tuple[Floats, Floats]:
        """Residuals and variances (known cells,) of the cells `known` (rows, cols), each predicted from the others.

        `values` minus their own mean are what the process describes. Source: Rasmussen and Williams, equation 5.12.
        """
        centred = values - values.mean()
        residuals, variances = np.empty(len(values)), np.empty(len(values))
        n = np.full(known.shape, -1)
        n[known] = np.arange(len(values))
        for tile in _tiles(known):
            inside = np.argwhere(known[tile.outer])
            rows, cols = inside[:, 0] + tile.outer[0].start, inside[:, 1] + tile.outer[1].start
            own = n[rows, cols]
            inverse = torch.cholesky_inverse(self._factor(rows, cols))
            diagonal = inverse.diagonal().numpy()
            solved = (inverse @ torch.from_numpy(centred[own])).numpy()
            here = np.zeros(known.shape, bool)
            here[tile.inner] = True
            keep = here[rows, cols]
            residuals[own[keep]] = (solved / diagonal)[keep]
            variances[own[keep]] = 1.0 / diagonal[keep]
        return residuals, variances

    def posterior(self, known: Flags, values: Floats, draws: Floats | None = None) -> Posterior:
        """Condition on the cells `known` (rows, cols) having `values` (m, known cells), row by row.

        Several sets of values share the correlations; `values` minus their own mean are what the process describes.
        `draws` (n, rows, cols) of the process become draws of the first set's posterior, and tell its variance.
        """
        shape = self.axes.shape
        if known.all():
            means = values.reshape(-1, *shape)
            return Posterior(means, np.zeros(shape), None if draws is None else np.broadcast_to(means[0], draws.shape))
        centres = values.mean(axis=1, keepdims=True)
        means = np.broadcast_to(centres[:, :, None], (len(values), *shape)).copy()
        offsets = values - centres
        variance = np.zeros(shape)
        drawn = None if draws is None else np.empty_like(draws)
        n = np.full(shape, -1)
        n[known] = np.arange(int(known.sum()))
        for tile in _tiles(known):
            inside = np.argwhere(known[tile.outer])
            top, left = tile.outer[0].start, tile.outer[1].start
            rows, cols = inside[:, 0] + top, inside[:, 1] + left
            targets = offsets[:, n[rows, cols]]
            if drawn is not None and draws is not None:
                targets = np.concatenate([targets, draws[:, rows, cols]])
            factor = self._factor(rows, cols)
            at_tile = self._between(tile.inner, rows, cols)
            solved = torch.cholesky_solve(torch.from_numpy(np.ascontiguousarray(targets.T)), factor)
            found = (at_tile @ solved).numpy().T
            inner_shape = tuple(s.stop - s.start for s in tile.inner)
            means[(slice(None), *tile.inner)] += found[: len(values)].reshape(-1, *inner_shape)
            if drawn is not None and draws is not None:
                place = (slice(None), *tile.inner)
                errors = draws[place] - found[len(values) :].reshape(-1, *inner_shape)
                drawn[place] = means[0][tile.inner] + errors
                # About as good as the triangular solution below, for less than half of the work.
                variance[tile.inner] = (errors * errors).mean(axis=0)
            else:
                half = torch.linalg.solve_triangular(factor.float(), at_tile.T.float(), upper=False)
                explained = (half * half).sum(dim=0).numpy().reshape(inner_shape)
                variance[tile.inner] = np.maximum(self.scale[tile.inner] ** 2 - explained, 0.0)
        variance[known] = 0.0
        means[:, known] = values
        if drawn is not None:
            drawn[:, known] = values[0]
        return Posterior(means, variance, drawn)

    def _factor(self, rows: Ints, cols: Ints) -> torch.Tensor:
        """Return the lower Cholesky factor of the covariances of cells with each other, (n, n)."""
        system = _products(self.axes, self.length, rows, cols)
        scale = torch.from_numpy(self.scale[rows, cols])
        system *= scale[:, None]
        system *= scale
        factor: torch.Tensor = torch.linalg.cholesky(system)
        return factor

    def _between(self, box: tuple[slice, slice], rows: Ints, cols: Ints) -> torch.Tensor:
        """Covariances of every cell of a box with given cells: (cells of the box, n)."""
        by_row, by_col = self.axes.correlations(self.length)
        left = torch.from_numpy(by_row[box[0]][:, rows] * self.scale[rows, cols])
        between = left[:, None, :] * torch.from_numpy(by_col[box[1]][:, cols])
        between *= torch.from_numpy(np.ascontiguousarray(self.scale[box]))[:, :, None]
        return between.reshape(-1, len(rows))


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What is known of a map: `means` (m, rows, cols) for each set of values, `variance` (rows, cols) of the first.

    `draws` (n, rows, cols) are maps the first might be. Where a cell was computed the variance is 0 and all agree.
    """

    means: Floats
    variance: Floats
    draws: Floats | None = None

    def plus(self, *trends: Floats) -> Posterior:
        """Return what is known of the map about trends (rows, cols) that were taken out, one for each set of values."""
        draws = None if self.draws is None else self.draws + trends[0]
        return Posterior(self.means + np.stack(trends), self.variance, draws)


@dataclass(frozen=True, slots=True)
class _Tile:
    """A box of cells to work out, and the box around it whose computed cells are read."""

    inner: tuple[slice, slice]
    outer: tuple[slice, slice]


def _halo(n_known: int, n_cells: int) -> int:
    return min(_MOST_HALO, max(_LEAST_HALO, math.ceil(_HALO_DISTANCES * math.sqrt(n_cells / n_known))))


def _tiles(known: Flags) -> Iterator[_Tile]:
    """Cut a grid with the cells `known` into tiles; a grid not much larger than one is a single tile."""
    cuts = []
    halo = _halo(int(known.sum()), known.size)
    side = _TILE_HALOS * halo
    for size in known.shape:
        n = max(1, -(-size // (side + halo)))
        edges = np.linspace(0, size, n + 1).astype(int)
        cuts.append(
            [
                (slice(a, b), slice(max(0, a - halo), min(size, b + halo)))
                for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            ]
        )
    for rows, outer_rows in cuts[0]:
        for cols, outer_cols in cuts[1]:
            yield _Tile((rows, cols), (outer_rows, outer_cols))


def work_of(n_known: int, n_cells: int) -> float:
    """Return what estimating a map of `n_cells` from so many costs, over that from hardly any; measured on a CPU."""
    return 1.0 if n_known >= n_cells else 1.0 + (n_known / n_cells / _SHARE_OF_DOUBLE_WORK) ** 2


def fit_field(axes: Axes, known: Flags, values: Floats) -> Field:
    """Fit the process to computed cells: `known` (rows, cols) with `values` (n,), row by row.

    Values that do not vary give a scale that is hardly above 0.
    """
    rows, cols = np.nonzero(known)
    centred = values - values.mean()
    spread = float(np.sqrt(np.mean(centred * centred)))
    least = _LEAST_SCALE * max(1.0, float(np.abs(values).max()))
    if spread <= least:
        return Field(axes, _LENGTHS[0], np.full(axes.shape, least), np.ones(len(values)))
    length = _fitted_length(axes, rows, cols, centred)
    field = Field(axes, length, np.full(axes.shape, spread), np.ones(len(values)))
    for _ in range(_SCALE_ROUNDS):
        residuals, variances = field.left_out(known, centred)
        squares = residuals * residuals / variances
        smooth = _smoothed(squares, rows, cols, axes.shape)
        field = Field(axes, length, np.maximum(field.scale * np.sqrt(smooth), least), squares / smooth[rows, cols])
    return field


def _fitted_length(axes: Axes, rows: Ints, cols: Ints, centred: Floats) -> float:
    """Return the correlation length of largest marginal likelihood, the scale being the best one for each."""
    if len(rows) > _MOST_FITTED:
        # A compact part, not a thinned one: neighbours are what tells lengths apart.
        middle = np.hypot(rows - np.median(rows), cols - np.median(cols))
        nearest = np.argsort(middle, kind="stable")[:_MOST_FITTED]
        rows, cols, centred = rows[nearest], cols[nearest], centred[nearest]

    def likelihood(length: float) -> float:
        factor = torch.linalg.cholesky(_products(axes, length, rows, cols))
        half = torch.linalg.solve_triangular(factor, torch.from_numpy(centred)[:, None], upper=False)
        variance = float((half * half).mean())
        return -0.5 * len(rows) * math.log(variance) - float(factor.diagonal().log().sum())

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


def _smoothed(squares: Floats, rows: Ints, cols: Ints, shape: tuple[int, int]) -> Floats:
    """Means of squares around each cell of the grid, drawn towards their mean over the map where few are near."""
    # NumPy's matrix products have threads of their own, which PyTorch's would wait for.
    by_row, by_col = (
        torch.from_numpy(np.exp(-0.5 * ((np.arange(size)[:, None] - places) / _SCALE_REACH) ** 2))
        for size, places in zip(shape, (rows, cols), strict=True)
    )
    total = max(float(squares.mean()), np.finfo(float).tiny)
    near = (by_row * torch.from_numpy(squares)) @ by_col.T + _SCALE_PRIOR * total
    smooth: Floats = (near / (by_row @ by_col.T + _SCALE_PRIOR)).numpy()
    return smooth


def _products(axes: Axes, length: float, rows: Ints, cols: Ints) -> torch.Tensor:
    """Correlations of cells with each other, (n, n), well-posed."""
    by_row, by_col = axes.correlations(length)
    system = torch.from_numpy(by_row[:, rows][rows]) * torch.from_numpy(by_col[:, cols][cols])
    system.diagonal().add_(_NUGGET)
    return system


def select_spread(gain: Floats, taken: Flags, n: int, field: Field) -> Ints:
    """Choose n cells of large `gain` (rows, cols) that are not `taken`, flat numbers in the order chosen.

    Each choice takes from its neighbours' gains what it tells about them, by the square of their correlation, so
    that a batch chosen at once does not crowd.
    """
    left = np.where(taken, -1.0, gain)
    n_rows, n_cols = left.shape
    squared = [c * c for c in field.axes.correlations(field.length)]
    reach = [_reach(c) for c in squared]
    chosen = np.empty(min(n, int((~taken).sum())), np.int64)
    for k in range(len(chosen)):
        best = int(left.argmax())
        row, col = divmod(best, n_cols)
        chosen[k] = best
        rows = slice(max(0, row - reach[0]), min(n_rows, row + reach[0] + 1))
        cols = slice(max(0, col - reach[1]), min(n_cols, col + reach[1] + 1))
        near = left[rows, cols]
        near *= np.where(near > 0, 1.0 - np.outer(squared[0][row, rows], squared[1][col, cols]), 1.0)
        left[row, col] = -1.0
    return chosen


def _reach(squared: Floats) -> int:
    """Cells along an axis beyond which correlations are slight."""
    return int(max(1, (squared[len(squared) // 2] > 0.01).sum() // 2))
