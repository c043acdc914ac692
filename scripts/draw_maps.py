"""Draw the maps that the README and docs/ show, from the network and the scans of `make demo`.

    python scripts/draw_maps.py [--database demo/heat.duckdb] [--out docs] [--only grid fill]

Run from the folder in which `make demo` was run, because the database names its model and scans from there. It works on
a copy of the database. The pictures of a browser and a terminal need Chromium (scripts/draw_page.py draws the page).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageOps

import obeql

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCAN = "data/mri/Te-gl_0014.jpg"
FINDING = "data/mri/Te-me_0019.jpg"
#: Every picture stays below what the repository takes.
MOST_BYTES = 200_000


def explain(db: Any, **options: Any) -> Any:
    """Return maps of the glioma; what was computed for another picture is taken from the database."""
    settings = {"patch": 16, "stride": 8, "fill": "black", "score": "log_odds", "classes": "glioma"}
    return db.explain(SCAN, "tumour", **{**settings, **options})


def shown(figure: Any, width: int = 1100) -> Image.Image:
    """Return a figure of matplotlib as an image of this width, without the empty margin."""
    file = BytesIO()
    figure.savefig(file, dpi=width / figure.get_figwidth(), facecolor="white")
    image = Image.open(file).convert("RGB")
    left, top, right, bottom = ImageChops.invert(image).getbbox() or (0, 0, *image.size)
    return ImageOps.expand(image.crop((left, top, right, bottom)), 6, "white")


def side_by_side(heats: list[Any], titles: list[str], **options: Any) -> Image.Image:
    """Return maps in a row, each with a title that says what differs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(heats), 3.9), layout="constrained")
    axes = figure.subplots(1, len(heats), squeeze=False)[0]
    for heat, title, place in zip(heats, titles, axes, strict=True):
        heat.plot(place, title=title, **options)
    return shown(figure, 1200)


def draw_readme(db: Any) -> Image.Image:
    """A scan and its map."""
    (heat,) = (each for each in db.run("brain") if each.class_name == "pituitary")
    figure = heat.plot(beside=True).figure
    figure.set_size_inches(figure.get_size_inches() * 0.7)  # letters that can be read where the picture is small
    return shown(figure, 1000)


def draw_grid(db: Any) -> Image.Image:
    """All maps of the demo's run."""
    return shown(db.run("brain").plot(columns=4), 1300)


def draw_patch(db: Any) -> Image.Image:
    """Patches of 16 to 48 pixels."""
    sizes = [16, 32, 48]
    return side_by_side(list(explain(db, patch=sizes, stride=16)), [f"patch={size}" for size in sizes], outline=False)


def draw_stride(db: Any) -> Image.Image:
    """Strides of 48 to 16 pixels, drawn without interpolation."""
    strides = [48, 32, 16]
    heats = [explain(db, patch=32, stride=stride)[0] for stride in strides]
    return side_by_side(heats, [f"stride={stride}" for stride in strides], outline=False, smooth=False)


def draw_fill(db: Any) -> Image.Image:
    """Four fills."""
    fills = ["black", "mean", "white", "blur"]
    heats = [explain(db, fill=fill, stride=16)[0] for fill in fills]
    return side_by_side(heats, [f"fill={fill}" for fill in fills], outline=False)


def draw_score(db: Any) -> Image.Image:
    """A saturated probability, and log-odds."""
    scores = ["probability", "log_odds"]
    heats = [explain(db, score=score)[0] for score in scores]
    return side_by_side(heats, [f"score={score}" for score in scores], outline=False)


def draw_finding(db: Any) -> Image.Image:
    """The scan of the tutorial's finding, with a frame around the window that it is about."""
    from matplotlib.patches import Rectangle

    (heat,) = db.explain(FINDING, "tumour", patch=16, stride=16, fill="black", score="log_odds", classes="meningioma")
    axes = heat.plot(beside=True, outline=False)
    figure = axes.figure
    height, width = heat.placement.source_size
    side = (16 * width / 240, 16 * height / 240)
    for each in figure.axes[:2]:
        each.add_patch(Rectangle((0, 128 * height / 240), *side, fill=False, edgecolor="gold", linewidth=2))
    figure.set_size_inches(figure.get_size_inches() * 0.7)
    return shown(figure, 1000)


def draw_compare(db: Any) -> Image.Image:
    """Two patches on one scale, and their difference."""
    small, large = explain(db, patch=[16, 32])
    return shown(small.compare(large), 1200)


def draw_animation(db: Any) -> bytes:
    """The window that slides while the map grows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.gif"
        explain(db, patch=32, stride=16)[0].animate(path, seconds=6, n_frames=30, panel_px=200)
        return path.read_bytes()


def draw_report(db: Any) -> Image.Image:
    """The report for a browser."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        db.run("brain").report(path)
        return screenshot(path, 1000, 640)


def draw_terminal(db: Any) -> Image.Image:
    """The map at the prompt."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI

    from obeql.drawing.terminal import Canvas, draw_heatmap

    console = Console(record=True, width=110, file=StringIO(), force_terminal=True, color_system="truecolor")
    (heat,) = (each for each in db.run("brain") if each.class_name == "glioma")
    console.print(draw_heatmap(heat, Canvas(110, True, True, 40)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompt.html"
        path.write_text(console.export_html(theme=MONOKAI), encoding="utf-8")
        return screenshot(path, 900, 470)


def screenshot(page: Path, width: int, height: int) -> Image.Image:
    """Return what a browser shows of a file."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": height})
        tab.goto(page.as_uri())
        seen = tab.screenshot(animations="disabled")
        browser.close()
    return Image.open(BytesIO(seen)).convert("RGB")


#: What is drawn, by the name of the file: map-NAME.webp, or .gif where it moves.
PICTURES: dict[str, Callable[[Any], Image.Image | bytes]] = {
    "readme": draw_readme,
    "grid": draw_grid,
    "patch": draw_patch,
    "stride": draw_stride,
    "fill": draw_fill,
    "score": draw_score,
    "finding": draw_finding,
    "compare": draw_compare,
    "animation": draw_animation,
    "report": draw_report,
    "terminal": draw_terminal,
}


def save(picture: Image.Image | bytes, folder: Path, name: str) -> None:
    """Write a picture, as WebP with its colors or as the GIF that it is."""
    path = folder / f"map-{name}.{'gif' if isinstance(picture, bytes) else 'webp'}"
    if isinstance(picture, bytes):
        path.write_bytes(picture)
    else:
        picture.save(path, quality=88, method=6)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{path} takes {size} bytes, more than {MOST_BYTES}")
    print(f"{path}: {size // 1000} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=Path, default=Path("demo/heat.duckdb"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "heat.duckdb"
        shutil.copy(options.database, copy)
        with obeql.connect(copy) as db:
            for name in options.only:
                save(PICTURES[name](db), options.out, name)


if __name__ == "__main__":
    main()
