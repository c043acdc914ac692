"""Where proxies are offered: networks of tokens, grids and memory large enough."""

from __future__ import annotations

from typing import Any

import pytest

from obeql.planner import Network, Rates
from obeql.planner.boxes import region_layers
from obeql.planner.physical.plan import Cost, DenseForward, Engine, IncrementalForward, ProxyForward
from obeql.planner.physical.proxies import proxies, read_by_gradients
from obeql.planner.physical.proxies.frozen_gates import frozen, gates
from obeql.planner.physical.proxies.setting import ProxySetting, backward_bytes
from obeql.planner.physical.refinement import share_with_proxy
from tests.planner.conftest import gated_like, transformer_like, vgg_like, whole_network


def an_engine(network: Network, rates: Rates) -> Engine:
    regions = region_layers(network, len(network.layers))
    return IncrementalForward(regions, (1, 1), 1, 1, Cost(0.0, 0.0, 300.0))


def offered(**changed: Any) -> tuple[ProxyForward, ...]:
    usual: dict[str, Any] = {"exact_s": 1000.0, "n_classes": 1, "n_windows": 841, "budget": 2e9}
    usual |= {"network": transformer_like(), "rates": Rates(), "engine_of": an_engine}
    disabled = changed.pop("disabled", frozenset())
    return proxies(ProxySetting(**(usual | changed)), disabled)


def test_budgets_are_offered_from_cheap_to_costly() -> None:
    found = offered()
    assert [each.amount for each in found] == [6, 12, 24, 48]
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
        {"disabled": frozenset({"budget_tokens"})},
        {"network": gated_like(), "disabled": frozenset({"freeze_gates"})},
        {"network": gated_like(), "exact_s": 400.0},  # boxes are hardly faster than whole maps
        {"network": gated_like(), "engine_of": lambda network, rates: DenseForward(1, Cost(0.0, 0.0, 1.0))},
    ],
    ids=", ".join,
)
def test_elsewhere_none_is(changed: dict[str, Any]) -> None:
    assert offered(**changed) == ()


def test_gradients_of_each_class_count_as_memory() -> None:
    network = transformer_like()
    read = [network.layers[network.layers[i].inputs[0]] for i in read_by_gradients(network, "budget_tokens")]
    one, three = (backward_bytes(network, read, n) for n in (1, 3))
    assert three > one > 3 * 4 * 257 * 192


def test_a_better_proxy_should_need_fewer_windows_but_never_none() -> None:
    shares = [share_with_proxy(0.9, left, 2809) for left in (1.0, 0.3, 0.1, 0.01, 0.0)]
    assert shares == sorted(shares, reverse=True)
    assert 0.8 < shares[0] <= 1.0 and 0.0 < shares[-1] < 0.06


def test_gates_are_found_by_what_they_read_and_boxes_go_on_behind_them() -> None:
    network = gated_like()
    assert gates(network) == {4: 0}
    (proxy,) = offered(network=network)
    assert (proxy.method, proxy.name, proxy.price) == ("freeze_gates", "frozen gates", pytest.approx(0.3))
    before = region_layers(network, len(network.layers))
    after = region_layers(frozen(network, 1), len(network.layers) + 1)
    assert not any(before[4:]) and after[4] and after[5]


def test_layers_behind_gates_were_not_measured_on_boxes_and_are_estimated() -> None:
    network, seen = gated_like(), []
    n = len(network.layers)

    def engine_of(frozen_: Network, rates: Rates) -> Engine:
        seen.append((frozen_, rates))
        return an_engine(frozen_, rates)

    rates = Rates(layer_s=(1e-3,) * n, box_s=(1e-6, *(2e-6,) * 3, *(0.0,) * 3), box_batch_s=(1e-4,) * n)
    proxies(ProxySetting(network, rates, 1000.0, 1, 841, 2e9, engine_of))
    ((frozen_, used),) = seen
    assert len(frozen_.layers) == len(used.layer_s) == len(used.box_s) == len(used.box_batch_s) == n + 1
    assert used.box_s[1] == 2e-6 and used.box_s[5] > 1e-3 / 4096
