"""Two maps beside each other on one scale, and their difference.

Beside `overlay`, which draws one map and sheets of many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from obeql.drawing.as_picture import as_picture
from obeql.drawing.captions import add_titles
from obeql.drawing.colors import Palette, checked_limit, palette, shared_limits
from obeql.drawing.figures import MapFigure, new_figure
from obeql.drawing.map_layers import bare, draw_hatches, draw_picture, draw_pixels, picture_of
from obeql.drawing.overlay import overlay
from obeql.drawing.scale_bar import color_bar
from obeql.errors import QueryTypeError
from obeql.planner.grid import show_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from obeql.drawing.colors import Sign
    from obeql.results.heatmap import Heatmap

__all__ = ["side_by_side"]


def side_by_side(
    first: Heatmap,
    second: Heatmap,
    *,
    limit: float | None = None,
    alpha: float | None = None,
    cmap: Any = None,
    sign: Sign = "all",
) -> MapFigure:
    """Draw two maps on one scale, and, where both are of one image and input size, their difference.

    For an exact map and its approximation, two classes, two patch sizes, two models. The titles say what differs; the
    difference (second - first, per pixel) has a scale of its own. Raises QueryTypeError for two different scores.
    """
    chosen = palette(alpha, cmap, sign)
    first, second = as_picture(first), as_picture(second)
    if first.score_kind != second.score_kind:
        raise QueryTypeError(
            f"the maps show {first.score_kind} and {second.score_kind}, which share no scale; "
            f"compare with other.as_score('{first.score_kind}')"
        )
    same_image = first.cells.key.image_hash == second.cells.key.image_hash and first.placement == second.placement
    height, width = first.placement.source_size
    aspect = min(2.0, max(0.5, width / height))
    n_panels = 3 if same_image else 2
    panel = 4.6 * min(aspect, 1.3)  # inches, of which the color bar takes one
    figure = new_figure((n_panels * panel, (panel - 1.0) / aspect + 1.0))
    axes = figure.panels(1, n_panels)[0]
    limit = checked_limit(limit) or shared_limits([first, second], sign)[first.score_kind]
    for ax, heat, name in zip(axes, (first, second), _what_differs(first, second), strict=False):
        overlay(heat, ax, limit=limit, alpha=chosen.alpha, cmap=chosen.cmap, sign=sign, title=name)
    if same_image:
        _draw_difference(axes[2], first, second, replace(chosen, sign="all"))
    return figure


def _what_differs(first: Heatmap, second: Heatmap) -> tuple[str, str]:
    """Return a title for each map: what tells it from the other."""
    told: dict[str, Callable[[Heatmap], str]] = {
        "image": lambda heat: Path(heat.image).name,
        "model": lambda heat: heat.model,
        "class": lambda heat: heat.class_name,
        "patch": lambda heat: f"patch {heat.patch_text}",
        "stride": lambda heat: "stride " + show_on(heat.placement.model_size, heat.stride),
        "fill": lambda heat: f"fill {heat.cells.key.fill}",
        "channel": lambda heat: heat.channel or "all channels",
        "quality": lambda heat: "approximate" if heat.approx else "exact",  # the bound is in the line below
    }
    pairs = [(tell(first), tell(second)) for tell in told.values()]
    different = [pair for pair in pairs if pair[0] != pair[1]] or [pairs[2]]
    return " · ".join(pair[0] for pair in different), " · ".join(pair[1] for pair in different)


def _draw_difference(ax: Axes, first: Heatmap, second: Heatmap, chosen: Palette) -> None:
    a, b = first.to_pixels(), second.to_pixels()
    difference = b - a
    picture, _ = picture_of(first)
    draw_picture(ax, first, picture)
    mappable = draw_pixels(ax, first, difference, None, chosen, smooth=False)
    draw_hatches(ax, first, ~np.isfinite(difference))
    bare(ax)
    color_bar(ax, mappable, ("← first larger", "difference", "second larger →"))
    both = np.isfinite(a) & np.isfinite(b)
    largest = float(np.abs(difference[both]).max()) if both.any() else math.nan
    varies = both.any() and float(np.ptp(a[both])) > 0 and float(np.ptp(b[both])) > 0
    correlation = f", correlation {np.corrcoef(a[both], b[both])[0, 1]:.3f}" if varies else ""
    add_titles(ax, "second − first", [f"largest difference {largest:.3g}{correlation}"])
