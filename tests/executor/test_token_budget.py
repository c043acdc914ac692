"""A network of tokens with a budget: equal to the network where the budget is all of them, to first order elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import obeql
from obeql.executor.adaptive.map_quality import ssim
from obeql.executor.network.capture.capture import capture
from obeql.executor.network.first_order.gradients import FirstOrder, first_order, score_of_logits
from obeql.executor.network.first_order.token_budget import TokenBudget, _Few
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers.attention import Attention
from obeql.executor.network.layers.tokens import as_rows
from obeql.executor.operators.proxy_forward import ProxyRun, unexplained
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Cost, IncrementalForward, ProxyForward
from obeql.planner.physical.proxies.token_budget import chosen_layers
from obeql.planner.scores import ScoreKind
from obeql.results.heatmap import Heatmap
from tests.executor.vision_transformer import SIZE, Transformer

GRID = WindowGrid.over((SIZE, SIZE), (6, 6), (3, 3))
FORMS = [("fused", "token"), ("written", "mean of patches"), ("module", "mean of a map"), ("masked", "token")]


def graph_of(form: str = "fused", head: str = "token", n_blocks: int = 3, n_registers: int = 0) -> LayerGraph:
    torch.manual_seed(5)
    module = Transformer(form, head, n_blocks, n_registers).eval().double()
    return capture(module, (3, SIZE, SIZE)).to(torch.device("cpu"), torch.float64)


def an_image() -> Tensor:
    return torch.rand((1, 3, SIZE, SIZE), dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def exact_scores(graph: LayerGraph, image: Tensor, fill: Tensor, classes: Sequence[int], kind: ScoreKind) -> np.ndarray:
    hidden = []
    for top in GRID.rows.starts:
        for left in GRID.cols.starts:
            one = image.clone()
            one[:, :, top : top + 6, left : left + 6] = fill
            hidden.append(one)
    with torch.inference_mode():
        logits = graph.forward(torch.cat(hidden))
    return score_of_logits(logits, classes, graph.activation, kind).numpy()


def guessed(graph: LayerGraph, tokens: int, classes: Sequence[int], kind: ScoreKind, batch: int = 5) -> np.ndarray:
    network = graph.network()
    engine = IncrementalForward(region_layers(network, len(network.layers)), (2, 2), 8, batch, Cost(0.0, 0.0, 0.0))
    proxy = ProxyForward("budget_tokens", engine, 0.1, tokens)
    image, fill = an_image(), torch.zeros((3, 1, 1), dtype=torch.float64)
    run = ProxyRun(graph, GRID, [proxy], kind)
    around = run.around(image, classes)
    assert isinstance(around, FirstOrder)
    return run.changes(proxy, around, image, fill, None)


@pytest.mark.parametrize(("form", "head"), FORMS)
@pytest.mark.parametrize("kind", ["log_odds", "logit"])
def test_with_a_budget_of_all_tokens_guesses_are_exact(form: str, head: str, kind: ScoreKind) -> None:
    graph = graph_of(form, head)
    exact = exact_scores(graph, an_image(), torch.zeros((3, 1, 1), dtype=torch.float64), [2, 0], kind)
    np.testing.assert_allclose(guessed(graph, 40, [2, 0], kind), exact, atol=1e-9)
    # One token fewer than there are: all but the smallest change is computed.
    nearly = guessed(graph, 15, [2, 0], kind)
    assert np.corrcoef(nearly[:, 0], exact[:, 0])[0, 1] > 0.99


@pytest.mark.parametrize("strength", [30.0, 300.0])
def test_attention_that_leaves_a_token_or_rushes_to_one_is_summed_anew(strength: float) -> None:
    """Where nearly all weight was on a token that changed, or goes to it, differences of sums would say nothing."""
    torch.manual_seed(1)
    n_tokens, width = 9, 4
    layer = Attention("attention", (0, 1, 2), (width, n_tokens, 1), 1, 1.0, n_tokens, width)
    q, k, v = (torch.randn(1, width, n_tokens, 1) for _ in range(3))
    q[:, 0] = 1.0
    k[:, 0], k[:, 0, 4] = 0.0, strength  # all attend to token 4
    budget = TokenBudget(graph_of(n_blocks=1), (), 2, {}, {})
    for away in (True, False):
        after = k.clone()
        after[:, 0, 4], after[:, 0, 5] = 0.0, 0.0 if away else strength
        index = torch.tensor([[5, 4]])
        budget._scores.clear()
        clean = {j: as_rows(each)[0] for j, each in enumerate((q, k, v))}
        budget._clean = clean | {3: as_rows(layer.forward([q, k, v]))[0]}
        few = [_Few(index, as_rows(each)[:, index[0]]) for each in (q, after, v)]
        found = budget._attention(3, layer, few)
        assert found is not None
        expected = as_rows(layer.forward([q, after, v])) - budget._clean[3]
        torch.testing.assert_close(found.change, expected, atol=1e-5, rtol=1e-4)


def test_registers_are_tokens_as_others() -> None:
    graph = graph_of(n_blocks=2, n_registers=2)
    exact = exact_scores(graph, an_image(), torch.zeros((3, 1, 1), dtype=torch.float64), [1], "log_odds")
    np.testing.assert_allclose(guessed(graph, 40, [1], "log_odds"), exact, atol=1e-9)


@pytest.mark.parametrize(("form", "head"), FORMS[:3])
def test_what_a_budget_leaves_out_counts_to_first_order(form: str, head: str) -> None:
    graph = graph_of(form, head)
    image, classes = an_image(), [1]
    fill = torch.zeros((3, 1, 1), dtype=torch.float64)
    exact = exact_scores(graph, image, fill, classes, "log_odds")[:, 0]
    found = guessed(graph, 3, classes, "log_odds")[:, 0]
    network = graph.network()
    around = first_order(graph, image, dict.fromkeys(chosen_layers(network), 0), classes, "log_odds")
    assert isinstance(around, FirstOrder)
    dropped = []
    zero = {i: torch.zeros_like(g) for i, g in around.gradients.items()}
    budget = TokenBudget(graph, range(2, len(graph.layers)), 3, around.values, zero)
    for top in GRID.rows.starts:
        for left in GRID.cols.starts:
            one = image.clone()
            one[:, :, top : top + 6, left : left + 6] = fill
            with torch.inference_mode():
                logits, added = budget.run({1: graph.layers[1].forward([one])})
            assert not added.any()
            dropped.append(float(score_of_logits(logits, classes, graph.activation, "log_odds")))
    assert np.abs(found - exact).mean() < np.abs(np.array(dropped) - exact).mean()
    assert np.corrcoef(found, exact)[0, 1] > np.corrcoef(dropped, exact)[0, 1]


def test_gradients_are_those_of_a_change_of_what_a_layer_reads() -> None:
    graph = graph_of()
    gates = dict.fromkeys(chosen_layers(graph.network()), 0)
    assert {graph.layers[i].kind for i in gates} == {"channel_norm", "conv"}
    around = first_order(graph, an_image(), gates, [3], "log_odds")
    assert isinstance(around, FirstOrder)
    gradients, values = around.gradients, around.values
    assert set(gradients) == set(gates)
    for gate in sorted(gates)[:4]:
        step = torch.randn(gradients[gate].shape[1:], dtype=torch.float64) * 1e-5
        rows: dict[int, Tensor] = {}
        with torch.inference_mode():
            for i, layer in enumerate(graph.layers):
                inputs = [rows.get(j, values[j]) for j in layer.inputs]
                if i == gate:
                    inputs[0] = inputs[0] + step.t()[None, :, :, None]
                if i and (i == gate or any(j in rows for j in layer.inputs)):
                    rows[i] = layer.forward(inputs)
        scores = [
            score_of_logits(each, [3], graph.activation, "log_odds")[0, 0]
            for each in (rows[len(graph.layers) - 1], values[len(graph.layers) - 1])
        ]
        expected = float((gradients[gate][0] * step).sum())
        assert float(scores[0] - scores[1]) == pytest.approx(expected, rel=1e-3)


def test_a_score_without_a_finite_derivative_has_no_gradients() -> None:
    graph = graph_of()
    graph.layers[-1].weight.fill_(torch.nan)  # type: ignore[attr-defined]
    gates = dict.fromkeys(chosen_layers(graph.network()), 0)
    assert first_order(graph, an_image(), gates, [0], "log_odds") == "the score has no finite gradient"


def test_an_operator_without_a_derivative_has_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(n_blocks=1)
    gates = dict.fromkeys(chosen_layers(graph.network()), 0)
    monkeypatch.setattr(Attention, "forward", lambda self, inputs: inputs[0].to(torch.int64))
    assert first_order(graph, an_image(), gates, [0], "log_odds") == "the score has no gradient"


def test_a_map_that_does_not_vary_says_nothing_of_a_proxy() -> None:
    same, varied = np.full(48, 2.0), np.linspace(0.0, 1.0, 48)
    assert unexplained(same, varied) == unexplained(varied, same) == unexplained(same, same) == 1.0
    assert unexplained(-3.0 * varied + 1.0, varied) < 1e-9


def explained(monkeypatch: pytest.MonkeyPatch, rules: str = "", **options: Any) -> tuple[str, Heatmap, Heatmap]:
    """Return the plan of an approximate map, the map, and the exact one, of a network that a few tokens guess well."""
    monkeypatch.setattr("obeql.planner.physical.proxies.token_budget._window_seconds", lambda *_: 1e-9)
    monkeypatch.setattr("obeql.planner.physical.proxies.token_budget._BUDGETS", (12,))
    monkeypatch.setattr("obeql.planner.physical.proxies.token_budget._MOST_TOKENS", 1.0)
    # In so small a network, looks at maps and small batches cost more than windows, and all would be computed at once.
    monkeypatch.setattr("obeql.planner.physical.refinement._WORTH_WHILE", 1e9)
    monkeypatch.setattr("obeql.executor.adaptive.budget.Budget.allows", lambda *_: True)
    monkeypatch.setattr("obeql.executor.adaptive.budget.Budget.is_last", lambda *_: False)
    torch.manual_seed(5)
    module = Transformer("fused", "token", 2).eval()
    module.head.bias.data[3] += 6.0  # sure of a class, as trained networks are
    image = an_image().float()[0]
    with obeql.connect() as db:
        db.create_model("vit", module, size=SIZE)
        if rules:
            db.execute(f"SET obeql.disabled_rules = '{rules}'")
        found = db.explain(image, "vit", patch=5, stride=1, score="log_odds", approx=0.9, **options)
        exact = db.explain(image, "vit", patch=5, stride=1, score="log_odds", reuse=False)
    return str(found.plan), found[0], exact[0]


def test_an_approximate_map_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, found, exact = explained(monkeypatch)
    assert "ProxyForward" in plan and "a budget of 12 tokens" in plan
    assert "all guessed by a budget of 12 tokens" in found.quality
    quality = found.cells.quality
    assert quality["metric"] == "ssim" and quality["bound"] >= 0.9 and quality["n_exact"] < 0.8 * 400
    assert ssim(exact.scores[None], found.scores)[0] >= quality["bound"]


def test_guesses_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, found, _ = explained(monkeypatch, "choose_proxy")
    assert "ProxyForward" not in plan and "guessed" not in found.quality


@pytest.mark.parametrize(
    ("worth", "why"),
    [(np.nan, "they were not finite"), (np.inf, "they were not finite"), (0.0, "they told too little")],
)
def test_bad_guesses_are_dropped_and_told(worth: float, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(self: TokenBudget, maps: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        n = len(next(iter(maps.values())))
        return torch.randn((n, 4)), torch.full((n, 1), worth)

    monkeypatch.setattr(TokenBudget, "run", bad)
    _, found, exact = explained(monkeypatch)
    assert found.cells.quality["proxy_dropped"] == why and "guessed by" not in found.quality
    assert ssim(exact.scores[None], found.scores)[0] >= 0.9
