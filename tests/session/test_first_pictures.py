"""What proxies do beside APPROX: the first picture of a statement, TOP k CELLS, and WITHIN."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import obeql
from obeql.cli.live_map import LiveMap
from obeql.executor.execution.progress import Progress
from obeql.results.result import Result
from tests.session.small_proxies import asker, offer_a_proxy, transformer

EXACT_CELLS = 48


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Run a clause on a network that a few tokens guess well."""
    offer_a_proxy(monkeypatch)
    with obeql.connect() as db:
        yield asker(db, transformer())


def pictures(states: list[Progress]) -> list[Progress]:
    return [state for state in states if state.preview is not None]


@pytest.mark.parametrize("clause", ["APPROX 0.9", "TOP 5 CELLS", "WITHIN 100 SECONDS"])
def test_the_first_picture_is_what_a_proxy_guesses(asked: Any, clause: str) -> None:
    states: list[Progress] = []
    maps: list[Any] = []

    def look(progress: Progress) -> None:
        states.append(progress)
        maps.append(None if progress.preview is None else progress.preview.importance())

    found = asked(clause, on_progress=look)
    assert "ProxyForward" in str(found.plan) and found[0].cells.quality["proxy"] == "a budget of 12 tokens"
    first = pictures(states)[0]
    (cells,) = first.partial
    assert first.level == 0 and first.bound is None and cells.exact is not None
    assert first.done == cells.exact.sum() and EXACT_CELLS <= first.done < 0.3 * cells.logit.size
    assert cells.quality["bound"] is None
    guess = maps[states.index(first)]
    assert np.isfinite(guess).all()
    whole = asked("EXACT")[0].importance
    assert np.corrcoef(guess.ravel(), whole.ravel())[0, 1] > 0.9
    np.testing.assert_allclose(guess[cells.exact], whole[cells.exact], rtol=1e-3, atol=1e-4)


def test_the_prompt_and_the_page_say_that_it_is_an_estimate(asked: Any) -> None:
    live = pytest.importorskip("obeql.web.live", reason="the page needs the extra ui")
    screen, view, said = io.StringIO(), live.LiveView({}), []
    drawn = LiveMap(Console(file=screen, width=100, force_terminal=True, legacy_windows=False))

    def look(progress: Progress) -> None:
        drawn(progress)
        view.take(progress)
        if view.map is not None:
            said.append(view.facts["stated"])

    asked("APPROX 0.96", on_progress=look)
    drawn.finish()
    assert said[0].startswith("a first estimate, ") and "all guessed by a budget of 12 tokens" in said[0]
    assert screen.getvalue().index("a first estimate") < screen.getvalue().index("level 1: ssim >= ")


def test_a_search_orders_its_candidates_by_guesses(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, whole = asked("TOP 5 CELLS")[0], asked("EXACT")[0]
    best = np.sort(whole.importance.ravel())[-5:]
    known = np.isfinite(found.importance)
    np.testing.assert_allclose(np.sort(found.importance[known])[-5:], best, rtol=1e-3, atol=1e-4)
    assert found.quality.startswith("the 5 most important cells found") and "guessed by" in found.quality
    offer_a_proxy(monkeypatch, ())
    assert found.cells.exact.sum() < asked("TOP 5 CELLS")[0].cells.exact.sum()


def test_guesses_that_time_does_not_allow_are_not_made(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked("EXACT")
    monkeypatch.setattr("obeql.executor.operators.progressive_refine.RefineRun._affordable", lambda *_: 60)
    short = asked("WITHIN 100 SECONDS")[0]
    assert short.cells.quality["proxy_dropped"] == "there was too little time"
    assert np.isfinite(short.importance).all()


def test_of_a_statement_without_a_proxy_pictures_fill_in(asked: Any) -> None:
    states: list[Progress] = []
    asked("EXACT", on_progress=states.append)
    assert pictures(states) and not any(state.partial for state in states)
