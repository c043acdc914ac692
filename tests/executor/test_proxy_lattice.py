"""Guesses on lattices: of a smooth map a part of the cells is asked for, of a rough one all."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from obeql.executor.adaptive.gaussian_process import Axes, Field
from obeql.executor.adaptive.lattice import between, lattices
from obeql.executor.network.first_order.gradients import FirstOrder
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.clean_pass import CleanPass
from obeql.executor.operators.proxy_forward import Guess, ProxyRun
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Cost, IncrementalForward, ProxyForward
from obeql.planner.physical.refinement import share_with_proxy

Floats = npt.NDArray[np.float64]

GRID = WindowGrid.over((136, 136), (16, 16), (4, 4))
TRIED = np.sort(np.random.default_rng([0, 0]).permutation(GRID.n_windows)[:48])


def drawn(seed: int, length: float) -> Floats:
    field = Field(Axes.of(GRID), length, np.ones(GRID.shape), np.ones(1))
    return field.draws(2, np.random.default_rng(seed)).reshape(2, -1).T


class Stored(ProxyRun):
    """Gives stored guesses in place of a network's, and counts the cells that it is asked for."""

    def __init__(self, guesses: Floats, price: float) -> None:
        engine = IncrementalForward((True,), (1, 1), 1, 1, Cost(0.0, 0.0, 0.0))
        super().__init__(LayerGraph((), "softmax"), GRID, [ProxyForward("budget_tokens", engine, price, 6)], "log_odds")
        self.guesses = guesses
        self.asked = np.zeros(GRID.n_windows, int)

    def around(self, image: Any, classes: Any) -> FirstOrder:
        return FirstOrder({}, {}, classes, "log_odds")

    def changes(self, proxy: Any, around: Any, image: Any, fill: Any, windows: Any, check: Any = None) -> Floats:
        found = np.full(self.guesses.shape, np.nan)
        found[windows] = self.guesses[windows]
        self.asked[windows] += 1
        return found


def guessed(run: Stored, target: float = 0.9) -> Guess:
    exact = 3.0 * run.guesses + 0.2 * np.random.default_rng(0).standard_normal(run.guesses.shape)
    nothing = torch.zeros(1)
    needed = partial(share_with_proxy, target, n_windows=GRID.n_windows)
    found = run.guess(CleanPass(nothing, nothing, {}), nothing, [0, 1], TRIED, exact[TRIED], needed)
    assert isinstance(found, Guess)
    return found


def test_lattices_hold_each_other_and_end_with_all_cells() -> None:
    found = list(lattices((25, 31)))
    assert [each.mean() < 1 for each in found] == [True, True, False]
    assert all((fine | coarse == fine).all() for coarse, fine in pairwise(found))
    assert all(each[0, 0] and each[-1, -1] for each in found)
    assert [each.all() for each in lattices((9, 40))] == [True]
    assert [each.all() for each in lattices((400,))] == [True]


def test_a_smooth_map_is_guessed_at_few_cells_and_is_right_between_them() -> None:
    run = Stored(drawn(1, 3.0), price=0.3)
    found = guessed(run)
    assert found.share < 0.15 and run.asked.max() == 1
    assert np.mean(run.asked > 0) == pytest.approx(found.share)
    for k in (0, 1):
        assert np.corrcoef(found.changes[:, k], run.guesses[:, k])[0, 1] > 0.995
    assert found.name == f"a budget of 6 tokens at {found.share:.0%} of them"


def test_a_rough_map_is_guessed_at_every_cell() -> None:
    run = Stored(np.random.default_rng(2).standard_normal((GRID.n_windows, 2)), price=0.3)
    found = guessed(run)
    assert found.share == 1.0 and (run.asked == 1).all()
    np.testing.assert_array_equal(found.changes, run.guesses)
    assert found.name == "a budget of 6 tokens"


def test_the_class_that_is_rougher_decides_and_a_dear_proxy_is_asked_for_less() -> None:
    smooth, rougher = drawn(3, 3.0)[:, 0], drawn(4, 0.5)[:, 1]
    shares = [guessed(Stored(np.stack([smooth, each], axis=1), price=0.3)).share for each in (smooth, rougher)]
    assert shares[0] < shares[1]
    cheap, dear = (guessed(Stored(drawn(5, 1.0), price)).share for price in (0.01, 0.4))
    assert dear <= cheap


def test_what_a_lattice_leaves_over_is_measured_beside_it() -> None:
    lattice = next(lattices(GRID.shape))
    known = lattice.copy()
    known.reshape(-1)[TRIED] = True
    axes = Axes.of(GRID)
    for values, most in ((drawn(6, 3.0)[:, 0], 0.03), (drawn(6, 0.2)[:, 0], 1.0)):
        plane = values.reshape(GRID.shape)
        filled, left = between(axes, lattice, known, plane)
        np.testing.assert_allclose(filled[known], plane[known], atol=1e-3)
        true = float(np.mean((filled - plane)[~known] ** 2) / plane.var())
        assert left <= most and true == pytest.approx(left, abs=0.25)
    assert between(axes, lattice, lattice, plane)[1] == 1.0
