"""Maps in a terminal: colors where they belong, characters without them, and a map that fills in."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from obeql.cli.keyboard import Keyboard
from obeql.cli.live_map import LiveMap
from obeql.drawing.terminal import Canvas, draw_heatmap, draw_plane, draw_result
from obeql.executor.execution.progress import Progress
from obeql.planner.grid import WindowGrid
from obeql.results.result import Result


def two_sided() -> np.ndarray:
    importance = np.zeros((11, 11))
    importance[:3, :3], importance[8:, 8:] = 3, -2
    return importance


def console(**options: Any) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=options.pop("width", 130), **options)


def grid_of(n: int) -> WindowGrid:
    """n x n windows of 8 pixels, 4 apart."""
    return WindowGrid.over((4 * n + 4, 4 * n + 4), (8, 8), (4, 4))


def shown(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_colors_lie_where_the_evidence_is(make_heatmap: Callable[..., Any]) -> None:
    screen = console(color_system="truecolor")
    screen.print(draw_heatmap(make_heatmap(two_sided()), Canvas.of(screen)))
    lines = [line for line in shown(screen).splitlines() if "▀" in line]
    first, last = (line.split("▀")[0] for line in (lines[0], lines[-1]))
    red, _, blue = (int(part) for part in first.split("38;2;")[1].split(";")[:3])
    assert red > blue + 60
    assert "38;2;128;128;128" in lines[0]  # gray stays gray where nothing matters
    assert last.split("38;2;")[1].startswith("128;128;128")


@pytest.mark.parametrize("options", [{"color_system": None}, {"color_system": "truecolor", "no_color": True}])
def test_without_colors_characters_tell(options: dict[str, Any], make_heatmap: Callable[..., Any]) -> None:
    screen = console(**options)
    screen.print(draw_heatmap(make_heatmap(two_sided()), Canvas.of(screen)))
    text = shown(screen)
    assert "▀" not in text and "38;2" not in text
    assert "@" in text.splitlines()[1] and "for the class" in text
    assert any(mark in text.splitlines()[-1] for mark in "=%&") or any(mark in text for mark in "=%&")


def test_the_table_lists_the_most_important_cells(make_heatmap: Callable[..., Any]) -> None:
    screen = console(color_system=None)
    draw_result(Result((make_heatmap(two_sided()),)), screen)
    text = shown(screen)
    assert "gray.png · cat" in text and "folder/" not in text
    assert "0, 0, 8, 8" in text and "+3" in text


def test_a_narrow_terminal_leaves_out_columns(make_heatmap: Callable[..., Any]) -> None:
    screen = console(color_system=None, width=80)
    screen.print(draw_heatmap(make_heatmap(two_sided()), Canvas.of(screen)))
    assert "top, left" not in shown(screen) and "importance" in shown(screen)
    assert max(map(len, shown(screen).splitlines())) <= 80


def test_long_results_are_cut(make_heatmap: Callable[..., Any]) -> None:
    screen = console(color_system=None)
    draw_result(Result((make_heatmap(1.0),) * 7), screen)
    assert shown(screen).count("gray.png") == 4 and "3 more maps" in shown(screen)


def test_odd_maps_draw(make_heatmap: Callable[..., Any]) -> None:
    screen = console(color_system="truecolor")
    for heat in (make_heatmap(0.0), make_heatmap(np.nan), make_heatmap(-1.0, picture=None)):
        screen.print(draw_heatmap(heat, Canvas.of(screen)))
    assert "constant" in shown(screen) and "no cell was computed" in shown(screen)


def test_names_with_markup_are_shown_as_they_are(make_heatmap: Callable[..., Any]) -> None:
    screen = console(color_system=None)
    screen.print(draw_heatmap(make_heatmap(two_sided(), class_name="[red]", classes=("[red]",)), Canvas.of(screen)))
    assert shown(screen).count("[red]") > 2


def test_a_plane_shows_what_is_not_computed_yet() -> None:
    importance = np.full((20, 20), np.nan, np.float32)
    importance[0, 0] = 1.0
    screen = console(color_system=None)
    screen.print(draw_plane(importance, grid_of(20), "logit", "title", Canvas.of(screen)))
    text = shown(screen)
    assert "?" in text and "@" in text and "1 of 400 windows" in text
    assert "? not computed yet" in text and "the others look as the nearest" in text
    assert "0, 0, 8, 8" in text, "the window's place in pixels"


def test_a_map_at_work_lies_over_its_image_and_fills_in_from_the_nearest_windows() -> None:
    importance = np.full((16, 16), np.nan, np.float32)
    importance[::8, ::8] = 0.0
    importance[8, 8] = 2.0
    picture = np.full((72, 72, 3), 0.5)
    screen = console(color_system="truecolor")
    screen.print(draw_plane(importance, grid_of(16), "logit", "title", Canvas.of(screen), picture=picture))
    lines = [line for line in shown(screen).splitlines() if "▀" in line]
    assert "38;2;128;128;128" in lines[0], "the image where nothing matters"
    red = [int(part) for part in lines[-2].split("▀")[-40].split("38;2;")[-1].split(";")[:3]]
    assert any(
        int(code.split(";")[0]) > int(code.split(";")[2].split("m")[0]) + 60
        for line in lines[len(lines) // 2 :]
        for code in line.split("38;2;")[1:]
    ), red
    assert "╱" not in shown(screen), "four windows tell of all of the image"


def test_the_live_map_draws_and_clears_itself() -> None:
    screen = console(color_system=None)
    live = LiveMap(screen)
    preview = SimpleNamespace(
        importance=lambda: np.ones((3, 3), np.float32),
        grid=grid_of(3),
        score_kind="logit",
        class_name="cat",
        picture=None,
    )
    live(Progress(0, 9, 0, 2, "a/b.png", 1.0, 2.0))
    live._drawn_at = 0.0
    live(Progress(3, 9, 0, 2, "a/b.png", 1.0, 2.0, preview=preview))  # type: ignore[arg-type]
    live.finish()
    text = shown(screen)
    assert "0/9 windows" in text and "3/9 windows, 3.0/s" in text and "image 1/2 b.png · cat" in text
    live.finish()


def test_each_level_is_drawn_with_its_bound_and_stays_while_the_next_is_computed() -> None:
    screen = console(color_system=None)
    live = LiveMap(screen)
    grid = grid_of(4)

    def told(done: int, plane: np.ndarray, level: int = 0, bound: float = 0.0, image: int = 0) -> Any:
        quality = {"approx": True, "metric": "ssim", "bound": bound, "n_exact": done}
        partial = (SimpleNamespace(quality=quality, logit=plane, exact=plane > 2),) if level else ()
        preview = SimpleNamespace(
            importance=lambda: plane,
            grid=grid,
            score_kind="logit",
            class_name="cat",
            picture=lambda: np.ones((20, 20, 3)),
        )
        return Progress(done, 16, image, 2, "a.png", 1.0, 2.0, level, partial=partial, preview=preview)  # type: ignore[arg-type]

    sparse = np.full((4, 4), np.nan, np.float32)
    sparse[0, 0] = 1.0
    whole = np.ones((4, 4), np.float32)
    frames = []
    for state in (
        told(1, sparse),
        told(4, whole, level=1, bound=0.5),
        told(6, sparse),
        told(8, whole, level=2, bound=0.875),
        told(9, sparse, image=1),
    ):
        if not state.level:
            live._drawn_at = 0.0  # levels are drawn however soon they come
        before = len(shown(screen))
        live(state)
        frames.append(shown(screen)[before:])
    live.finish()
    assert "1 of 16 windows, each window 8x8 px" in frames[0]
    assert "level 1: ssim >= 0.5, 25% of cells computed" in frames[1] and "~+1" in frames[1]
    assert "level 1: ssim >= 0.5" in frames[2] and "6/16 windows" in frames[2] and "?" not in frames[2]
    assert "level 2: ssim >= 0.875, 50% of cells computed" in frames[3]
    assert "level" not in frames[4] and "1 of 16 windows" in frames[4]


def test_a_run_tells_its_preview(net_db: Any, pixels: Callable[..., Any]) -> None:
    seen: list[np.ndarray] = []

    def look(progress: Any) -> None:
        if progress.preview is not None:
            seen.append(progress.preview.importance())

    heat = net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=8 batch=20 score=logit", [pixels(1)], look)[0]
    n_known = [int(np.isfinite(plane).sum()) for plane in seen]
    assert n_known == sorted(n_known) and n_known[0] < heat.scores.size == n_known[-1]
    assert np.array_equal(seen[-1], heat.importance)


def test_maps_of_one_result_share_a_scale(make_heatmap: Callable[..., Any]) -> None:
    screen = console(color_system=None)
    draw_result(Result((make_heatmap(two_sided()), make_heatmap(4 * two_sided()))), screen)
    legends = [line.split("up to")[1] for line in shown(screen).splitlines() if "up to" in line]
    assert len(legends) == 2 and legends[0] == legends[1]


def test_in_a_narrow_terminal_the_table_is_below_the_map(make_heatmap: Callable[..., Any]) -> None:
    screen = console(color_system=None, width=40)
    draw_result(Result((make_heatmap(two_sided()),)), screen)
    text = shown(screen)
    assert "importance" in text and "top class" in text and "…" not in text
    assert max(map(len, text.splitlines())) <= 40
    lines = text.splitlines()
    assert not any("@" in line and "importance" in line for line in lines)


def test_a_map_that_is_stopped_stays_on_the_screen() -> None:
    preview = SimpleNamespace(
        importance=lambda: np.ones((3, 3), np.float32),
        grid=grid_of(3),
        score_kind="logit",
        class_name="cat",
        picture=None,
    )
    state = Progress(3, 9, 0, 2, "a/b.png", 1.0, 2.0, preview=preview)  # type: ignore[arg-type]
    texts = []
    for end in (LiveMap.finish, LiveMap.leave):
        screen = console(color_system=None)
        live = LiveMap(screen)
        live(state)
        drawn = len(shown(screen))
        end(live)
        texts.append(shown(screen)[drawn:])
    erases = "\x1b[2K"
    assert texts[0].count(erases) > texts[1].count(erases), "only what is finished is cleared away"
    assert "\x1b[?25h" in texts[1], "the cursor is shown again"


def test_keys_are_not_echoed_into_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    termios = pytest.importorskip("termios")
    terminal, standard_input = os.openpty()
    with os.fdopen(standard_input) as stream:
        monkeypatch.setattr("sys.stdin", stream)

        def echoes() -> bool:
            return bool(termios.tcgetattr(stream)[3] & termios.ECHO)

        keyboard = Keyboard()
        assert echoes()
        keyboard.silence()
        keyboard.silence()
        assert not echoes() and termios.tcgetattr(stream)[3] & termios.ISIG, "Ctrl-C works"
        keyboard.restore()
        assert echoes()
        keyboard.restore()
    os.close(terminal)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    Keyboard().silence()  # no terminal: nothing to silence


def test_a_map_fits_a_small_terminal(make_heatmap: Callable[..., Any]) -> None:
    for height in (24, 50):
        screen = console(width=80, height=height, color_system="truecolor")
        screen.print(draw_heatmap(make_heatmap(two_sided(), size=(80, 60)), Canvas.of(screen)))
        assert len(shown(screen).splitlines()) <= height - 2
