"""Where proxies are offered: networks of tokens, grids and memory large enough."""

from __future__ import annotations

from typing import Any

import pytest

from obeql.planner import Rates
from obeql.planner.physical.plan import ProxyForward
from obeql.planner.physical.proxies import first_order_bytes, proxies
from obeql.planner.physical.refinement import share_with_proxy
from tests.planner.conftest import transformer_like, vgg_like, whole_network


def offered(**changed: Any) -> tuple[ProxyForward, ...]:
    usual = {"exact_s": 1000.0, "n_classes": 1, "n_windows": 841, "budget": 2e9}
    return proxies(changed.pop("network", transformer_like()), Rates(), **(usual | changed))


def test_budgets_are_offered_from_cheap_to_costly() -> None:
    found = offered()
    assert [each.tokens for each in found] == [6, 12, 24, 48]
    assert [each.price for each in found] == sorted(each.price for each in found)


@pytest.mark.parametrize(
    "changed",
    [
        {"network": vgg_like()},
        {"network": whole_network()},
        {"budget": 1e6},  # bytes: a backward pass takes more
        {"n_windows": 60},  # a backward pass and a trial cost too much of so few
        {"n_classes": 9},
        {"exact_s": 1e-6},  # no proxy is cheaper
    ],
    ids=str,
)
def test_elsewhere_none_is(changed: dict[str, Any]) -> None:
    assert offered(**changed) == ()


def test_gradients_of_each_class_count_as_memory() -> None:
    network = transformer_like()
    one, three = (first_order_bytes(network, n) for n in (1, 3))
    assert three > one > 3 * 4 * 257 * 192


def test_a_better_proxy_should_need_fewer_windows_but_never_none() -> None:
    shares = [share_with_proxy(0.9, left, 2809) for left in (1.0, 0.3, 0.1, 0.01, 0.0)]
    assert shares == sorted(shares, reverse=True)
    assert 0.8 < shares[0] <= 1.0 and 0.0 < shares[-1] < 0.06
