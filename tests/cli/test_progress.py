"""The progress bar."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from tqdm import tqdm

from obeql.cli.live_map import LiveMap
from obeql.executor.execution.progress import Progress, Unit
from obeql.progress_bar import ProgressBar, shown_seconds


def progress(
    done: int,
    total: int = 841,
    seconds: float = 0.0,
    image: int = 0,
    shown: str = "a/b/scan.jpg",
    phase: str = "",
    unit: Unit = "windows",
) -> Progress:
    return Progress(done, total, image, 3, shown, seconds, 0.0 if phase else 42.0, phase=phase, unit=unit)


def test_the_bar_shows_estimate_rate_and_image() -> None:
    screen = io.StringIO()
    with ProgressBar(screen) as bar:
        bar(progress(0))
        assert "image 1/3 scan.jpg" in screen.getvalue() and "about 42 s" in screen.getvalue()
        bar(progress(400, seconds=10.0, image=1))
        bar(progress(841, seconds=20.0, image=2))
    last = screen.getvalue().rsplit("\r", 1)[-1]
    assert "image 3/3" in last and "841/841 windows" in last and "took 20 s" in last
    assert screen.getvalue().endswith("\n")


def test_each_run_has_its_own_bar() -> None:
    screen = io.StringIO()
    bar = ProgressBar(screen)
    for total in (10, 20):
        bar(progress(0, total))
        bar(progress(total, total, 1.0))
    bar(progress(0, 20))
    bar.finish()
    assert screen.getvalue().count("\n") == 3


def test_a_long_name_keeps_its_end() -> None:
    screen = io.StringIO()
    with ProgressBar(screen) as bar:
        bar(progress(0, shown="x" * 60 + "_0017.jpg"))
    assert "…" in screen.getvalue() and "_0017.jpg" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185.0, "3 min 05 s"), (7800.0, "2 h 10 min")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert shown_seconds(seconds) == text


def test_what_comes_before_the_first_window_is_said_on_the_same_bar() -> None:
    screen = io.StringIO()
    with ProgressBar(screen) as bar:
        bar(progress(0, phase="measuring the speed of cpu for net, once"))
        assert "measuring the speed of cpu for net, once ..." in screen.getvalue()
        bar(progress(0))
        bar(progress(841, seconds=1.0))
    assert screen.getvalue().count("\n") == 1 and "841/841 windows" in screen.getvalue()


def test_a_phase_that_nothing_follows_is_cleared_away() -> None:
    screen = io.StringIO()
    with ProgressBar(screen) as bar:
        bar(progress(0, 1, phase="loading net.onnx", unit="models"))
    assert "\n" not in screen.getvalue() and screen.getvalue().rsplit("\r", 1)[-1].strip() == ""


def test_what_is_counted_is_named() -> None:
    screen = io.StringIO()
    with ProgressBar(screen) as bar:
        bar(progress(2, 3, 1.0, unit="maps"))
    assert "map 1/3" in screen.getvalue() and "2/3 maps" in screen.getvalue()


def test_a_statement_of_limited_time_counts_down_to_its_end() -> None:
    screen = io.StringIO()
    with ProgressBar(screen) as bar:
        bar(replace(progress(0), within_s=10.0, left_s=10.0))
        bar(replace(progress(80, seconds=4.0), within_s=10.0, left_s=5.0))
    assert " 50% " in screen.getvalue() and "80/841 windows, 20.0/s, 5.0 s of 10 s left" in screen.getvalue()


def test_what_was_stored_counts_as_done_and_not_as_pace() -> None:
    state = replace(progress(400, seconds=10.0), reused=300)
    assert state.rate == 10.0 and state.eta_seconds == pytest.approx(44.1)
    assert replace(state, done=300).eta_seconds == 42.0  # the plan's estimate of what is left


def test_the_live_drawing_says_phases() -> None:
    screen = io.StringIO()
    view = LiveMap(Console(file=screen, width=80, force_terminal=True, legacy_windows=False))
    view(progress(0, phase="loading PyTorch"))
    view(progress(0, phase="measuring the speed of cpu for net [x], once"))
    view(progress(3, 7, 1.0))
    view.finish()
    assert "loading PyTorch ..." in screen.getvalue() and "3/7 windows" in screen.getvalue()


def test_a_bar_of_tqdm_takes_progress_as_it_comes(net_db: Any, pixels: Any) -> None:
    screen = io.StringIO()
    with tqdm(file=screen, mininterval=0) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.total
            bar.update(progress.done - bar.n)

        net_db.explain(pixels(1), "net", patch=16, on_progress=show)
        assert bar.n == bar.total == 25


def test_a_statement_says_what_it_does_before_its_first_window(net_db: Any, pixels: Any) -> None:
    seen: list[Progress] = []
    net_db.explain(pixels(1), "net", patch=16, on_progress=seen.append)
    phases = [each for each in seen if each.phase]
    assert [each.phase for each in phases] == ["measuring the speed of cpu for net in float32, once"]
    assert seen[: len(phases)] == phases
    assert all((each.done, each.total, each.n_images) == (0, seen[-1].total, 1) for each in phases)
    seen.clear()
    net_db.explain(pixels(2), "net", patch=16, on_progress=seen.append)
    assert not any(each.phase for each in seen)


def test_predict_counts_its_images(net_db: Any, folder: Any) -> None:
    net_db.create_images("scans", folder)
    seen: list[Progress] = []
    net_db.execute("PREDICT scans USING net", on_progress=seen.append)
    assert [(each.done, each.total, each.unit) for each in seen] == [(n, 3, "images") for n in (1, 2, 3)]


def test_what_a_callback_raises_in_a_phase_is_the_callers_own(net_db: Any, pixels: Any) -> None:
    def fail(progress: Progress) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        net_db.explain(pixels(1), "net", patch=16, on_progress=fail)
    assert len(net_db.explain(pixels(1), "net", patch=16)) == 1
