"""Draw the pictures of docs/page.md: the page in a browser, on a copy of the demo's database.

    python scripts/draw_page.py [--database demo/heat.duckdb] [--out docs]

Run from the folder in which `make demo` was run, because the database names its model and scans from there. `--all`
draws every state, in light and dark, 1280 and 390 pixels wide, into another folder: they are to be looked at whenever
the page changes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

WAIT_MS = 300_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Drawer:
    """A page in a browser of some width and theme, and where its pictures go."""

    def __init__(self, page: Any, folder: Path, suffix: str, wanted: tuple[str, ...]) -> None:
        self.page = page
        self._folder = folder
        self._suffix = suffix
        self._wanted = wanted

    def shot(self, name: str) -> None:
        """Save what is seen, if it is wanted, as WebP: a palette small enough for PNG would show in the color bars."""
        if self._wanted and name not in self._wanted:
            return
        path = self._folder / f"page-{name}{self._suffix}.webp"
        self.page.evaluate("() => window.scrollTo(0, 0)")
        seen = self.page.screenshot(full_page=self.page.viewport_size["width"] < 700, animations="disabled")
        Image.open(BytesIO(seen)).convert("RGB").save(path, quality=90, method=6)
        print(f"{path}: {path.stat().st_size // 1000} kB")

    def until(self, expression: str) -> None:
        """Wait until an expression of the page holds."""
        self.page.wait_for_function(f"() => {expression}")

    def place(self, y: float, x: float) -> tuple[float, float]:
        """Return the place on the screen of shares of the map's sides."""
        self.page.locator("#map").scroll_into_view_if_needed()
        box = self.page.locator("#map").bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def view(self, name: str) -> None:
        """Go to a view."""
        self.page.click(f"nav a[data-view={name}]")


def draw_first(drawer: Drawer) -> None:
    """The page as it begins, and an image with its coarse map."""
    page = drawer.page
    page.wait_for_selector("#images img")
    page.wait_for_load_state("networkidle")
    drawer.shot("empty")
    page.fill("#image-words", "gl_0014")
    drawer.until("document.querySelectorAll('#images button').length === 1")
    page.click("#images button")
    page.wait_for_selector("#map[data-drawn=map]")
    page.wait_for_selector("#estimate[data-state=done]")
    page.mouse.move(*drawer.place(0.45, 0.4))
    drawer.until("document.getElementById('probe').dataset.cell")
    drawer.shot("coarse")


def draw_hand(drawer: Drawer) -> None:
    """A patch under the hand, then a pinned window."""
    page = drawer.page
    page.mouse.move(*drawer.place(0.4, 0.3))
    page.keyboard.down("Shift")
    for step in range(1, 9):
        page.mouse.move(*drawer.place(0.4 + 0.01 * step, 0.3 + 0.012 * step))
        box = page.evaluate("document.getElementById('bars').dataset.box || ''")
        drawer.until(
            f"document.getElementById('bars').dataset.box && document.getElementById('bars').dataset.box !== '{box}'"
        )
    drawer.shot("hand")
    page.keyboard.up("Shift")
    page.mouse.click(*drawer.place(0.45, 0.4))
    page.mouse.move(*drawer.place(0.62, 0.62))
    drawer.shot("pinned")
    page.focus("#map")
    page.keyboard.press("Escape")


def draw_region(drawer: Drawer) -> None:
    """A region that is dragged, and its map while it is computed."""
    page = drawer.page
    page.mouse.move(*drawer.place(0.28, 0.25))
    page.mouse.down()
    page.mouse.move(*drawer.place(0.72, 0.7), steps=5)
    drawer.until("document.querySelector('#editor textarea').value.includes('REGION')")
    drawer.shot("drag")
    page.mouse.up()
    page.click("#refine")
    page.wait_for_selector("body[data-state=running]")
    page.wait_for_selector("body[data-state=idle]")
    page.click("#region-clear")
    drawer.until("!document.querySelector('#editor textarea').value.includes('REGION')")
    page.click("#run")
    drawer.until("document.getElementById('ribbon').dataset.updates >= 2")
    drawer.shot("live")
    page.wait_for_selector("body[data-state=idle]")
    page.wait_for_selector("#map[data-drawn=map]")
    drawer.shot("map")


def draw_lists(drawer: Drawer) -> None:
    """Runs, a sheet, and a comparison."""
    page, origin = drawer.page, drawer.page.url.partition("?")[0]
    drawer.view("runs")
    page.wait_for_selector(".run-row .thumb[data-drawn=map]")
    page.wait_for_load_state("networkidle")
    drawer.shot("runs")
    keys = page.evaluate("fetch('/api/runs/1').then(r => r.json()).then(r => r.maps.map(m => m.key))")
    page.goto(f"{origin}?view=sheet&run=1&order=list_max(flatten(importance))")
    page.wait_for_selector("#sheet .thumb[data-drawn=map]")
    page.wait_for_load_state("networkidle")
    drawer.shot("sheet")
    page.goto(f"{origin}?view=compare&compared=" + "+".join(f"1/{key}" for key in keys[:3]))
    page.wait_for_selector("#compared[data-state=done]")
    canvas = page.locator("#compared canvas").first.bounding_box()
    page.mouse.move(canvas["x"] + 0.45 * canvas["width"], canvas["y"] + 0.45 * canvas["height"])
    page.wait_for_selector("#compared .facts[data-cell]")
    drawer.shot("compare")


def draw_rest(drawer: Drawer) -> None:
    """SQL, what is shared, and a mistake."""
    page, origin = drawer.page, drawer.page.url.partition("?")[0]
    page.goto(f"{origin}?view=sql")
    page.click("#sql-run")
    page.wait_for_selector("#sql-result .thumb[data-drawn=map]")
    page.wait_for_load_state("networkidle")
    drawer.shot("sql")
    page.goto(f"{origin}?run=1")
    page.wait_for_selector("#map[data-drawn=map]")
    page.click("#share-open")
    drawer.shot("share")
    page.keyboard.press("Escape")
    page.fill("#editor textarea", "EXPLAIN OCCLUDE scans USING tumor WITH patch=16")
    page.click("#run")
    page.wait_for_selector("#ribbon[data-state=failed]")
    drawer.shot("mistake")


#: What docs/page.md shows.
SHOWN = ("hand", "live", "sheet", "compare")
PARTS: tuple[Callable[[Drawer], None], ...] = (draw_first, draw_hand, draw_region, draw_lists, draw_rest)


def draw(address: str, folder: Path, theme: str, width: int, suffix: str, wanted: tuple[str, ...] = ()) -> None:
    """Draw every state at a width and in a theme, or those that are wanted."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        size = {"width": width, "height": 860 if width > 700 else 844}
        page = browser.new_context(viewport=size, color_scheme=theme).new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(address)
        page.wait_for_selector("body[data-state=idle]")
        for part in PARTS if not wanted else PARTS[:-1]:
            part(Drawer(page, folder, suffix, wanted))
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=Path, default=Path("demo/heat.duckdb"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--all", action="store_true", help="every state, in both themes and widths")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    looks = (
        [(theme, width) for theme in ("light", "dark") for width in (1280, 390)] if options.all else [("light", 1280)]
    )
    for theme, width in looks:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "heat.duckdb"
            shutil.copy(options.database, copy)
            server = subprocess.Popen(
                [sys.executable, "-m", "obeql", "ui", str(copy), "--no-browser"], stdout=subprocess.PIPE, text=True
            )
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found is not None
            try:
                suffix = f"-{theme}-{width}" if options.all else ""
                draw(found.group(), options.out, theme, width, suffix, () if options.all else SHOWN)
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(60)


if __name__ == "__main__":
    main()
