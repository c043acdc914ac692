"""How many images go through the network together: by cost, within memory, and not where windows are left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.cost import Rates
from obeql.planner.physical.image_batching import images_per_batch
from obeql.planner.physical.plan import Engine
from obeql.planner.physical.schedule import choose_engine

FEW = WindowGrid.over((64, 64), (16, 16), (16, 16))
#: a batch costs as much as many positions, so that shared batches pay
RATES = Rates(call_s=1e-3, n_lanes=2)


Together = Callable[..., int]


@pytest.fixture
def network(catalog: Any) -> Network:
    network: Network = catalog.models["vgg"].network
    return network


@pytest.fixture
def together(network: Network) -> Together:
    def choose(rates: Rates = RATES, n_images: int = 100, memory: float = 2e9) -> int:
        def engines(n: int) -> list[Engine]:
            return [choose_engine(network, FEW, rates, int(memory), None, frozenset(), n)[0]]

        return images_per_batch(network, rates, memory, n_images, engines)

    return choose


def test_batches_that_cost_much_are_shared(together: Together) -> None:
    assert together() > 1
    assert together(replace(RATES, call_s=0.0, macs_per_s=RATES.macs_per_s / 50)) == 1


def test_images_whose_windows_are_cheap_share_what_a_group_costs(together: Together) -> None:
    assert together(replace(RATES, call_s=0.0)) > 1


def test_no_more_images_than_there_are(together: Together) -> None:
    assert together(n_images=2) == 2
    assert together(n_images=3) <= 3


def test_memory_bounds_the_number(together: Together) -> None:
    chosen = [together(memory=memory) for memory in (2e9, 2e7, 1e6)]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[-1] == 1


def test_images_that_take_long_go_alone(together: Together) -> None:
    """What is finished is stored image by image; a group must not hold that up."""
    assert together(replace(RATES, macs_per_s=1e6)) == 1


def test_costs_of_shared_batches_fall_and_memory_grows(network: Network) -> None:
    one, eight = (choose_engine(network, FEW, RATES, None, None, frozenset(), n)[0] for n in (1, 8))
    assert eight.cost.seconds < one.cost.seconds
    assert eight.cost.memory >= one.cost.memory


@pytest.mark.parametrize(
    ("statement", "settings", "expected"),
    [
        ("EXPLAIN OCCLUDE scans USING vgg WITH patch=16 stride=16", {}, True),
        ("EXPLAIN OCCLUDE scan0 USING vgg WITH patch=16 stride=16", {}, False),
        ("EXPLAIN OCCLUDE scans USING vgg WITH patch=16 stride=16 workers=2", {}, True),
        ("EXPLAIN OCCLUDE scans USING vgg WITH patch=16 stride=16 WITHIN 5 SECONDS", {}, False),
        ("EXPLAIN OCCLUDE scans USING vgg WITH patch=16 stride=16", {"disabled_rules": "batch_images"}, False),
    ],
)
def test_which_statements_batch_images(plan_of: Any, statement: str, settings: dict[str, str], expected: bool) -> None:
    plan = plan_of(statement, **settings)
    assert (plan.together > 1) is expected
    assert ("BatchedImages" in str(plan)) is expected
