"""The page in a browser: each feature once, as a person uses it. Waits are for states of the page, never for time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from obeql.web.views import VIEWS
from tests.web.conftest import Server

#: For states; a busy machine takes its time, and nothing waits for as long as this when all is well.
WAIT_MS = 60_000

COLORS = """() => {
    const canvas = document.getElementById('map'), c = canvas.getContext('2d');
    const data = c.getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
    for (let i = 0; i < data.length; i += 4) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
    return seen.size;
}"""
#: Many windows, a few at a time.
LONG = "EXPLAIN OCCLUDE scan1 USING net WITH patch=3 stride=1 batch=4 NO REUSE"


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], workshop: Path) -> Server:
    return serve("heat.duckdb", cwd=workshop)


@pytest.fixture
def context(browser: Any, server: Server) -> Iterator[Any]:
    """A browser that has been let in; it notes requests that leave the origin, and errors of the page."""
    opened = browser.new_context(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(WAIT_MS)
    strayed: list[str] = []
    wrong: list[str] = []
    opened.on("request", lambda request: strayed.append(request.url))
    opened.on("weberror", lambda error: wrong.append(str(error.error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.request.get(server.address)
    yield opened
    opened.close()
    assert [url for url in strayed if not url.startswith((server.origin, "blob:", "data:"))] == []
    assert [each for each in wrong if "status of 4" not in each] == []


@pytest.fixture
def page(context: Any, server: Server) -> Any:
    return visit(context, server.origin)


def visit(context: Any, address: str) -> Any:
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-state=idle], body[data-state=running]")
    return page


def state(page: Any, name: str) -> None:
    page.wait_for_selector(f"#ribbon[data-state={name}]")


def until(page: Any, expression: str) -> None:
    """Wait until an expression holds. As a function, because the page's policy lets nobody evaluate texts."""
    page.wait_for_function(f"() => {expression}")


@contextmanager
def new_map(page: Any) -> Iterator[None]:
    """Wait until the map of a run that the block begins is drawn, and all is said of it."""
    before = page.get_attribute("#map", "data-run")
    yield
    page.wait_for_function("before => (document.getElementById('map').dataset.run ?? null) !== before", arg=before)
    state(page, "done")


def choose(page: Any, name: str) -> None:
    """Choose an image of the database and wait for its coarse map."""
    with new_map(page):
        page.click(f"#images button[aria-label={name}]")


def write(page: Any, text: str) -> None:
    """Type a statement, and wait until the page has understood it."""
    page.fill("#editor textarea", text)
    page.wait_for_function("text => document.getElementById('editor').dataset.understood === text", arg=text)


def run(page: Any, text: str) -> None:
    write(page, text)
    page.press("#editor textarea", "Control+Enter")


def place(page: Any, y: float, x: float) -> tuple[float, float]:
    """The place on the screen of shares of the map's sides."""
    box = page.locator("#map").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def statement(page: Any) -> str:
    return str(page.input_value("#editor textarea"))


def ask(page: Any, path: str, body: Any = None) -> Any:
    options = {} if body is None else {"method": "POST", "body": json.dumps(body)}
    return page.evaluate("([path, options]) => fetch(path, options).then(r => r.json())", [path, options])


def test_an_image_that_is_dropped_is_classified_and_explained(page: Any, tmp_path: Path, workshop: Path) -> None:
    Image.open(workshop / "scans" / "scan2.png").transpose(Image.Transpose.ROTATE_90).save(tmp_path / "my photo.png")
    assert page.evaluate(COLORS) <= 1
    page.set_input_files("#file-input", tmp_path / "my photo.png")
    page.wait_for_selector("#bars[data-state=clean]")
    names = page.locator("#bars .name").all_inner_texts()
    assert sorted(names) == ["ant", "bee", "cat"]
    page.wait_for_selector("#map[data-drawn=map]")
    state(page, "done")
    assert page.evaluate(COLORS) > 20
    assert re.search(r"EXPLAIN OCCLUDE my_photo USING net WITH patch=8 stride=8 score=log_odds", statement(page))
    shares = [float(each) for each in page.locator("#bars .bar").evaluate_all("bars => bars.map(b => b.dataset.value)")]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)


def test_a_map_fills_in_live_and_stop_keeps_it(page: Any) -> None:
    run(page, LONG)
    until(page, "Number(document.getElementById('ribbon').dataset.updates) >= 3")
    state(page, "running")
    assert "of 3,844 windows" in page.inner_text("#ribbon-title")
    until(page, "document.getElementById('ribbon-time').textContent.includes('left')")
    page.click("#stop")
    state(page, "stopped")
    assert page.evaluate(COLORS) > 20 and page.get_attribute("#map", "data-drawn") == "live"
    jobs = ask(page, "/api/jobs")["jobs"]
    assert not [job for job in jobs if job["state"] in ("running", "waiting")]
    assert page.is_disabled("#stop")


def test_the_bound_that_is_shown_is_the_runs(page: Any) -> None:
    run(page, "EXPLAIN OCCLUDE scan2 USING net WITH patch=8 stride=2 score=log_odds APPROX 0.3 INTO OR REPLACE rough")
    page.wait_for_selector("#map[data-drawn=map]")
    state(page, "done")
    sql = "SELECT bound, approx FROM heatmaps WHERE run_name = 'rough'"
    ((bound, approx),) = ask(page, "/api/sql", {"sql": sql})["rows"]
    shown = page.inner_text("#ribbon-bound")
    assert shown == (f"SSIM ≥ {int(bound * 1000) / 1000:g} at 95 %" if approx else "exact")


def test_refine_takes_what_is_stored(page: Any) -> None:
    choose(page, "scan3")
    assert "stride=8" in statement(page)
    with new_map(page):
        page.click("#refine")
    assert "stride=4" in statement(page)
    measured = "SELECT measured FROM runs ORDER BY run_id DESC LIMIT 1"
    found = json.loads(ask(page, "/api/sql", {"sql": measured})["rows"][0][0])
    assert (found["cells_stored"], found["cells_computed"]) == (64, 161)
    assert "took" in page.inner_text("#ribbon-time")


def test_a_rectangle_that_is_dragged_is_a_region(page: Any) -> None:
    choose(page, "scan1")
    page.mouse.move(*place(page, 0.25, 0.25))
    page.mouse.down()
    page.mouse.move(*place(page, 0.5, 0.6), steps=4)
    page.mouse.move(*place(page, 0.75, 0.75), steps=4)
    page.mouse.up()
    until(page, "document.querySelector('#editor textarea').value.includes('REGION (16, 16, 32, 32)')")
    until(page, "document.getElementById('estimate').dataset.windows === '16'")
    with new_map(page):
        page.click("#run")
    sql = "SELECT rows * cols AS cells, tops[1], lefts[1] FROM heatmaps ORDER BY run_id DESC LIMIT 1"
    assert ask(page, "/api/sql", {"sql": sql})["rows"] == [[16, 16, 16]]


def test_a_region_works_by_keyboard(page: Any) -> None:
    choose(page, "scan1")
    page.focus("#map")
    page.keyboard.press("r")
    until(page, "document.querySelector('#editor textarea').value.includes('REGION')")
    before = re.search(r"REGION \((\d+), (\d+), (\d+), (\d+)\)", statement(page))
    assert before is not None
    page.keyboard.press("ArrowDown")
    moved = f"REGION ({int(before[1]) + 8}, {before[2]}, {before[3]}, {before[4]})"
    page.wait_for_function("text => document.querySelector('#editor textarea').value.includes(text)", arg=moved)
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('#editor textarea').value.includes('REGION')")


def test_the_window_under_the_pointer_and_the_patch_under_the_hand(page: Any) -> None:
    choose(page, "scan2")
    page.mouse.move(*place(page, 0.55, 0.4))
    until(page, "document.getElementById('probe').dataset.cell === '4,3'")
    shown = float(page.get_attribute("#probe", "data-importance"))
    sql = "SELECT importance FROM cells WHERE run_id = (SELECT max(run_id) FROM runs) AND row = 4 AND col = 3"
    assert shown == pytest.approx(ask(page, "/api/sql", {"sql": sql})["rows"][0][0], abs=1e-6)
    page.mouse.click(*place(page, 0.55, 0.4))
    page.mouse.move(*place(page, 1.4, 0.4))
    assert page.get_attribute("#probe", "data-cell") == "4,3" and "pinned" in page.inner_text("#probe-kind")

    page.select_option("#fill", "black")
    until(page, "document.querySelector('#editor textarea').value.includes('fill=black')")
    page.mouse.move(*place(page, 0.4, 0.5))
    page.keyboard.down("Shift")
    page.mouse.move(*place(page, 0.5, 0.5), steps=3)
    until(page, "document.getElementById('bars').dataset.box === '28,28,8,8'")
    bars = page.locator("#bars .bar")
    values = dict(
        bars.evaluate_all("all => all.map(b => [b.querySelector('.name').textContent, Number(b.dataset.value)])")
    )
    page.keyboard.up("Shift")
    page.wait_for_selector("#bars[data-state=clean]")
    image = ask(page, "/api/images?words=scan2")["images"][0]["image_id"]
    asked = {
        "model": "net",
        "image": image,
        "fill": "black",
        "box": [28, 28, 8, 8],
    }  # which is PREDICT's, says test_images
    expected = {each["class_name"]: each["probability"] for each in ask(page, "/api/probe", asked)["classes"]}
    assert values == pytest.approx(expected, abs=1e-9)


def test_the_editor_completes_marks_mistakes_and_runs(page: Any) -> None:
    page.click("#editor textarea")
    page.keyboard.type("EXPLAIN OCCLUDE scans USING n")
    page.wait_for_selector("#editor .menu li")
    assert page.inner_text("#editor .menu li.chosen span") == "net"
    page.keyboard.press("Tab")
    assert statement(page) == "EXPLAIN OCCLUDE scans USING net"
    write(page, "EXPLAIN OCCLUDE scans USNG net")
    page.wait_for_selector("#editor .mistake:not([hidden])")
    assert "^" in page.inner_text("#editor .mistake pre") and page.get_attribute("#editor", "data-mistake") == "22"
    run(page, "EXPLAIN OCCLUDE scans USING nett WITH patch=8")
    state(page, "failed")
    assert "Did you mean 'net'?" in page.inner_text("#editor .mistake")
    page.evaluate("() => delete document.getElementById('editor').dataset.understood")
    page.dispatch_event("#editor textarea", "input")  # a look-up that answers after the run has failed
    page.wait_for_selector("#editor[data-understood]")
    assert "Did you mean 'net'?" in page.inner_text("#editor .mistake")
    run(page, "PREDICT scans USING net FOR TOP 1")
    page.wait_for_selector("#outcome table")
    assert page.locator("#outcome tbody tr").count() == 3


def test_sliders_move_the_estimate_and_the_plan_is_shown(page: Any) -> None:
    choose(page, "scan1")
    page.click("#plan summary")
    page.focus("#stride")
    page.keyboard.press("ArrowLeft")
    until(page, "document.querySelector('#editor textarea').value.includes('stride=6')")
    until(page, "document.getElementById('estimate').dataset.windows === '121'")
    assert "window" in page.inner_text("#estimate")
    until(page, "document.getElementById('plan-text').textContent.includes('stride=6')")
    page.check("#approx-on")
    until(page, "document.querySelector('#editor textarea').value.includes('APPROX 0.9')")


def test_sql_shows_rows_and_maps_and_downloads_them(page: Any) -> None:
    page.click("nav a[data-view=sql]")
    page.wait_for_selector("#sql-editor textarea")
    page.fill(
        "#sql-editor textarea", "SELECT run_id, map_id, image_id, class_name FROM heatmaps WHERE run_name = 'first'"
    )
    page.press("#sql-editor textarea", "Control+Enter")
    page.wait_for_selector("#sql-result[data-state=done]")
    assert page.locator("#sql-result tbody tr").count() == 3
    page.wait_for_selector("#sql-result .thumb[data-drawn=map]")
    with page.expect_download() as download:
        page.click("#sql-csv")
    assert Path(download.value.path()).read_text().splitlines()[0] == "run_id,map_id,image_id,class_name"
    page.fill("#sql-editor textarea", "FROM read_csv('/etc/passwd')")
    page.click("#sql-run")
    page.wait_for_selector("#sql-result[data-state=failed]")
    assert "allow-files" in page.inner_text("#sql-result")


def test_maps_are_compared_under_one_crosshair(context: Any, server: Server) -> None:
    keys = [each["key"] for each in context.request.get(f"{server.origin}/api/runs/1").json()["maps"]]
    page = visit(context, f"{server.origin}/?view=compare&compared=1/{keys[0]} 1/{keys[1]} 1/{keys[2]}")
    page.wait_for_selector("#compared[data-state=done]")
    assert page.locator("#compared canvas").count() == 3
    box = page.locator("#compared canvas").first.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.7 * box["height"])
    page.wait_for_selector("#compared .facts[data-cell='5,2']")
    assert page.locator("#compared .facts[data-cell='5,2']").count() == 3
    second = "() => document.querySelectorAll('#compared canvas')[1].toDataURL()"
    before = page.evaluate(second)
    figures = page.locator("#figures td.number").all_inner_texts()
    assert len(figures) == 8 and all(figures)
    page.check("#difference")
    page.wait_for_selector("#compared .panel.difference")
    page.wait_for_function(
        "before => document.querySelectorAll('#compared canvas')[1].toDataURL() !== before", arg=before
    )
    until(page, "location.search.includes('difference=1')")
    page.reload()
    page.wait_for_selector("#compared .panel.difference")


def test_runs_and_sheets_are_there_after_a_reload(page: Any) -> None:
    page.click("nav a[data-view=runs]")
    page.wait_for_selector("#runs[data-state=done]")
    page.wait_for_selector(".run-row .thumb[data-drawn=map]")
    page.fill("#runs-words", "for label")
    until(page, "document.querySelectorAll('.run-row').length === 1")
    page.click(".run-row button[aria-label='Figure grid of first']")
    page.wait_for_selector("#sheet[data-state=done] .card")
    page.select_option("#sheet-preset", label="strongest window")
    until(page, "document.querySelector('#sheet .card')?.dataset.value")
    values = [float(each) for each in page.locator("#sheet .card").evaluate_all("all => all.map(c => c.dataset.value)")]
    assert values == sorted(values, reverse=True)
    assert "list_max(flatten(importance))" in page.text_content("#sheet-sql")
    assert page.inner_text("#sheet-count") == "3 of 3 maps"
    until(page, "location.search.includes('list_max')")
    page.reload()
    page.wait_for_selector("#sheet[data-state=done] .card .thumb[data-drawn=map]")
    assert [
        float(each) for each in page.locator("#sheet .card").evaluate_all("all => all.map(c => c.dataset.value)")
    ] == values
    page.click("#sheet .card >> nth=0")
    page.wait_for_selector("#map[data-drawn=map][data-run='1']")
    assert statement(page).startswith("EXPLAIN OCCLUDE scans USING net FOR LABEL")


def test_what_is_seen_is_shared(page: Any, context: Any) -> None:
    choose(page, "scan1")
    until(page, "location.search.includes('run=')")
    page.click("#share-open")
    texts = dict(
        page.locator(".share-row").evaluate_all(
            "all => all.map(r => [r.dataset.share, r.querySelector('textarea').value])"
        )
    )
    assert texts["Statement"] == f"{statement(page)};"
    assert f'r"""{statement(page)}"""' in texts["Python"] and "obeql.connect" in texts["Python"]
    assert texts["Command line"].startswith("obeql heat.duckdb -c '") and "token" not in texts["Link"]
    for button, begins in (("#save-png", b"\x89PNG"), ("#save-npz", b"PK"), ("#save-html", b"<!doctype html>")):
        with page.expect_download() as download:
            page.click(button)
        assert Path(download.value.path()).read_bytes().startswith(begins)
    other = visit(context, texts["Link"])
    other.wait_for_selector("#map[data-drawn=map]")
    assert statement(other) == statement(page)


def test_colors_change_in_the_browser_alone(page: Any) -> None:
    choose(page, "scan1")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    pixels = "() => document.getElementById('map').toDataURL()"
    seen = {page.evaluate(pixels)}
    for change in (
        lambda: page.select_option("#range", "positive"),
        lambda: page.select_option("#range", "negative"),
        lambda: page.select_option("#range", "full"),
        lambda: page.select_option("#palette", "orange–purple"),
        lambda: page.fill("#opacity", "0.3"),
    ):
        before = page.evaluate(pixels)
        change()
        page.wait_for_function("before => document.getElementById('map').toDataURL() !== before", arg=before)
        seen.add(page.evaluate(pixels))
    assert len(seen) == 6 and not [url for url in requests if "/api/runs" in url or "/api/jobs" in url]
    assert page.inner_text("#scale-low").startswith("-") and page.inner_text("#scale-high").startswith("+")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


@pytest.mark.parametrize("width", [1280, 390])
def test_every_view_fits_and_every_control_has_a_name(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    nameless = """() => [...document.querySelectorAll('button, input, select, textarea, canvas, a')].filter(each => {
        if (!each.checkVisibility()) return false;
        const said = each.getAttribute('aria-label') || each.labels?.length || each.textContent.trim() || each.title;
        return !said && each.getAttribute('aria-hidden') !== 'true';
    }).map(each => each.outerHTML.slice(0, 120))"""
    for view in (each.name for each in VIEWS if not each.under):
        page.click(f"nav a[data-view={view}]")
        page.wait_for_selector(f"#view-{view}:not([hidden])")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, view
        assert page.evaluate(nameless) == [], view


def test_a_reload_in_the_middle_of_a_run_picks_it_up(page: Any, context: Any, server: Server) -> None:
    # Long enough for two loads of the page, however busy the machine is; it is stopped at the end.
    run(page, LONG.replace("scan1", "scan2").replace("patch=3", "patch=[3, 4, 5, 6, 7, 8, 9]"))
    until(page, "Number(document.getElementById('ribbon').dataset.updates) >= 1")
    until(page, "location.search.includes('job=')")
    page.reload()
    page.wait_for_selector("#map[data-drawn=live]")
    state(page, "running")
    second = visit(context, server.origin)  # another tab, which knows nothing of the first
    second.wait_for_selector("#map[data-drawn=live]")
    page.close()
    page_closed = ask(second, "/api/jobs")["jobs"][0]
    assert page_closed["state"] == "running"
    second.click("#stop")
    state(second, "stopped")


def test_a_text_called_png_gets_a_sentence(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("hello")
    page.set_input_files("#file-input", tmp_path / "notes.png")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "notes.png: this file is no image" in page.inner_text("#trouble-text")
    page.click("#trouble-close")
    assert page.is_hidden("#trouble")
