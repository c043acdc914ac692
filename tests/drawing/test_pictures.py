"""Comparisons, films and reports of maps."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from obeql.errors import ImageError, QueryTypeError, UnsupportedError
from obeql.planner.cells import FailedImage
from obeql.results.result import Result


def bump(row: int, height: float = 3.0) -> np.ndarray:
    importance = np.zeros((11, 11))
    importance[row : row + 3, 4:7] = height
    return importance


def color_limits(figure: Any) -> list[float]:
    return [float(image.norm.vmax) for ax in figure.axes for image in ax.images if image.norm.vmin < 0]


# ---- sheets and comparisons ----------------------------------------------------------------------


def test_a_sheet_has_one_scale_unless_told_otherwise(make_heatmap: Callable[..., Any]) -> None:
    result = Result((make_heatmap(bump(2)), make_heatmap(bump(5, 1.0))))
    assert len(set(color_limits(result.plot()))) == 1
    assert len(set(color_limits(result.plot(shared=False)))) == 2
    assert set(color_limits(result.plot(limit=9.0))) == {9.0}


def test_two_maps_share_a_scale_and_show_their_difference(make_heatmap: Callable[..., Any]) -> None:
    first, second = make_heatmap(bump(2)), make_heatmap(bump(5, 1.0), class_name="dog")
    figure = first.compare(second)
    limits = color_limits(figure)
    assert len(limits) == 3 and limits[0] == limits[1]
    texts = [text.get_text() for ax in figure.axes for text in ax.texts] + [ax.get_title("left") for ax in figure.axes]
    assert {"cat", "dog", "second − first"} <= set(texts)
    assert any(text.startswith("largest difference") and "correlation" in text for text in texts)


def test_titles_say_what_differs(make_heatmap: Callable[..., Any]) -> None:
    exact = make_heatmap(bump(2))
    guess = make_heatmap(bump(2), quality={"approx": True, "metric": "ssim", "bound": 0.91})
    texts = [text.get_text() for ax in exact.compare(guess).axes for text in ax.texts]
    assert "exact" in texts and any(text.startswith("approximate") for text in texts)


def test_maps_of_two_images_have_no_difference(make_heatmap: Callable[..., Any]) -> None:
    assert len(color_limits(make_heatmap(bump(2)).compare(make_heatmap(bump(2), size=(90, 90))))) == 2


def test_two_scores_do_not_compare(make_heatmap: Callable[..., Any]) -> None:
    with pytest.raises(QueryTypeError, match="as_score"):
        make_heatmap(1.0).compare(make_heatmap(1.0).as_score("logit"))


@pytest.mark.parametrize("values", [0.0, np.nan, 2.0, -2.0])
def test_constant_and_one_signed_maps_draw(values: float, make_heatmap: Callable[..., Any]) -> None:
    heat = make_heatmap(values)
    assert heat.compare(heat) is not None
    assert Result((heat, heat)).plot() is not None


def test_a_notebook_shows_text_and_picture(make_heatmap: Callable[..., Any]) -> None:
    html = Result((make_heatmap(bump(2)),) * 2, run_name="<first>")._repr_html_()
    assert "&lt;first&gt;" in html and "data:image/png;base64," in html
    assert Result(())._repr_html_().startswith("<pre")
    assert make_heatmap(bump(2))._repr_png_().startswith(b"\x89PNG")


# ---- films ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "kind"), [(".gif", "GIF"), (".apng", "PNG")])
def test_a_film_moves(suffix: str, kind: str, make_heatmap: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / f"window{suffix}"
    make_heatmap(bump(2)).animate(path, n_frames=6, panel_px=96)
    with Image.open(path) as film:
        assert film.format == kind and film.n_frames >= 6 and film.info["loop"] == 0
        frames = []
        for number in range(film.n_frames):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB"), int))
    assert all((a != b).any() for a, b in pairwise(frames[:6]))


def test_the_film_hides_the_window_with_the_fill(make_heatmap: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "window.apng"
    make_heatmap(bump(2), fill="black").animate(path, n_frames=2, panel_px=96)
    with Image.open(path) as film:
        pixels = np.asarray(film.convert("RGB"), int)
    assert (pixels[40 + 8, 12 + 8] < 10).all()  # inside the first window
    assert abs(pixels[40 + 60, 12 + 60] - 128).max() <= 2  # the picture elsewhere


@pytest.mark.parametrize("fill", ["mean", "white", "gray", "zero", "blur", "(1,0.5,0)"])
def test_every_fill_can_be_filmed(fill: str, make_heatmap: Callable[..., Any], tmp_path: Path) -> None:
    make_heatmap(bump(2), fill=fill).animate(tmp_path / "w.gif", n_frames=2, panel_px=64)


def test_films_that_cannot_be(make_heatmap: Callable[..., Any], tmp_path: Path) -> None:
    heat = make_heatmap(bump(2))
    with pytest.raises(QueryTypeError, match=r"Did you mean '.gif'"):
        heat.animate(tmp_path / "w.giff")
    with pytest.raises(QueryTypeError, match="n_frames"):
        heat.animate(tmp_path / "w.gif", n_frames=1)
    with pytest.raises(ImageError, match="no folder"):
        heat.animate(tmp_path / "nowhere" / "w.gif", n_frames=2, panel_px=64)


# ---- reports -------------------------------------------------------------------------------------


def report_of(result: Result, path: Path) -> dict[str, Any]:
    result.report(path)
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.S
    )
    return dict(json.loads(data))


def test_a_report_holds_the_numbers_and_pictures(make_heatmap: Callable[..., Any], tmp_path: Path) -> None:
    heat = make_heatmap(bump(2), class_name="</script><b>", label="cat")
    failed = FailedImage(1, "gone.png", "no such file")
    data = report_of(Result((heat,), (failed,), 1, "first", seconds=2.0), tmp_path / "r.html")
    (found,) = data["maps"]
    assert found["title"] == "gray.png · </script><b>" and "label cat" in found["detail"]
    assert np.allclose(found["importance"], heat.importance, rtol=1e-4)
    assert found["best"][0] == [heat.top(1)[0].row, heat.top(1)[0].col]
    overlay = Image.open(BytesIO(base64.b64decode(found["views"][0]["slices"][0]["overlay"].split(",")[1])))
    assert overlay.size == (48, 48) and overlay.mode == "RGBA"
    assert data["failures"] == [["gone.png", "no such file"]]
    assert "http" not in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_report_states_the_quality(make_heatmap: Callable[..., Any], tmp_path: Path) -> None:
    stated = {
        "approx": True, "metric": "ssim", "target": 0.9, "bound": 0.93, "confidence": 0.95,
        "n_exact": 12, "n_reduced": 24, "reduced_precision": "bfloat16", "n_audit": 10,
    }  # fmt: skip
    maps = (
        make_heatmap(bump(2), quality=stated),
        make_heatmap(bump(2)),
        make_heatmap(bump(2), quality={**stated, "metric": "top_cells", "bound": 1.0, "k": 3}),
    )
    approx, exact, top = report_of(Result(maps), tmp_path / "r.html")["maps"]
    assert approx["quality"] == (
        "approximate: ssim against the exact map is at least 0.93 at confidence 0.95 (asked for: 0.9); "
        "10% of the cells computed, 20% in bfloat16, the others estimated; measured on 10 cells drawn at random"
    )
    assert exact["quality"] == "exact: every cell was computed" and exact["exact"] is None
    assert approx["inexact"] == "estimated, or computed in bfloat16"
    assert "the 3 most important cells found (0.95 confidence)" in top["quality"]
    assert len(top["best"]) == 3


def test_a_report_of_odd_maps(make_heatmap: Callable[..., Any], tmp_path: Path) -> None:
    data = report_of(Result((make_heatmap(np.nan), make_heatmap(0.0, picture=None))), tmp_path / "r.html")
    assert data["maps"][0]["importance"][0][0] is None and data["maps"][0]["best"] == []
    assert data["maps"][1]["views"][0]["slices"][0]["picture"] is None and data["title"].endswith("gray.png")
    with pytest.raises(QueryTypeError, match="no heat map"):
        Result(()).report(tmp_path / "r.html")
    with pytest.raises(QueryTypeError, match=r"\.html"):
        Result((make_heatmap(0.0),)).report(tmp_path / "r.txt")


def test_a_widget_shows_what_the_report_does(make_heatmap: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("anywidget")
    result = Result((make_heatmap(bump(2)), make_heatmap(np.nan)), run_name="first")
    widget = result.widget(alpha=0.5)
    data = report_of(result, tmp_path / "r.html")
    sent = widget.get_state()
    assert json.loads(json.dumps(sent["data"])) == data | {"alpha": 0.5}
    assert "function viewer(" in sent["_esm"] and "export default { render:" in sent["_esm"]
    assert len(result[:1].widget().data["maps"]) == 1
    with pytest.raises(QueryTypeError, match="no heat map"):
        Result(()).widget()


def test_without_anywidget_the_extra_is_named(
    make_heatmap: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(UnsupportedError, match=r'pip install -e "\.\[notebook\]"'):
        Result((make_heatmap(bump(2)),)).widget()


@pytest.mark.slow
def test_a_browser_shows_the_report(make_heatmap: Callable[..., Any], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    path = tmp_path / "r.html"
    Result((make_heatmap(bump(2)),), run_name="first").report(path)
    # The pointer moves over the map once the page is ready.
    text = path.read_text(encoding="utf-8").replace(
        'document.body.dataset.ready = "yes";',
        'document.body.dataset.ready = "yes"; const c = document.querySelector("canvas");'
        "const b = c.getBoundingClientRect(), at = {clientX: b.left + b.width / 2, clientY: b.top + b.height * 0.3};"
        'c.dispatchEvent(new MouseEvent("mousemove", at));',
    )
    path.write_text(text, encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 'data-ready="yes"' in done.stdout
    assert "Where it looks: first" in done.stdout
    assert re.search(r"cell 3, 5 · window top 12, left 20, 8 x 8 px\s+importance \+3", done.stdout)
