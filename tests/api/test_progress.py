"""The progress bar."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from obeql.progress import ProgressBar, shown_seconds


def progress(done: int, total: int = 841, seconds: float = 0.0, image: int = 0, shown: str = "a/b/scan.jpg") -> object:
    rate = done / seconds if seconds else 0.0
    eta = (total - done) / rate if rate else 42.0
    return SimpleNamespace(
        done=done, total=total, image=image, n_images=3, shown=shown, seconds=seconds, estimated_seconds=42.0,
        rate=rate, eta_seconds=eta,
    )  # fmt: skip


def test_the_bar_shows_estimate_rate_and_image() -> None:
    screen = io.StringIO()
    with ProgressBar(screen) as bar:
        bar(progress(0))  # type: ignore[arg-type]
        assert "image 1/3 scan.jpg" in screen.getvalue() and "about 42 s" in screen.getvalue()
        bar(progress(400, seconds=10.0, image=1))  # type: ignore[arg-type]
        bar(progress(841, seconds=20.0, image=2))  # type: ignore[arg-type]
    last = screen.getvalue().rsplit("\r", 1)[-1]
    assert "image 3/3" in last and "841/841 windows" in last and "took 20 s" in last
    assert screen.getvalue().endswith("\n")


def test_each_run_has_its_own_bar() -> None:
    screen = io.StringIO()
    bar = ProgressBar(screen)
    for total in (10, 20):
        bar(progress(0, total))  # type: ignore[arg-type]
        bar(progress(total, total, 1.0))  # type: ignore[arg-type]
    bar(progress(0, 20))  # type: ignore[arg-type]
    bar.finish()
    assert screen.getvalue().count("\n") == 3


def test_a_long_name_keeps_its_end() -> None:
    screen = io.StringIO()
    with ProgressBar(screen) as bar:
        bar(progress(0, shown="x" * 60 + "_0017.jpg"))  # type: ignore[arg-type]
    assert "…" in screen.getvalue() and "_0017.jpg" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185.0, "3 min 05 s"), (7800.0, "2 h 10 min")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert shown_seconds(seconds) == text
