"""Measured rates: corrected by runs, doubted when a run differs, kept for one kind of machine, forgotten when told."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from obeql.errors import QueryTypeError
from obeql.planner.geometry import LayerSpec, Network
from obeql.planner.physical.cost import Rates
from obeql.session.rate_book import RateBook, shown_age
from obeql.store import Store

RATES = Rates(layer_s=(0.0, 1e-3), box_s=(0.0, 1e-5), box_batch_s=(0.0, 1e-4), call_s=1e-5, pass_s=2e-3)


@pytest.fixture(autouse=True)
def rates_measured_once() -> None:
    """Not here: each test measures."""


def network(macs: int = 64) -> Network:
    image = LayerSpec("image", "image", "source", (), (3, 8, 8))
    return Network((image, LayerSpec("1", "conv", "pointwise", (0,), (1, 8, 8), macs)))


@pytest.fixture
def book() -> Iterator[RateBook]:
    store = Store()
    yield RateBook(store)
    store.close()


def test_a_run_corrects_the_rates_by_half_of_what_it_differs(book: RateBook) -> None:
    book.put("k", RATES, network(), 1e12)
    book.learn("k", {"boxes": (10.0, 14.4), "maps": (10.0, 10.0)})
    known = book.find("k", 2)
    assert known is not None and not known.is_doubted and known.n_runs == 1
    assert known.now().box_s[1] == pytest.approx(1.2e-5, rel=0.03)
    assert known.now().layer_s[1] == pytest.approx(1e-3)
    assert "corrected by 1 run" in known.now().origin


def test_short_runs_tell_nothing(book: RateBook) -> None:
    known = book.put("k", RATES, network(), 1e12)
    book.learn("k", {"boxes": (0.01, 0.4)})
    assert book.find("k", 2) == known


@pytest.mark.parametrize("busy", [25.0, 4.0])
def test_a_run_that_differs_by_more_than_twice_has_the_rates_measured_again_once(book: RateBook, busy: float) -> None:
    book.put("k", RATES, network(), 1e12)
    book.learn("k", {"boxes": (10.0, busy)})
    known = book.find("k", 2)
    assert known is not None and known.is_doubted and known.doubt == pytest.approx(busy / 10)
    book.save()
    again = RateBook(book._store).find("k", 2)  # another session hears of the doubt
    assert again is not None and again.is_doubted
    # What is measured now is as before: then the run is right.
    book.put("k", RATES, network(), 1e12)
    book.learn("k", {"boxes": (10.0, busy)})
    known = book.find("k", 2)
    assert known is not None and not known.is_doubted
    assert known.now().box_s[1] == pytest.approx(1e-5 * busy / 10, rel=0.03)


def test_no_layer_is_faster_than_the_device_can_be() -> None:
    absurd = replace(RATES, layer_s=(0.0, 1e-12), box_s=(0.0, 1e-15), pass_s=1e-12)
    bounded = absurd.bounded(network(6_400_000), 1e9)
    assert bounded.layer_s[1] == bounded.pass_s == pytest.approx(6.4e-3)
    assert bounded.box_s[1] == pytest.approx(1e-4)
    assert RATES.bounded(network(64), 1e9) == RATES  # nothing to mend


def test_corrections_outlive_the_session_and_are_forgotten_with_the_rates(tmp_path: Path) -> None:
    with Store(tmp_path / "heat.duckdb") as store:
        book = RateBook(store)
        book.put("k", RATES, network(), 1e12)
        book.put_limit("l", 5e10)
        book.learn("k", {"boxes": (10.0, 14.4)})
        book.save()
    with Store(tmp_path / "heat.duckdb") as store:
        book = RateBook(store)
        known = book.find("k", 2)
        assert known is not None and known.n_runs == 1 and known.boxes > 1.1 and book.limit_of("l") == 5e10
        assert book.find("k", 3) is None and book.find("other machine", 2) is None
        assert book.forget() == 1 and book.find("k", 2) is None and book.limit_of("l") is None
    with Store(tmp_path / "heat.duckdb") as store:
        assert RateBook(store).find("k", 2) is None


def test_measuring_anew_leaves_old_corrections_behind(book: RateBook) -> None:
    book.put("k", RATES, network(), 1e12)
    book.learn("k", {"boxes": (10.0, 14.4)})
    book.save()
    time.sleep(0.01)
    book.put("k", RATES, network(), 1e12)
    book.save()
    known = RateBook(book._store).find("k", 2)
    assert known is not None and (known.boxes, known.n_runs) == (1.0, 0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 second"), (42, "42 seconds"), (61, "1 minute"), (7300, "2 hours"), (90_000, "1 day"), (1e6, "11 days")],
)
def test_ages_are_for_people(seconds: float, text: str) -> None:
    assert shown_age(seconds) == text


# ---- in a session --------------------------------------------------------------------------------------------------


def test_plan_says_how_old_the_rates_are_and_reset_forgets_them(net_db: Any, pixels: Any) -> None:
    def phases(statement: str) -> list[str]:
        seen: list[Any] = []
        net_db.execute(statement, [pixels(1)], on_progress=seen.append)
        return [each.phase for each in seen if each.phase.startswith("measuring")]

    plan = "PLAN EXPLAIN OCCLUDE ? USING net WITH patch=16"
    assert len(phases(plan)) == 1 and phases(plan) == []
    shown = " ".join(str(net_db.execute(plan, [pixels(1)])).split())
    assert re.search(r"rates measured with this model \d+ \w+ ago", shown)
    assert "1 forgotten" in str(net_db.execute("RESET obeql.rates"))
    assert "0 forgotten" in str(net_db.execute("RESET obeql.rates"))
    assert len(phases(plan)) == 1
    with pytest.raises(QueryTypeError, match="measured and cannot be set"):
        net_db.execute("SET obeql.rates = 'fast'")


def test_a_doubted_run_is_told_of_when_the_device_is_measured_again(net_db: Any, pixels: Any) -> None:
    statement = "EXPLAIN OCCLUDE ? USING net WITH patch=16"
    net_db.execute(f"PLAN {statement}", [pixels(1)])
    book = net_db._model_registry._book
    (key,) = book._known
    book.learn(key, {"boxes": (1.0, 3.0)})
    seen: list[Any] = []
    net_db.execute(statement, [pixels(1)], on_progress=seen.append)
    phases = [each.phase for each in seen if each.phase]
    assert phases == ["measuring the speed of cpu for net in float32, again: a run took 3.0 times as long as estimated"]
    plan = net_db.execute(f"PLAN {statement}", [pixels(2)])
    assert "again because a run differed from the estimate" in " ".join(str(plan).split())


def test_a_run_corrects_the_rates_that_it_was_planned_with(
    net_db: Any, pixels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obeql.session import rate_book

    monkeypatch.setattr(rate_book, "_LEAST_S", 0.0)  # this run takes milliseconds
    net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16", [pixels(1)])
    (known,) = net_db._model_registry._book._known.values()
    assert known.n_runs == 1 or known.is_doubted


def test_the_processor_is_part_of_what_rates_are_kept_for() -> None:
    from obeql.executor.devices.processor import host_facts, processor_facts

    assert {f"{name}: {value}" for name, value in processor_facts().items()} <= set(host_facts())


def test_rates_of_another_machine_are_not_taken(net_db: Any, pixels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from obeql.executor.devices import base

    statement = "PLAN EXPLAIN OCCLUDE ? USING net WITH patch=16"
    net_db.execute(statement, [pixels(1)])
    facts = base.host_facts()
    monkeypatch.setattr(base, "host_facts", lambda: [*facts, "another kind of processor"])
    seen: list[Any] = []
    net_db.execute(statement, [pixels(1)], on_progress=seen.append)
    assert any(each.phase.startswith("measuring") for each in seen)


def test_other_work_on_the_cores_does_not_count(net_db: Any, pixels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that runs a thousand times too fast, as where the threads hardly ever get a core."""
    from obeql.executor.devices import stopwatch
    from obeql.executor.operators import grid_scan, layer_timer

    if not stopwatch.Stopwatch(torch.device("cpu")).is_of_thread:
        pytest.skip("this system has no fine clock of threads")
    ticks = itertools.count()
    for module in (grid_scan, layer_timer, stopwatch):
        monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16", [pixels(1)])
    (known,) = net_db._model_registry._book._known.values()
    rates = known.now()
    assert sum(rates.layer_s) < 1.0 and sum(rates.box_s) < 1.0 and rates.pass_s < 1.0 and rates.call_s < 1.0


def test_cancel_is_heard_while_the_device_is_measured(net_db: Any, pixels: Any) -> None:
    def stop(progress: Any) -> None:
        if progress.phase.startswith("measuring"):
            net_db.cancel()

    statement = "EXPLAIN OCCLUDE ? USING net WITH patch=16"
    with pytest.raises(KeyboardInterrupt, match="cancelled before anything was computed"):
        net_db.execute(statement, [pixels(1)], on_progress=stop)
    assert not net_db._model_registry._book._known
    assert len(net_db.execute(statement, [pixels(1)])) == 1
