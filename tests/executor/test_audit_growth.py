"""What an audit about guesses grows by: certainty where that is lacking, chosen cells where quality is."""

from __future__ import annotations

import numpy as np
import pytest

from obeql.executor.adaptive.audit_growth import cheapest_growth
from obeql.executor.adaptive.problem import Goal, Problem
from obeql.executor.adaptive.sampler import Sampler
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.proxies import PROXY_TRIAL

GRID = WindowGrid.over((120, 120), (16, 16), (4, 4))


def test_certainty_alone_is_lacking_where_little_is_lost() -> None:
    growth, chosen = cheapest_growth(0.01, 0.1, 0.1, 48, 729)
    assert 1.0 < growth < 1.6 and chosen == 0.0


def test_quality_is_lacking_where_much_is_lost() -> None:
    growth, chosen = cheapest_growth(0.2, 0.02, 0.1, 120, 729)
    assert growth < 1.5 and 0.1 < chosen < 0.3


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.3, 1.0])
def test_more_is_lacking_the_more_is_lost_and_the_less_is_allowed(loss: float) -> None:
    def cells(*of: float) -> float:
        growth, chosen = cheapest_growth(*of, 60, 729)
        return (growth - 1.0) * 60 + chosen * 729

    assert cells(loss, 0.08, 0.1) <= cells(loss + 0.05, 0.08, 0.1)
    assert cells(loss, 0.08, 0.2) <= cells(loss, 0.08, 0.1)


def test_where_no_audit_is_large_enough_it_grows_as_much_as_it_may() -> None:
    assert cheapest_growth(0.0, 0.9, 0.05, 24, 729) == (2.5, 0.0)


def certified(n_tried: int) -> Sampler:
    """Return a sampler whose guess is right, after its first look."""
    truth = np.add.outer(np.sin(np.arange(27) / 3.0), np.cos(np.arange(27) / 4.0)) + 9.0
    sampler = Sampler(Problem(GRID, "log_odds", 1, Goal("ssim", 0.95, 0.9), 3))
    tried = sampler.trial(PROXY_TRIAL)
    flat = truth.reshape(-1, 1)
    guess = flat + 0.01 * np.random.default_rng(0).standard_normal(flat.shape)
    sampler.cells.add(tried, flat[tried], np.zeros((len(tried), 1)))
    sampler.guess(guess, np.zeros_like(guess), n_tried)
    asked = sampler.first().exact
    sampler.cells.add(asked, flat[asked], np.zeros((len(asked), 1)))
    sampler.update()
    return sampler


def test_cells_that_proxies_are_tried_on_are_the_beginning_of_the_audit() -> None:
    sampler = certified(1)
    assert sampler.n_audit == PROXY_TRIAL
    assert int(sampler.cells.exact.sum()) <= PROXY_TRIAL + 9  # and a lattice


def test_a_bound_is_lower_the_more_proxies_there_were_to_choose_from() -> None:
    bounds = [certified(n).worst for n in (1, 2, 4)]
    assert bounds == sorted(bounds, reverse=True) and bounds[0] > bounds[2] + 0.01
