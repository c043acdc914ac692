"""Drawing one heat map over its image with matplotlib; `sheet` draws many on one figure.

Matplotlib is imported inside the functions and used through its Figure objects alone (no pyplot, no global state), so
that drawing works in threads and without a display.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.drawing import curves, slices
from obeql.drawing.captions import add_note, add_titles, titles_of
from obeql.drawing.colors import Palette, checked_limit, limit_of, palette
from obeql.drawing.legend import uncovered
from obeql.drawing.map_layers import bare, draw_hatches, draw_outlines, draw_picture, draw_pixels, picture_of
from obeql.drawing.scale_bar import add_key, bar_label, color_bar, key_of
from obeql.errors import QueryTypeError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from obeql.drawing.colors import Sign
    from obeql.results.heatmap import Heatmap

__all__ = ["VIEWS", "draw_map", "overlay", "picture_bytes"]

#: How a volume is drawn: three slices through the most important window, or its planes one after another.
VIEWS = ("slices", "montage")

#: Kinds of input that are no images: the size of a figure in inches, and what draws a map in an axes of it.
_OTHERS: Mapping[str, tuple[Callable[[Heatmap], tuple[float, float]], Callable[..., tuple[Any, str]]]] = {
    "signal": (curves.figure_size, curves.draw_signal),
    "volume": (slices.figure_size, slices.draw_volume),
}


def overlay(
    heat: Heatmap,
    ax: Axes | None = None,
    *,
    limit: float | None = None,
    alpha: float | None = None,
    cmap: Any = None,
    sign: Sign = "all",
    colorbar: bool = True,
    beside: bool = False,
    smooth: bool = True,
    outline: bool = True,
    title: str | None = None,
    view: str = "slices",
    key: bool = True,
) -> Axes:
    """Draw a map over its image and return the axes; the arguments are those of `Heatmap.plot`.

    Without `key`, what hatches and frames mean is left to the caller to say.
    """
    if view not in VIEWS:
        raise QueryTypeError(f"view is {view!r}; allowed are {' and '.join(VIEWS)}.{nearest(str(view), VIEWS)}")
    chosen = palette(alpha, cmap, sign)
    checked_limit(limit)
    if view == "montage" and heat.n_axes > 2:
        return _montage(heat, ax, limit, chosen, colorbar, smooth, title)
    if heat.kind.name in _OTHERS:
        return _other_overlay(heat, ax, limit, chosen, colorbar, smooth, outline, title)
    picture, problem = picture_of(heat)
    if ax is None:
        from obeql.drawing.figures import new_figure  # noqa: PLC0415 - imports matplotlib

        height, width = heat.placement.source_size
        aspect = min(3.0, max(1 / 3, width / height))
        n_panels = 2 if beside else 1
        figure = new_figure((5.0 * n_panels * min(aspect, 1.6) + 1.2, 5.0 * min(aspect, 1.6) / aspect + 1.2))
        if beside:
            left, ax = figure.panels(1, 2)[0]
            draw_picture(left, heat, picture)
            bare(left)
        else:
            ax = figure.panels(1, 1)[0][0]
    mappable = draw_map(ax, heat, picture, limit, chosen, smooth, outline)
    if colorbar:
        color_bar(ax, mappable, bar_label(heat, sign))
    main, details = titles_of(heat)
    add_titles(ax, main if title is None else title, details)
    entries = key_of([heat], outline) if key else []
    add_key(ax, entries)
    note = "; ".join(text for text in (problem, heat.warning) if text)
    if note:
        add_note(ax, note, max(30, int(ax.bbox.width / ax.figure.dpi * 15)), below_key=bool(entries))
    return ax


def _other_overlay(
    heat: Heatmap,
    ax: Axes | None,
    limit: float | None,
    chosen: Palette,
    colorbar: bool,
    smooth: bool,
    outline: bool,
    title: str | None,
) -> Axes:
    """Draw the map of a signal or a volume as `overlay` draws that of an image."""
    size, draw = _OTHERS[heat.kind.name]
    if ax is None:
        from obeql.drawing.figures import new_figure  # noqa: PLC0415 - imports matplotlib

        ax = new_figure(size(heat)).panels(1, 1)[0][0]
    limit = limit_of(heat, chosen.sign) if limit is None else limit
    mappable, problem = draw(ax, heat, limit, chosen, smooth, outline)
    return _labeled(ax, heat, mappable, problem, chosen, colorbar, title)


def _labeled(
    ax: Axes, heat: Heatmap, mappable: Any, problem: str, chosen: Palette, colorbar: bool, title: str | None
) -> Axes:
    """Add the bar, the titles and the notes of a map that is drawn."""
    if colorbar:
        color_bar(ax, mappable, bar_label(heat, chosen.sign))
    main, details = titles_of(heat)
    add_titles(ax, main if title is None else title, details)
    note = "; ".join(text for text in (problem, heat.warning) if text)
    if note:
        add_note(ax, note, 90, below_key=False)
    return ax


def _montage(
    heat: Heatmap,
    ax: Axes | None,
    limit: float | None,
    chosen: Palette,
    colorbar: bool,
    smooth: bool,
    title: str | None,
) -> Axes:
    """Draw the planes of a volume one after another, as many as can be read: of a clip, a strip of its frames."""
    if ax is None:
        from obeql.drawing.figures import new_figure  # noqa: PLC0415 - imports matplotlib

        ax = new_figure((10.0, 7.5)).panels(1, 1)[0][0]
    limit = limit_of(heat, chosen.sign) if limit is None else limit
    mappable, problem = slices.draw_montage(ax, heat, limit, chosen, smooth)
    return _labeled(ax, heat, mappable, problem, chosen, colorbar, title)


def draw_map(
    ax: Axes,
    heat: Heatmap,
    picture: npt.NDArray[np.float32] | None,
    limit: float | None,
    chosen: Palette,
    smooth: bool,
    outline: bool,
) -> Any:
    """Draw the image, the map, its hatches and its frames, without any words; returns the mappable."""
    draw_picture(ax, heat, picture)
    limit = limit_of(heat, chosen.sign) if limit is None else limit
    mappable = draw_pixels(ax, heat, heat.to_pixels(), limit, chosen, smooth)
    draw_hatches(ax, heat, uncovered(heat))
    bare(ax)
    if outline:
        draw_outlines(ax, heat)
    return mappable


def picture_bytes(figure: Any, suffix: str, dpi: float, told: str | None = None) -> bytes:
    """Render a figure as a file's content, without metadata of program, time or machine.

    `told` is what the file says of itself: a text chunk `obeql` of PNG, the subject of PDF, the description of SVG, the
    comment of JPEG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

    extra: dict[str, Any] = {
        ".png": {"metadata": {"Software": None, "obeql": told}},
        ".pdf": {"metadata": {"Creator": None, "Producer": None, "CreationDate": None, "Subject": told}},
        ".svg": {"metadata": {"Creator": None, "Date": None, "Description": told}},
    }.get(suffix, {"pil_kwargs": {"comment": told}} if told else {})
    buffer = BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format=suffix[1:], dpi=dpi, facecolor="white", **extra)
    return buffer.getvalue()
