"""Maps drawn in a terminal: half blocks in true color over the image, or characters where there are no colors.

Comes last, after the session has returned a result. A character cell is about twice as high as it is wide, so the
upper half block with two colors draws two square pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.drawing import slices
from obeql.drawing.colors import Palette, bar_pixels, limit_of, shared_limits, symmetric_limit
from obeql.drawing.legend import NOT_COMPUTED, OUTSIDE, ends_text, outside, scale_text, uncovered
from obeql.drawing.sparkline import sparklines
from obeql.errors import ImageError
from obeql.planner.grid import show_on
from obeql.planner.regions import RegionGrid
from obeql.results.pixel_map import mean_over_regions, mean_over_windows, spread
from obeql.results.quality_text import ESTIMATED, estimated_note, importance_text, top_class_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from obeql.planner.grid import WindowGrid
    from obeql.planner.scores import ScoreKind
    from obeql.results.heatmap import Cell, Heatmap
    from obeql.results.result import Result

__all__ = ["Canvas", "cells_table", "draw_heatmap", "draw_plane", "draw_result"]

#: Characters from weak to strong evidence for the class, and against it.
FOR, AGAINST = ".:*#@", ",-=%&"

#: Maps of one result that are drawn; more would scroll away.
N_DRAWN = 4
#: Most important cells listed beside a map that asks for no number of them, and at most.
N_CELLS, MOST_CELLS = 8, 30

#: Characters of the line of a signal, at most.
_LINE = 100

#: Columns of a terminal from which boxes and scores fit beside a map, and up to which the table comes below it.
_WIDE, _NARROW = 118, 66

_PALETTE = Palette()
_DARK = 0.10
#: What is drawn over places without a value, and its color.
_HATCH, _HATCH_COLOR = "╱", (150, 150, 150)
#: Characters of the color bar.
_BAR = 21
#: Cells from which a map at work is filled in: the first windows of one are eight to twelve apart.
_REACH = 12


@dataclass(frozen=True, slots=True)
class Canvas:
    """What a terminal can show: its size in characters, and whether it has colors and the half block."""

    width: int
    color: bool
    blocks: bool
    height: int = 24

    @classmethod
    def of(cls, console: Console) -> Canvas:
        """Return the canvas of a console: plain characters with NO_COLOR, on dumb terminals and without UTF-8."""
        color = console.color_system is not None and not console.no_color
        return cls(
            console.width, color, console.encoding.startswith("utf") and not console.legacy_windows, console.height
        )


def draw_result(result: Result, console: Console) -> None:
    """Draw the first maps of a result on one scale, each beside a table of its most important cells."""
    canvas = Canvas.of(console)
    drawn = result.maps[:N_DRAWN]
    limits = shared_limits(drawn)
    for place, heat in enumerate(drawn):
        console.print(*[""] * (place > 0), draw_heatmap(heat, canvas, limits[heat.score_kind]), sep="\n")
    if len(result.maps) > N_DRAWN:
        console.print(f"... {len(result.maps) - N_DRAWN} more maps; .heat draws any of them", markup=False)


def draw_heatmap(heat: Heatmap, canvas: Canvas, limit: float | None = None) -> RenderableType:
    """Return a map over its image, beside the table of its most important cells; colors end at `limit`, or its own."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    limit = limit_of(heat) if limit is None else limit
    whole, heat = heat, slices.as_picture(heat) if heat.n_axes > 2 else heat
    height, width = _size(heat.placement.source_size, canvas)
    if heat.n_axes == 1:
        room = min(canvas.width - 2, _LINE)
        text = sparklines(heat, room, limit, _PALETTE, canvas.color, canvas.blocks)
    else:
        text = _painted(_sampled(heat, height, width), limit, _ground(heat, height, width), canvas)
    channel = f" · {heat.channel}" if heat.channel else ""
    title = Text(
        f"{Path(heat.image).name} · {heat.class_name}{channel} · clean {heat.score_kind} {heat.clean_score:.4g}",
        style="bold",
    )
    unknown = NOT_COMPUTED if uncovered(heat).any() else ""
    if outside(heat.placement):
        unknown = f"{unknown}, or {OUTSIDE}" if unknown else OUTSIDE
    notes = _legend(limit, heat.score_kind, canvas, unknown)
    if heat.quality != "exact":
        notes.append(Text(f"approximate: {heat.quality}" if heat.approx else heat.quality))
    n_listed = max(N_CELLS, heat.n_listed)
    listed = whole.top(min(n_listed, MOST_CELLS))
    if not all(cell.exact for cell in listed):
        notes.append(Text(f"{ESTIMATED} {estimated_note(heat.cells.quality)}"))
    if n_listed > MOST_CELLS:
        notes.append(Text(f"{n_listed - MOST_CELLS} more of the cells asked for: FROM top_cells(run, image, k)"))
    if heat.warning:
        notes.append(Text(heat.warning, style="yellow"))
    table = cells_table(listed, heat.score_kind, heat.classes, canvas.width >= _WIDE)
    if heat.n_axes == 1:
        return Group(title, text, *notes, table)
    return _framed(title, text, table, notes, canvas)


def draw_plane(
    importance: npt.NDArray[np.float32],
    grid: WindowGrid,
    score_kind: ScoreKind,
    title: str,
    canvas: Canvas,
    *,
    picture: npt.NDArray[Any] | None = None,
    exact: npt.NDArray[np.bool_] | None = None,
    stated: str | None = None,
) -> RenderableType:
    """Return a map that is still being computed: importance (rows, cols), NaN where it is not computed yet.

    It lies over `picture`, the model's input as RGB (H, W, 3) in 0..1. Windows that are not computed yet look as the
    nearest that are. `exact` says which were computed, if not all that have a value, and `stated` how far the map is;
    without it the windows that have a value are counted.
    """
    from rich.text import Text  # noqa: PLC0415

    n_windows, n_done = importance.size, int(np.isfinite(importance).sum())
    importance, exact, grid = slices.plane_so_far(importance, exact, grid)
    size = grid.rows.size, grid.cols.size
    height, width = _size(size, canvas)
    pixels = _pixels_so_far(importance, grid)
    at_rows, at_cols = (
        ((np.arange(n) + 0.5) * of / n).astype(int) for n, of in zip((height, width), size, strict=True)
    )
    values = pixels[at_rows[:, None], at_cols]
    limit = symmetric_limit(importance)
    ground = np.full((height, width, 3), _DARK) if picture is None else _shrunk(picture, height, width)
    is_preview = n_done < n_windows
    unknown = f"{NOT_COMPUTED} yet" if not np.isfinite(values).all() else ""
    notes = _legend(limit, score_kind, canvas, unknown)
    stated = f"{n_done} of {n_windows} windows" if stated is None else stated
    listed = isinstance(grid, RegionGrid)
    sizes = "listed" if listed else f"each window {show_on(size, grid.patch)} px"
    notes.append(Text(f"{stated}, {sizes} of {show_on(size, size)}"))
    if is_preview and not listed:
        notes.append(Text("the others look as the nearest of them"))
    best = _best(importance, exact, grid, canvas.width >= _WIDE)
    if exact is not None and not exact.all():
        notes.append(Text(f"{ESTIMATED} estimated"))
    return _framed(Text(title, style="bold"), _painted(values, limit, ground, canvas), best, notes, canvas)


def _pixels_so_far(importance: npt.NDArray[np.float32], grid: WindowGrid) -> npt.NDArray[np.float64]:
    """Return (H, W): the mean over the windows that have a value by now, and around them, on a grid, their values."""
    axes = [(np.asarray(axis.starts, np.int32), np.asarray(axis.lengths, np.int32)) for axis in grid.axes]
    if isinstance(grid, RegionGrid):
        return np.nan_to_num(mean_over_regions(importance[0].astype(np.float64), axes, grid.listed, grid.size))
    return mean_over_windows(spread(importance, _REACH).astype(np.float64), axes, grid.size)


#: What is above the boxes of windows, by how many axes they have.
_BOX_HEADS = {1: "box (start, length)", 2: "box (top, left, h, w)", 3: "box (front, top, left, d, h, w)"}


def cells_table(cells: list[Cell], score_kind: str, classes: tuple[str, ...], wide: bool = True) -> RenderableType:
    """Return a table of cells: place on the grid, importance, class; if `wide`, also box in model pixels and score."""
    what = "region" if cells and cells[0].name is not None else "cell"
    if wide:
        box_head = _BOX_HEADS[cells[0].n_axes if cells else 2]
        table = _table("#", what, box_head, "importance", score_kind, "top class")
    else:
        table = _table("#", what, "importance", "top class")
    for rank, cell in enumerate(cells, start=1):
        name = top_class_text(cell.top_class, classes)
        box = cell.box_text
        place, importance = _plain(cell.place_text), cell.importance_text
        values = (place, box, importance, f"{cell.score:.4g}") if wide else (place, importance)
        table.add_row(str(rank), *values, _plain(name))
    return table


def _best(
    importance: npt.NDArray[Any], exact: npt.NDArray[np.bool_] | None, grid: WindowGrid, wide: bool
) -> RenderableType:
    """Return the most important windows so far.

    They take as many lines however many there are, so that what is below does not jump.
    """
    table = (
        _table("#", "cell", "box (top, left, h, w)", "importance") if wide else _table("#", "top, left", "importance")
    )
    flat = importance.ravel()
    order = np.argsort(-flat, kind="stable")
    found = order[np.isfinite(flat[order])][:N_CELLS]
    for rank, index in enumerate(found, start=1):
        row, col = divmod(int(index), importance.shape[1])
        down, across = (int(at[0]) for at in grid.places(np.array([index])))
        top, left = grid.rows.starts[down], grid.cols.starts[across]
        shown = importance_text(flat[index], exact is None or bool(exact[row, col]))
        box = f"{top}, {left}, {grid.rows.lengths[down]}, {grid.cols.lengths[across]}"
        place = _plain(grid.listed.names[col] if isinstance(grid, RegionGrid) else f"{row}, {col}")
        table.add_row(str(rank), *((place, box) if wide else (f"{top}, {left}",)), shown)
    for _ in range(len(found), N_CELLS):
        table.add_row("")
    return table


def _table(*heads: str) -> Table:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for head in heads:
        numeric = head not in ("top class", "cell", "region", "top, left") and not head.startswith("box")
        table.add_column(head, justify="right" if numeric else "left", no_wrap=True)
    return table


def _framed(title: Text, drawing: Text, table: RenderableType, notes: list[Text], canvas: Canvas) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if canvas.width <= _NARROW:
        return Group(title, drawing, *notes, table)
    side_by_side = Table.grid(padding=(0, 2))
    side_by_side.add_row(drawing, Group(table, "", *notes))
    return Group(title, side_by_side)


def _plain(text: str) -> Text:
    """Return a cell's text as it is: file and class names may hold rich's markup."""
    from rich.text import Text  # noqa: PLC0415

    return Text(text)


def _size(shape: tuple[int, ...], canvas: Canvas) -> tuple[int, int]:
    """Return (height, width) in half blocks of a picture of `shape`.

    Beside a table it takes half the terminal's width at most.
    """
    room = canvas.width - 2 if canvas.width <= _NARROW else canvas.width // 2 - 4
    widest = max(8, min(44, room))
    shape = (max(1, shape[1] // 3), shape[1]) if shape[0] == 1 else shape  # a signal, as a picture of its curves
    highest = max(12, min(44, 2 * (canvas.height - 4)))  # a title and what stands below it fit as well
    scale = min(widest / shape[1], highest / shape[0])
    height = max(2, round(shape[0] * scale))
    return height + height % 2, max(2, round(shape[1] * scale))


def _sampled(heat: Heatmap, height: int, width: int) -> npt.NDArray[np.float32]:
    """Return the per-pixel importance (height, width) at the centres of a coarse grid over the source image."""
    place = heat.placement
    at = []
    for axis, n in enumerate((height, width)):
        source = (np.arange(n) + 0.5) * place.source_size[axis] / n
        at.append(np.floor((source - place.offset[axis]) / place.scale[axis]).astype(int))
    (rows, cols), (model_height, model_width) = at, place.model_size
    inside = ((rows >= 0) & (rows < model_height))[:, None] & ((cols >= 0) & (cols < model_width))
    plane = heat.to_pixels() if heat.cells.listed is None else np.nan_to_num(heat.to_pixels())
    pixels = plane[np.clip(rows, 0, model_height - 1)[:, None], np.clip(cols, 0, model_width - 1)]
    return np.where(inside, pixels, np.float32(np.nan))


def _ground(heat: Heatmap, height: int, width: int) -> npt.NDArray[np.float64]:
    """Return the image, (height, width, 3) in 0..1; dark where it cannot be opened any more."""
    try:
        pixels = heat.source().unit_pixels()
    except ImageError:
        return np.full((height, width, 3), _DARK)
    return _shrunk(pixels, height, width)


def _shrunk(pixels: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.float64]:
    """Return a picture, RGB (H, W, 3) in 0..1, at another size."""
    from PIL import Image  # noqa: PLC0415

    small = Image.fromarray(np.uint8(np.rint(pixels * 255))).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.float64) / 255


def _painted(values: npt.NDArray[Any], limit: float, ground: npt.NDArray[np.float64], canvas: Canvas) -> Text:
    if canvas.color and canvas.blocks:
        return _half_blocks(_PALETTE.blended(ground, values, limit), np.isfinite(values))
    return _characters(values, limit)


def _half_blocks(pixels: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_]) -> Text:
    """Return a character for two pixels; hatched where neither of them is known."""
    from rich.color import Color  # noqa: PLC0415
    from rich.style import Style  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    text = Text(no_wrap=True)
    for line in range(0, pixels.shape[0], 2):
        hatched = ~(known[line] | known[line + 1])
        middle = np.asarray((pixels[line].astype(int) + pixels[line + 1]) // 2)
        for column, is_hatched in enumerate(hatched.tolist()):
            above, below = (pixels[line + half, column].tolist() for half in (0, 1))
            if is_hatched:
                ground = Color.from_rgb(*middle[column].tolist())
                text.append(_HATCH, Style(color=Color.from_rgb(*_HATCH_COLOR), bgcolor=ground))
            else:
                text.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    text.right_crop(1)
    return text


def _characters(values: npt.NDArray[Any], limit: float) -> Text:
    """Return one character for two pixels above each other: their mean, in five steps each way.

    A `?` stands where nothing is known.
    """
    from rich.text import Text  # noqa: PLC0415

    pairs = values.reshape(-1, 2, values.shape[1])
    known = np.isfinite(pairs)
    mean = np.where(known, pairs, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    step = np.ceil(np.abs(mean) / limit * len(FOR) - 0.5).astype(int).clip(0, len(FOR))
    lines = []
    for row, steps, some in zip(mean, step, known.any(axis=1), strict=True):
        marks = [
            "?" if not is_known else " " if n == 0 else (FOR if value > 0 else AGAINST)[n - 1]
            for value, n, is_known in zip(row.tolist(), steps.tolist(), some.tolist(), strict=True)
        ]
        lines.append("".join(marks))
    return Text("\n".join(lines), no_wrap=True)


def _legend(limit: float, score_kind: ScoreKind, canvas: Canvas, unknown: str) -> list[Text]:
    """Return lines that say what colors and marks mean; `unknown`, if there is any, what places without a value are."""
    from rich.text import Text  # noqa: PLC0415

    if not (canvas.color and canvas.blocks):
        high, low = ("raises it", "lowers it") if score_kind == "value" else ("for the class", "against it")
        scale = Text(f"{high} {FOR}   {low} {AGAINST}   (up to {limit:.3g})")
        return [scale, Text(scale_text(score_kind)), *([Text(f"? {unknown}")] if unknown else [])]
    # As in pictures: over black above, over white below.
    bar = _half_blocks(bar_pixels(_PALETTE, _BAR), np.ones((2, _BAR), bool))
    against, for_class = ends_text(_PALETTE.sign, score_kind)
    line = Text(f"{against} -{limit:.3g} ").append_text(bar).append(f" +{limit:.3g} {for_class}")
    return [line, Text(scale_text(score_kind)), *([Text(f"{_HATCH} {unknown}")] if unknown else [])]
