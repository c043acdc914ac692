"""Maps drawn in a terminal: half blocks in true colour over the image, or characters where there are no colours.

Comes last, after the session has returned a result. A character cell is about twice as high as it is wide, so the
upper half block with two colours draws two square pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.colours import blended, shared_limits, symmetric_limit
from obeql.errors import ImageError
from obeql.quality import ESTIMATED, estimated_note, top_class_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from obeql.heatmap import Cell, Heatmap
    from obeql.result import Result

__all__ = ["Canvas", "cells_table", "draw_heatmap", "draw_plane", "draw_result"]

#: Characters from weak to strong evidence for the class, and against it.
FOR, AGAINST = ".:*#@", ",-=%&"

#: Maps of one result that are drawn; more would scroll away.
N_DRAWN = 4
#: Most important cells listed beside a map that asks for no number of them, and at most.
N_CELLS, MOST_CELLS = 8, 30

#: Columns of a terminal from which boxes and scores fit beside a map, and up to which the table comes below it.
_WIDE, _NARROW = 118, 66

_ALPHA = 0.85
_DARK, _NOT_YET = 0.10, 0.28


@dataclass(frozen=True, slots=True)
class Canvas:
    """What a terminal can show: its width in characters, and whether it has colours and the half block."""

    width: int
    colour: bool
    blocks: bool

    @classmethod
    def of(cls, console: Console) -> Canvas:
        """The canvas of a console; NO_COLOR, dumb terminals and other encodings than UTF-8 get plain characters."""
        colour = console.color_system is not None and not console.no_color
        return cls(console.width, colour, console.encoding.startswith("utf") and not console.legacy_windows)


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
    """Return a map over its image, beside the table of its most important cells; colours end at `limit`, or its own."""
    from rich.text import Text  # noqa: PLC0415

    height, width = _size(heat.placement.source_size, canvas)
    values = _sampled(heat, height, width)
    limit = symmetric_limit(heat.to_pixels()) if limit is None else limit
    text = _painted(values, limit, _ground(heat, height, width), canvas)
    title = Text(
        f"{Path(heat.image).name} · {heat.class_name} · clean {heat.score_kind} {heat.clean_score:.4g}", style="bold"
    )
    notes = [_legend(limit, heat.score_kind, canvas)]
    if heat.approx:
        notes.append(Text(f"approximate: {heat.quality}"))
    n_listed = max(N_CELLS, heat.n_listed)
    listed = heat.top(min(n_listed, MOST_CELLS))
    if not all(cell.exact for cell in listed):
        notes.append(Text(f"{ESTIMATED} {estimated_note(heat.cells.quality)}"))
    if n_listed > MOST_CELLS:
        notes.append(Text(f"{n_listed - MOST_CELLS} more of the cells asked for: FROM top_cells(run, image, k)"))
    if heat.warning:
        notes.append(Text(heat.warning, style="yellow"))
    table = cells_table(listed, heat.score_kind, heat.classes, canvas.width >= _WIDE)
    return _framed(title, text, table, notes, canvas)


def draw_plane(
    importance: npt.NDArray[Any],
    patch_px: tuple[int, int],
    score_kind: str,
    title: str,
    canvas: Canvas,
    stated: str | None = None,
) -> RenderableType:
    """Return a map that is still being computed: importance (rows, cols), NaN where it is not computed yet.

    `stated` says how far it is; without it the windows that have a value are counted.
    """
    from rich.text import Text  # noqa: PLC0415

    height, width = _size(importance.shape, canvas)
    rows = np.arange(height) * importance.shape[0] // height
    cols = np.arange(width) * importance.shape[1] // width
    values = importance[rows[:, None], cols]
    limit = symmetric_limit(importance)
    ground = np.where(np.isfinite(values), _DARK, _NOT_YET)[..., None].repeat(3, axis=-1)
    text = _painted(values, limit, ground, canvas)
    n_done = int(np.isfinite(importance).sum())
    stated = f"{n_done} of {importance.size} windows" if stated is None else stated
    note = Text(f"{stated}, each window {patch_px[0]}x{patch_px[1]} px")
    best = _best(importance, N_CELLS)
    return _framed(Text(title, style="bold"), text, best, [_legend(limit, score_kind, canvas), note], canvas)


def cells_table(cells: list[Cell], score_kind: str, classes: tuple[str, ...], wide: bool = True) -> RenderableType:
    """Return a table of cells: place on the grid, importance, class; if `wide`, also box in model pixels and score."""
    if wide:
        table = _table("#", "cell", "box (top, left, h, w)", "importance", score_kind, "top class")
    else:
        table = _table("#", "cell", "importance", "top class")
    for rank, cell in enumerate(cells, start=1):
        name = top_class_text(cell.top_class, classes)
        box = f"{cell.top}, {cell.left}, {cell.height}, {cell.width}"
        place, importance = f"{cell.row}, {cell.col}", cell.importance_text
        values = (place, box, importance, f"{cell.score:.4g}") if wide else (place, importance)
        table.add_row(str(rank), *values, _plain(name))
    return table


def _best(importance: npt.NDArray[Any], k: int) -> RenderableType:
    table = _table("#", "cell", "importance")
    flat = importance.ravel()
    order = np.argsort(-flat, kind="stable")
    for rank, index in enumerate(order[np.isfinite(flat[order])][:k], start=1):
        row, col = divmod(int(index), importance.shape[1])
        table.add_row(str(rank), f"{row}, {col}", f"{flat[index]:+.4g}")
    return table


def _table(*heads: str) -> Table:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for head in heads:
        numeric = head not in ("top class", "cell") and not head.startswith("box")
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
    """A cell's text as it is: file and class names may hold rich's markup."""
    from rich.text import Text  # noqa: PLC0415

    return Text(text)


def _size(shape: tuple[int, ...], canvas: Canvas) -> tuple[int, int]:
    """(height, width) in half blocks of a picture of `shape`: beside a table half the terminal's width at most."""
    room = canvas.width - 2 if canvas.width <= _NARROW else canvas.width // 2 - 4
    widest = max(8, min(44, room))
    scale = min(widest / shape[1], 44 / shape[0])
    height = max(2, round(shape[0] * scale))
    return height + height % 2, max(2, round(shape[1] * scale))


def _sampled(heat: Heatmap, height: int, width: int) -> npt.NDArray[np.float32]:
    """The per-pixel importance (height, width) at the centres of a coarse grid over the source image."""
    place = heat.placement
    at = []
    for axis, n in enumerate((height, width)):
        source = (np.arange(n) + 0.5) * place.source_size[axis] / n
        at.append(np.floor((source - place.offset[axis]) / place.scale[axis]).astype(int))
    (rows, cols), (model_height, model_width) = at, place.model_size
    inside = ((rows >= 0) & (rows < model_height))[:, None] & ((cols >= 0) & (cols < model_width))
    pixels = heat.to_pixels()[np.clip(rows, 0, model_height - 1)[:, None], np.clip(cols, 0, model_width - 1)]
    return np.where(inside, pixels, np.float32(np.nan))


def _ground(heat: Heatmap, height: int, width: int) -> npt.NDArray[np.float64]:
    """The image, (height, width, 3) in 0..1; dark where it cannot be opened any more."""
    from PIL import Image  # noqa: PLC0415

    try:
        pixels = heat.source().unit_pixels()
    except ImageError:
        return np.full((height, width, 3), _DARK)
    small = Image.fromarray(np.uint8(np.rint(pixels * 255))).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.float64) / 255


def _painted(values: npt.NDArray[Any], limit: float, ground: npt.NDArray[np.float64], canvas: Canvas) -> Text:
    if canvas.colour and canvas.blocks:
        return _half_blocks(blended(ground, values, limit, _ALPHA))
    return _characters(values, limit)


def _half_blocks(pixels: npt.NDArray[np.uint8]) -> Text:
    from rich.color import Color  # noqa: PLC0415
    from rich.style import Style  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    text = Text(no_wrap=True)
    for line in range(0, pixels.shape[0], 2):
        for above, below in zip(pixels[line].tolist(), pixels[line + 1].tolist(), strict=True):
            text.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    text.right_crop(1)
    return text


def _characters(values: npt.NDArray[Any], limit: float) -> Text:
    """One character for two pixels above each other: their mean, in five steps each way; `?` where nothing is known."""
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


def _legend(limit: float, score_kind: str, canvas: Canvas) -> Text:
    from rich.text import Text  # noqa: PLC0415

    name = score_kind.replace("_", "-")
    if not (canvas.colour and canvas.blocks):
        return Text(f"for the class {FOR}   against it {AGAINST}   (up to {limit:.3g} in {name})")
    scale = blended(np.full((2, 21, 3), _DARK), np.tile(np.linspace(-1, 1, 21), (2, 1)), 1.0, 1.0)
    text = Text(f"-{limit:.3g} ")
    text.append_text(_half_blocks(scale))
    text.append(f" +{limit:.3g} {name}")
    return text
