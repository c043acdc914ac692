"""Many maps on one figure: rows of maps, or a matrix of images by classes.

Beside `overlay`, which draws one map. Maps that share a scale have one color bar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from obeql.drawing.as_picture import as_picture
from obeql.drawing.captions import add_note, add_titles, quality_lines, score_line, shortened, window_line
from obeql.drawing.colors import checked_limit, palette, shared_limits
from obeql.drawing.figures import MapFigure, new_figure
from obeql.drawing.map_layers import bare, draw_picture, picture_of
from obeql.drawing.overlay import draw_map, overlay
from obeql.drawing.scale_bar import add_key, bar_beside, bar_label, key_of
from obeql.errors import QueryTypeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from obeql.drawing.colors import Palette, Sign
    from obeql.results.heatmap import Heatmap

__all__ = ["MAX_SHEET", "sheet"]

#: Most maps on one sheet; beyond it they are too small to read.
MAX_SHEET = 64

#: Inches of a panel and of the image in it.
_PANEL, _IMAGE = 4.0, 3.5


def sheet(
    heats: Sequence[Heatmap],
    *,
    columns: int | None = None,
    shared: bool = True,
    limit: float | None = None,
    alpha: float | None = None,
    cmap: Any = None,
    sign: Sign = "all",
    colorbar: bool = True,
    smooth: bool = True,
    outline: bool = True,
) -> MapFigure:
    """Draw many maps on one figure; the arguments are those of `Result.plot`."""
    if not heats:
        raise QueryTypeError("there is no heat map to draw")
    if len(heats) > MAX_SHEET:
        raise QueryTypeError(
            f"a figure grid holds at most {MAX_SHEET} maps, not {len(heats)}: choose some "
            "(RENDER .. WITH class='name', or a slice of the result in Python), or write a file per map "
            "(EXPORT RUN .. FORMAT png)"
        )
    if columns is not None and columns < 1:
        raise QueryTypeError(f"columns must be positive, not {columns}")
    heats = [as_picture(heat) for heat in heats]
    chosen = palette(alpha, cmap, sign)
    kinds = {heat.score_kind for heat in heats}
    limits: dict[Any, float | None] = dict.fromkeys(kinds, checked_limit(limit))
    if shared and limit is None:
        limits = {**shared_limits(heats, sign)}
    one_bar = len(kinds) == 1 and limits[heats[0].score_kind] is not None
    draw = _Panels(limits, chosen, smooth, outline, colorbar and not one_bar)
    tallest = min(2.0, max(0.4, *(heat.placement.source_size[0] / heat.placement.source_size[1] for heat in heats)))
    rows = _matrix(heats) if columns is None and one_bar and len(heats) > 1 else None
    if rows is None:
        n_columns = min(columns or math.ceil(math.sqrt(len(heats))), len(heats))
        n_rows = math.ceil(len(heats) / n_columns)
        width = _PANEL if one_bar else _PANEL + 0.6
        figure = new_figure((width * n_columns + 0.8 * one_bar, (_IMAGE * tallest + 0.75) * n_rows + 0.3))
        panels = figure.panels(n_rows, n_columns)
        mappables = draw.in_rows(panels, heats)
    else:
        n_columns, n_rows = 1 + len(rows[0]), len(rows)
        figure = new_figure((_PANEL * 0.9 * n_columns + 0.8, (_IMAGE * 0.9 * tallest + 0.75) * n_rows + 0.3))
        panels = figure.panels(n_rows, n_columns)
        mappables = draw.in_matrix(panels, rows)
    if colorbar and one_bar:
        bar_beside(figure, panels, mappables[0], bar_label(heats[0], sign), _IMAGE * tallest * n_rows)
    add_key(figure, key_of(heats, outline))
    return figure


def _matrix(heats: Sequence[Heatmap]) -> list[list[Heatmap]] | None:
    """Return the maps of each image and patch size, if there are several classes of each, and as many; else None."""
    rows = [list(row) for _, row in groupby(heats, lambda heat: (heat.cells.key, heat.image, heat.stride, heat.shape))]
    return rows if len(rows[0]) > 1 and len({len(row) for row in rows}) == 1 else None


class _Panels:
    """Draws maps in panels with the options of a sheet."""

    def __init__(
        self, limits: dict[Any, float | None], chosen: Palette, smooth: bool, outline: bool, bars: bool
    ) -> None:
        self._limits = limits
        self._chosen = chosen
        self._smooth = smooth
        self._outline = outline
        self._bars = bars

    def in_rows(self, panels: list[list[Axes]], heats: Sequence[Heatmap]) -> list[Any]:
        """Return one map after the other, each with its titles; returns the mappables."""
        places = [ax for row in panels for ax in row]
        chosen = self._chosen
        for ax, heat in zip(places, heats, strict=False):
            overlay(
                heat,
                ax,
                limit=self._limits[heat.score_kind],
                alpha=chosen.alpha,
                cmap=chosen.cmap,
                sign=chosen.sign,
                colorbar=self._bars,
                smooth=self._smooth,
                outline=self._outline,
                key=False,
            )
        for ax in places[len(heats) :]:
            ax.set_axis_off()
        return [_mappable(ax) for ax in places[: len(heats)]]

    def in_matrix(self, panels: list[list[Axes]], rows: list[list[Heatmap]]) -> list[Any]:
        """Return a row an image: the image itself, then its maps, a column each; returns the mappables."""
        mappables = []
        for axes, heats in zip(panels, rows, strict=True):
            first = heats[0]
            picture, problem = picture_of(first)
            draw_picture(axes[0], first, picture)
            bare(axes[0])
            label = [] if first.label is None else [f"label {first.label}"]
            add_titles(axes[0], shortened(Path(first.image).name, 30), [*label, window_line(first)])
            if problem:
                add_note(axes[0], problem, 45, below_key=False)
            for ax, heat in zip(axes[1:], heats, strict=True):
                limit = self._limits[heat.score_kind]
                mappables.append(draw_map(ax, heat, picture, limit, self._chosen, self._smooth, self._outline))
                add_titles(ax, shortened(heat.class_name, 24), [score_line(heat), *quality_lines(heat)])
                if heat.warning:
                    add_note(ax, heat.warning, 45, below_key=False)
        return mappables


def _mappable(ax: Axes) -> Any:
    """Return the map in an axes: it comes after the image, and before the hatches, which have no scale."""
    return next(image for image in reversed(ax.images) if np.asarray(image.get_array()).ndim == 2)
