"""APPROX, WITHIN and TOP .. CELLS through a session: what is stated, what is stored, and that exact cells are exact."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from obeql.executor.adaptive.map_quality import quality_of
from obeql.executor.operators.grid_scan import GridScan
from obeql.results.result import Result
from obeql.session.run_recorder import RunRecorder

HEAD = "EXPLAIN OCCLUDE ? USING net FOR CLASS 0 WITH patch=8 stride=1 score=log_odds seed=3 "


@pytest.fixture
def asked(db: Any, tiny_net: Any) -> Any:
    """Run a clause on a smooth picture; returns its map."""
    across = np.linspace(0, 3, 32)
    waves = 127 + 120 * np.sin(across)[:, None] * np.cos(2 * across)
    picture = np.repeat(waves.astype(np.uint8)[:, :, None], 3, axis=2)
    db.create_model("net", tiny_net(), size=(32, 32), classes=["ant", "bee", "cat"])
    return lambda clause, **more: db.execute(HEAD + clause, [picture], **more)[0]


def test_a_stated_map(asked: Any, db: Any) -> None:
    states: list[Any] = []
    rough = asked("APPROX 0.8 WITHIN 100 SECONDS", on_progress=states.append)
    levels = [progress for progress in states if progress.level]
    assert all(before.done <= after.done for before, after in pairwise(states)), "windows never uncount"
    again = asked("APPROX 0.8 WITHIN 100 SECONDS NO REUSE")
    exact = asked("EXACT NO REUSE")
    assert 0.8 <= rough.bound <= 1 and rough.target == 0.8 and rough.metric == "ssim" and rough.confidence == 0.95
    assert np.isfinite(rough.scores).all()
    np.testing.assert_array_equal(rough.scores, again.scores)
    stored = db.execute("SELECT n_exact, n_audit, bound, approx FROM heatmaps WHERE run_id = 1").fetchall()[0]
    assert stored[2] == pytest.approx(rough.bound)
    (told,) = db.execute("SELECT quality FROM heatmaps WHERE run_id = 1").fetchall()[0]
    assert json.loads(told)["bound"] == rough.bound
    n_reduced = json.loads(told).get("n_reduced", 0)
    assert rough.share_reduced == n_reduced / rough.scores.size
    assert rough.reduced_precision == ("bfloat16" if n_reduced else None)
    assert stored[3]
    (flags,) = db.execute("SELECT exact FROM heatmaps WHERE run_id = 1").fetchall()[0]
    flags = np.asarray(flags, bool).reshape(rough.scores.shape)
    assert flags.sum() == stored[0] < flags.size and stored[1] >= 24
    np.testing.assert_allclose(rough.scores[flags], exact.scores[flags], rtol=1e-4, atol=1e-5)
    assert all(progress.bound is not None and progress.partial for progress in levels)


def test_estimated_cells_answer_no_other_query(asked: Any) -> None:
    asked("APPROX 0.5")
    after, fresh = asked("EXACT"), asked("EXACT NO REUSE")
    assert after.bound == 1.0
    np.testing.assert_allclose(after.scores, fresh.scores, rtol=1e-4, atol=1e-5)


def test_top_cells(asked: Any) -> None:
    found, exact = asked("TOP 5 CELLS"), asked("EXACT NO REUSE")
    best = np.sort(exact.importance.reshape(-1))[-5:]
    np.testing.assert_allclose(
        np.sort(found.importance[np.isfinite(found.importance)])[-5:], best, rtol=1e-3, atol=1e-4
    )


def test_top_cells_lists_as_many_as_were_asked_for(db: Any, asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from obeql.cli.output_formats import write_outcome

    found, exact = asked("TOP 7 CELLS"), asked("EXACT")
    assert found.n_listed == 7 and len(found.top()) == 7 and exact.n_listed == 5
    assert found.quality == "exact" or found.quality.startswith("the 7 most important cells found (0.95 confidence)")
    for mode, n_lines in (("csv", 8), ("jsonl", 7)):
        write_outcome(Result((found,)), mode)
        assert len(capsys.readouterr().out.splitlines()) == n_lines
    assert len(Result((found,)).table().splitlines()) == 2 + 7
    (n_rows,) = db.connection.execute(
        "SELECT count(*) FROM top_cells(?, ?, 7)", [found.run_id, found.image_id]
    ).fetchone()
    assert n_rows == 7


def test_estimates_among_the_most_important_cells_are_marked(make_heatmap: Any) -> None:
    importance = np.zeros((11, 11))
    importance[2, 2], importance[5, 5] = 3, 2
    heat = make_heatmap(importance, quality={"approx": True, "metric": "ssim", "bound": 0.9, "n_exact": 60})
    exact = np.ones((11, 11), bool)
    exact[2, 2] = False
    heat = replace(heat, cells=replace(heat.cells, exact=exact))
    assert [cell.exact for cell in heat.top(2)] == [False, True]
    lines = Result((heat,)).table(2).splitlines()
    assert "~+3" in lines[2] and " +2" in lines[3] and "~" not in lines[3] and lines[4].strip() == "~ estimated"
    assert "~+3" in repr(heat) and "~+3" in str(Result((heat,)))


def test_within(asked: Any) -> None:
    heat = asked("WITHIN 20 SECONDS")
    assert heat.bound <= 1 and np.isfinite(heat.scores).all()


def test_within_stops_in_the_middle_of_a_level_and_says_what_it_is_late(
    db: Any, tiny_net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    db.create_model("net", tiny_net(), size=(32, 32), classes=["ant", "bee", "cat"])
    db.execute("SET obeql.disabled_rules = 'choose_reduced_precision'")
    across = np.linspace(0, 3, 32)
    wave = (127 + 120 * np.sin(across)[:, None] * np.cos(2 * across)).astype(np.uint8)
    picture = np.repeat(wave[:, :, None], 3, axis=2)
    statement = "EXPLAIN OCCLUDE ? USING net FOR CLASS 1 WITHIN 20 SECONDS WITH patch=8 stride=1 batch=8 score=log_odds"
    whole = db.execute("EXPLAIN OCCLUDE ? USING net FOR CLASS 1 WITH patch=8 stride=1 score=log_odds", [picture])[0]
    real, late = time.perf_counter, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: real() + late[0])
    seen: list[Any] = []

    def hurry(progress: Any) -> None:
        seen.append(progress)
        if progress.done >= 24:  # the audit is there, and part of the lattice
            late[0] = 100.0

    heat = db.execute(f"{statement} NO REUSE", [picture], on_progress=hurry)[0]
    quality = heat.cells.quality
    n_first = next(each.done for each in seen if each.done >= 24)
    assert quality["n_exact"] <= n_first + 16 and quality["n_exact"] < 100  # the lattice alone has 121 windows
    assert quality["late_s"] > 70 and "later than WITHIN 20 SECONDS" in heat.quality
    assert np.isfinite(heat.scores).all() and heat.bound < 1
    computed = heat.cells.exact
    np.testing.assert_allclose(heat.scores[computed], whole.scores[computed], atol=1e-4)
    counted = [each for each in seen if not each.phase]
    assert all(each.within_s == 20 for each in counted) and counted[0].eta_seconds <= 20
    assert counted[-1].left_s == counted[-1].eta_seconds == 0


def test_a_map_that_does_not_vary_is_exact(db: Any, tiny_net: Any) -> None:
    db.create_model("net", tiny_net(), size=(32, 32), classes=["ant", "bee", "cat"])
    heat = db.execute(HEAD + "APPROX 0.9", [np.full((32, 32, 3), 90, np.uint8)])[0]
    assert np.isfinite(heat.scores).all() and heat.bound == 1.0 and heat.share_exact == 1.0


@pytest.mark.parametrize(
    ("clause", "settings"),
    [
        ("FOR ALL WITH patch=8 stride=1 score=probability", {}),
        ("WITH patch=[8, 6] stride=1 score=logit", {}),
        ("REGION (0, 0, 32, 24) WITH patch=8 stride=1 score=log_odds", {}),
        ("WITH patch=8 stride=1 score=log_odds", {"disabled_rules": "choose_engine"}),
        ("WITH patch=8 stride=1 score=log_odds", {"disabled_rules": "choose_reduced_precision"}),
    ],
    ids=["classes", "patches", "region", "dense", "float32"],
)
@pytest.mark.parametrize("metric", ["ssim", "pearson", "top10pct", "maxerr"])
def test_every_plan_keeps_its_word(db: Any, tiny_net: Any, clause: str, settings: dict[str, str], metric: str) -> None:
    across = np.linspace(0, 3, 32)
    waves = [127 + 120 * np.sin(k + across)[:, None] * np.cos(2 * across) for k in range(2)]
    pictures = [np.repeat(wave.astype(np.uint8)[:, :, None], 3, axis=2) for wave in waves]
    db.create_model("net", tiny_net(), size=(32, 32), classes=["ant", "bee", "cat"])
    db.create_images("pictures", pictures)
    for name, value in settings.items():
        db.execute(f"SET obeql.{name} = '{value}'")
    ask = f"EXPLAIN OCCLUDE pictures USING net {clause} "
    # WITHIN refines whatever it is expected to save; so small a network would be computed whole otherwise.
    rough = db.execute(ask + f"APPROX 0.7 METRIC {metric} WITHIN 100 SECONDS NO REUSE")
    assert any(rough.plan.refinements)
    exact = db.execute(ask + "EXACT NO REUSE")
    assert len(rough) == len(exact) >= 2
    for said, true in zip(rough, exact, strict=True):
        assert said.class_id == true.class_id and said.bound >= 0.7
        assert quality_of(metric, true.scores[None], said.scores)[0] >= 0.6


@pytest.mark.parametrize("slow", ["network", "batch", "store"])
def test_a_time_that_cannot_be_kept_is_said_in_the_outcome(
    db: Any, tiny_net: Any, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """A slow network, a slow batch, a slow store: each takes longer than the whole statement may."""
    import time

    from obeql.results.quality_text import quality_sentence

    db.create_model("net", tiny_net(), size=(32, 32), classes=["ant", "bee", "cat"])
    db.execute("SET obeql.disabled_rules = 'choose_reduced_precision'")
    statement = "EXPLAIN OCCLUDE ? USING net FOR CLASS 1 WITHIN 20 SECONDS WITH patch=8 stride=1 batch=8"
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    real, late = time.perf_counter, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: real() + late[0])
    owner, name = {
        "network": (type(db._model_registry), "graph"),
        "batch": (GridScan, "compute"),
        "store": (RunRecorder, "write"),
    }[slow]
    before = getattr(owner, name)

    def slowly(*given: Any, **named: Any) -> Any:
        found = before(*given, **named)
        late[0] = 100.0  # once: a clock, not a wait
        return found

    monkeypatch.setattr(owner, name, slowly)
    result = db.execute(statement, [picture])
    (note,) = [each for each in result.notes if "WITHIN" in each]
    assert "WITHIN 20 SECONDS could not be kept: it took 10" in note and note in str(result)
    (heat,) = result
    assert np.isfinite(heat.scores).all()
    if slow != "store":  # which comes after the map is found
        quality = heat.cells.quality
        assert 79 < quality["late_s"] < 90
        if quality["approx"]:
            told = f"{quality['late_s']:g} s later than WITHIN 20 SECONDS"
            assert told in heat.quality and told in quality_sentence(quality, heat.cells.logit.size)
    late[0] = 0.0
    monkeypatch.setattr(owner, name, before)
    in_time = db.execute(f"{statement} NO REUSE", [picture])
    assert not [each for each in in_time.notes if "WITHIN" in each] and "late_s" not in in_time[0].cells.quality
