"""Networks and pictures on which guesses fail, or might: the map is right, what is stated true, and little is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import obeql
from obeql.executor.adaptive.map_quality import quality_of
from obeql.executor.operators.proxy_forward import ProxyRun
from tests.executor.vision_transformer import SIZE
from tests.session.small_proxies import asker, offer_a_proxy, picture, transformer

N_WINDOWS, TRIED = 400, 49


def constant() -> nn.Module:
    module = transformer()
    module.head.weight.data.zero_()
    return module


def steep() -> nn.Module:
    """Return a network whose gradients float16 cannot hold, though it holds all values."""
    module = transformer()
    module.norm.weight.data.mul_(1e-3)
    module.norm.bias.data.zero_()
    module.head.weight.data.mul_(2.2e5)
    return module


class Rounded(nn.Module):
    """A transformer whose logits are rounded by way of integers, which have no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = transformer()

    def forward(self, x: Tensor) -> Tensor:
        return (1e4 * self.inner(x)).to(torch.int32).to(torch.float32) / 1e4


class Gated(nn.Module):
    """Convolutions whose gates are shut or open, whatever is hidden."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x * (1e3 * self.gate(x.mean((2, 3), keepdim=True))).sigmoid()
        return self.head(self.second(x).relu().mean((2, 3)))


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "registers": (lambda: transformer(n_registers=3), "score=log_odds"),
    "no class token": (lambda: transformer(head="mean of a map"), "score=log_odds"),
    "a mean of the patches": (lambda: transformer(head="mean of patches"), "score=log_odds"),
    "masked attention": (lambda: transformer("masked"), "score=log_odds"),
    "one class": (lambda: transformer(n_classes=1), "score=logit"),
    "probabilities": (transformer, "score=probability"),
    "a constant map": (constant, "score=log_odds"),
    "saturated gates": (Gated, "score=log_odds"),
    "integers": (Rounded, "score=log_odds"),
    "float16": (steep, "score=log_odds precision=float16"),
}


def guessed_windows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that fills with the number of windows of each guess."""
    counts: list[int] = []
    changes = ProxyRun.changes

    def counted(self: ProxyRun, *args: Any, **options: Any) -> Any:
        found = changes(self, *args, **options)
        counts.append(int((~np.isnan(found)).any(axis=1).sum()))
        return found

    monkeypatch.setattr(ProxyRun, "changes", counted)
    return counts


@pytest.mark.parametrize("case", CASES)
def test_a_map_is_right_whatever_the_guess(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, options = CASES[case]
    offer_a_proxy(monkeypatch)
    counts = guessed_windows(monkeypatch)
    with obeql.connect() as db:
        asked = asker(db, make(), more=options)
        found, exact = asked("APPROX 0.9")[0], asked("EXACT")[0]
    stated = found.cells.quality
    assert np.isfinite(found.scores).all()
    true = quality_of("ssim", exact.scores[None], found.scores)[0]
    assert true >= stated.get("bound", 1.0) - 1e-6 and true >= 0.9 - 1e-6
    if "proxy_dropped" in stated or "proxy" not in stated:  # a proxy was tried on few windows at most
        assert sum(counts) <= TRIED
    if case == "float16":
        assert stated.get("proxy_dropped") == "the score has no finite gradient"
    if case == "integers":
        assert stated.get("proxy_dropped") == "the score has no gradient"
    if case in ("registers", "no class token", "a mean of the patches"):
        assert stated["proxy"] == "a budget of 12 tokens"


@pytest.mark.parametrize("clause", ["APPROX 0.9", "TOP 5 CELLS"])
def test_a_picture_of_one_color_has_a_map_of_nothing(clause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_a_proxy(monkeypatch)
    with obeql.connect() as db:
        found = asker(db, transformer(), torch.full((3, SIZE, SIZE), 0.25))(clause)[0]
    known = np.isfinite(found.importance)
    assert known.any() and np.abs(found.importance[known]).max() < 1e-5


@pytest.mark.parametrize("patch", [SIZE, SIZE - 1])
def test_windows_that_hide_everything(patch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few windows no plan guesses any; here all are, in spite of it."""
    offer_a_proxy(monkeypatch)
    monkeypatch.setattr("obeql.planner.physical.refinement._FEWEST_WINDOWS", 1)
    monkeypatch.setattr("obeql.planner.physical.proxies._MOST_TRIAL", 1e9)
    statement = f"EXPLAIN OCCLUDE ? USING vit WITH patch={patch} stride=1 score=log_odds fill=black NO REUSE "
    with obeql.connect() as db:
        db.create_model("vit", transformer(), size=SIZE)
        found, exact = (db.execute(statement + clause, [picture()])[0] for clause in ("APPROX 0.9", "EXACT"))
    np.testing.assert_allclose(found.scores, exact.scores, rtol=1e-3)
