"""A map from some of its cells: lattices that become finer, and what lies between their cells by kriging.

Used by `obeql.executor.operators.proxy_forward`: guesses are often as smooth as windows overlap, and need not be
computed at every cell then. How much the cells between say, held-out ones tell.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from obeql.executor.adaptive.gaussian_process import Axes, fit_field

__all__ = ["between", "lattices"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: Steps of the lattices, from coarse to fine; a lattice has so many cells along each axis, at least.
_STEPS, _LEAST_CELLS = (4, 2), 6


def lattices(shape: tuple[int, ...]) -> Iterator[Flags]:
    """Yield lattices over a grid of `shape`, bool of that shape, each with the cells of the one before; last, all."""
    for step in _STEPS:
        if len(shape) > 1 and min(-(-size // step) for size in shape) >= _LEAST_CELLS:
            lattice = np.zeros(shape, bool)
            lattice[np.ix_(*(sorted({*range(0, size, step), size - 1}) for size in shape))] = True
            yield lattice
    yield np.ones(shape, bool)


def between(axes: Axes, lattice: Flags, known: Flags, values: Floats) -> tuple[Floats, float]:
    """Return a map (*shape) from its `known` cells, and the share of their variance that a lattice leaves over.

    `values` (*shape) count where they are known, bool (*shape). The field is fitted to the cells of `lattice`,
    and the share is measured at the known ones beside it; 1 where these are too few or do not vary.
    """
    on, beside = lattice & known, known & ~lattice
    field = fit_field(axes, on, values[on])
    spread = float(values[beside].var()) if int(beside.sum()) > 3 else 0.0
    left = 1.0
    if spread > 0.0:
        expected = field.posterior(on, values[on][None]).means[0]
        left = min(1.0, float(np.square(expected - values)[beside].mean()) / spread)
    return field.posterior(known, values[known][None]).means[0], left
