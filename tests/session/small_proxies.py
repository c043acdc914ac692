"""Proxies in networks so small that no plan would have any: windows are taken to cost much, and guesses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import obeql
from obeql.results.result import Result
from tests.executor.vision_transformer import SIZE, Transformer


def offer_a_proxy(monkeypatch: pytest.MonkeyPatch, budgets: tuple[int, ...] = (12,)) -> None:
    """Offer budgets of tokens, and look at a map as often as it takes."""
    monkeypatch.setattr("obeql.planner.physical.proxies.token_budget._window_seconds", lambda *_: 1e-9)
    monkeypatch.setattr("obeql.planner.physical.proxies.token_budget._BUDGETS", budgets)
    monkeypatch.setattr("obeql.planner.physical.proxies.token_budget._MOST_TOKENS", 1.0)
    monkeypatch.setattr("obeql.planner.physical.refinement._WORTH_WHILE", 1e9)
    monkeypatch.setattr("obeql.executor.adaptive.budget.Budget.allows", lambda *_: True)
    monkeypatch.setattr("obeql.executor.adaptive.budget.Budget.is_last", lambda *_: False)


def transformer(form: str = "fused", head: str = "token", n_registers: int = 0, n_classes: int = 4) -> nn.Module:
    """Return a small network of tokens that is sure of its class, as trained networks are."""
    torch.manual_seed(5)
    module = Transformer(form, head, 2, n_registers).eval()
    if n_classes != 4:
        module.head = nn.Linear(module.head.in_features, n_classes)
    module.head.bias.data[-1] += 6.0
    return module


def picture() -> Tensor:
    """Return an image of noise, (3, SIZE, SIZE)."""
    return torch.rand((3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))


def asker(db: obeql.Session, module: nn.Module, image: Any = None, more: str = "") -> Callable[..., Result]:
    """Return what runs a clause on 20 x 20 windows of an image."""
    db.create_model("vit", module, size=SIZE)
    head = f"EXPLAIN OCCLUDE ? USING vit WITH patch=5 stride=1 {more or 'score=log_odds'} "
    seen = picture() if image is None else image
    return lambda clause, **options: db.execute(f"{head}{clause} NO REUSE", [seen], **options)
