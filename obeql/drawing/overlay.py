"""Drawing one heat map over its image with matplotlib; `sheet` draws many on one figure.

Matplotlib is imported inside the functions and used through its Figure objects alone (no pyplot, no global state), so
that drawing works in threads and without a display.
"""

from __future__ import annotations

import math
import textwrap
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.drawing.colors import Palette, checked_limit, hatching, limit_of, palette, symmetric_limit
from obeql.drawing.legend import NOT_COMPUTED, OUTSIDE, ends_text, outside, scale_text, uncovered
from obeql.errors import ImageError
from obeql.planner.scores import SCORES, score_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    from obeql.drawing.colors import Sign
    from obeql.results.heatmap import Heatmap

__all__ = [
    "add_key",
    "add_note",
    "add_titles",
    "bar_beside",
    "bar_label",
    "bare",
    "color_bar",
    "color_map",
    "draw_hatches",
    "draw_map",
    "draw_picture",
    "draw_pixels",
    "key_of",
    "overlay",
    "picture_bytes",
    "picture_of",
    "plain_text",
    "quality_lines",
    "score_line",
    "shortened",
    "window_line",
]


#: Width of a character on a color bar, and in the lines above a map.
_CHARACTER_INCHES, _DETAIL_INCHES = 0.057, 0.062

#: Pixels that the longer side of a hatch has at least, and lines along it.
_HATCH_PX, _HATCH_LINES = 640, 34


def color_map(chosen: Palette) -> ListedColormap:
    """Return the colors of a palette from the low to the high end of its scale, transparent at zero, for matplotlib."""
    from matplotlib.colors import ListedColormap  # noqa: PLC0415

    # An odd number, so that zero has a color of its own: none.
    return ListedColormap(chosen.scale(257), name="obeql_evidence")


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
    key: bool = True,
) -> Axes:
    """Draw a map over its image and return the axes; the arguments are those of `Heatmap.plot`.

    Without `key`, what hatches and frames mean is left to the caller to say.
    """
    chosen = palette(alpha, cmap, sign)
    checked_limit(limit)
    if heat.n_axes == 1:
        return _signal_overlay(heat, ax, limit, chosen, colorbar, smooth, outline, title)
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
    main, details = _titles(heat)
    add_titles(ax, main if title is None else title, details)
    entries = key_of([heat], outline) if key else []
    add_key(ax, entries)
    note = "; ".join(text for text in (problem, heat.warning) if text)
    if note:
        add_note(ax, note, max(30, int(ax.bbox.width / ax.figure.dpi * 15)), below_key=bool(entries))
    return ax


def _signal_overlay(
    heat: Heatmap,
    ax: Axes | None,
    limit: float | None,
    chosen: Palette,
    colorbar: bool,
    smooth: bool,
    outline: bool,
    title: str | None,
) -> Axes:
    """Draw the map of a signal as `overlay` draws that of an image."""
    from obeql.drawing.curves import draw_signal  # noqa: PLC0415 - which draws with what stands here

    if ax is None:
        from obeql.drawing.figures import new_figure  # noqa: PLC0415 - imports matplotlib

        ax = new_figure((9.0, 2.6 + 0.8 * min(16, max(1, len(heat.channels))))).panels(1, 1)[0][0]
    limit = limit_of(heat, chosen.sign) if limit is None else limit
    mappable, problem = draw_signal(ax, heat, limit, chosen, smooth, outline)
    if colorbar:
        color_bar(ax, mappable, bar_label(heat, chosen.sign))
    main, details = _titles(heat)
    add_titles(ax, main if title is None else title, details)
    note = "; ".join(text for text in (problem, heat.warning) if text)
    if note:
        add_note(ax, note, 90, below_key=False)
    return ax


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
        _draw_outlines(ax, heat)
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


def picture_of(heat: Heatmap) -> tuple[npt.NDArray[np.float32] | None, str]:
    """RGB pixels of the source, or None and why there are none; a stored map can outlive its file."""
    try:
        return heat.source().unit_pixels(), ""
    except ImageError as error:
        return None, f"drawn without its image: {error}"


def draw_picture(ax: Axes, heat: Heatmap, picture: npt.NDArray[np.float32] | None) -> None:
    """Draw the source image in its own pixels, or a gray ground where there is none, and fix the axes to it."""
    height, width = heat.placement.source_size
    if picture is None:
        ax.set_facecolor("0.85")
    else:
        # RGB values are drawn as they are: no colormap and no stretching, so gray stays gray.
        ax.imshow(picture, extent=(0, width, height, 0), interpolation="antialiased")
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_aspect("equal")


def draw_pixels(
    ax: Axes, heat: Heatmap, pixels: npt.NDArray[np.float32], limit: float | None, chosen: Palette, smooth: bool
) -> Any:
    """Draw values of the model's pixels (H, W) where they lie in the source image of `heat`; returns the mappable."""
    from matplotlib.colors import Normalize  # noqa: PLC0415

    limit = symmetric_limit(pixels, chosen.sign) if limit is None else limit
    if smooth and heat.cells.listed is None:  # a region's value is that of all of it
        pixels = _between_steps(pixels, heat)
    if chosen.sign == "absolute":
        pixels = np.abs(pixels)
    left, top, right, bottom = _extent(heat, (0, 0, *heat.placement.model_size))
    low, high = chosen.span
    mappable = ax.imshow(
        np.ma.masked_invalid(pixels),
        cmap=color_map(chosen),
        norm=Normalize(low * limit, high * limit),
        extent=(left, right, bottom, top),
        interpolation="bilinear" if smooth else "nearest",
        interpolation_stage="data",
    )
    height, width = heat.placement.source_size
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    return mappable


def _between_steps(pixels: npt.NDArray[np.float32], heat: Heatmap) -> npt.NDArray[np.float32]:
    """Interpolate linearly between the centres of the steps that a per-pixel mean consists of.

    The mean is constant between two window edges; drawn as it is, the stride shows as blocks that mean nothing.
    Values at the steps' centres are kept, so no extreme is invented, and pixels without a value stay without.
    """
    filled = pixels
    for axis, starts, lengths in ((0, heat.tops, heat.heights), (1, heat.lefts, heat.widths)):
        size = pixels.shape[axis]
        edges = np.unique(np.concatenate([[0, size], starts, starts + lengths]))
        centres = (edges[:-1] + edges[1:] - 1) / 2
        at = np.clip(np.searchsorted(centres, np.arange(size), side="right") - 1, 0, max(0, len(centres) - 2))
        after = np.minimum(at + 1, len(centres) - 1)
        gap = np.where(after > at, centres[after] - centres[at], 1.0)
        weight = np.clip((np.arange(size) - centres[at]) / gap, 0, 1).astype(np.float32)
        weight = weight[:, None] if axis == 0 else weight
        low = np.take(filled, np.floor(centres[at]).astype(int), axis=axis)
        high = np.take(filled, np.floor(centres[after]).astype(int), axis=axis)
        mixed = low * (1 - weight) + high * weight
        # Beside a pixel without a value there is nothing to interpolate with.
        filled = np.where(np.isfinite(mixed), mixed, filled)
    return np.where(np.isfinite(pixels), filled, pixels)


def draw_hatches(ax: Axes, heat: Heatmap, unknown: npt.NDArray[np.bool_]) -> None:
    """Hatch the model's pixels (H, W) that are `unknown`, which are not zero, and the parts that it does not see."""
    height, width = heat.placement.source_size
    top, left, model_height, model_width = heat.placement.source_box(0, 0, *heat.placement.model_size)
    zoom = _HATCH_PX / max(height, width)
    rows, cols = (np.arange(max(1, round(n * zoom))) + 0.5 for n in (height, width))
    period = max(3, _HATCH_PX // _HATCH_LINES)
    y = np.floor((rows / zoom - top) / model_height * heat.placement.model_size[0]).astype(int)
    x = np.floor((cols / zoom - left) / model_width * heat.placement.model_size[1]).astype(int)
    seen = ((y >= 0) & (y < heat.placement.model_size[0]))[:, None] & ((x >= 0) & (x < heat.placement.model_size[1]))
    for part, falling in ((_at(unknown, y, x) & seen, False), (~seen & outside(heat.placement), True)):
        if part.any():
            ax.imshow(hatching(part, period, falling), extent=(0, width, height, 0), interpolation="antialiased")


def _at(plane: npt.NDArray[np.bool_], y: npt.NDArray[Any], x: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return the plane (H, W) at rows `y` and columns `x`; those beyond it take its border."""
    return np.asarray(plane[np.clip(y, 0, plane.shape[0] - 1)[:, None], np.clip(x, 0, plane.shape[1] - 1)])


def _extent(heat: Heatmap, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in source pixels of a box (top, left, height, width) of the model's input."""
    top, left, height, width = heat.placement.source_box(*box)
    return left, top, left + width, top + height


def _draw_outlines(ax: Axes, heat: Heatmap) -> None:
    from matplotlib.patheffects import withStroke  # noqa: PLC0415

    best = heat.top(1)
    if best and best[0].importance > 0:
        box = _extent(heat, (best[0].top, best[0].left, best[0].height, best[0].width))
        _frame(ax, box, "-" if best[0].exact else (0, (3, 2)))
    if heat.cells.listed is not None:
        _name_regions(ax, heat)
        return
    height, width = heat.placement.source_size
    margin = 0.03 * min(height, width)
    patch_height, patch_width = heat.cells.key.patch
    left, top, right, bottom = _extent(heat, (0, 0, patch_height, patch_width))
    box_height, box_width = bottom - top, right - left
    low = height - margin
    _frame(ax, (margin, low - box_height, margin + box_width, low), ":")
    label = ax.text(margin * 1.6 + box_width, low, "window", fontsize=7, color="white", va="bottom")
    label.set_path_effects([withStroke(linewidth=1.2, foreground="black")])


def _name_regions(ax: Axes, heat: Heatmap) -> None:
    """Write the names of the most important windows that a query lists where these lie."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415

    for cell in heat.top():
        left, top, right, bottom = _extent(heat, (cell.top, cell.left, cell.height, cell.width))
        place = (left + right) / 2, (top + bottom) / 2
        label = ax.text(*place, shortened(cell.place_text, 20), fontsize=7, color="white", ha="center", va="center")
        label.set_path_effects([withStroke(linewidth=1.2, foreground="black")])
        plain_text(label)


def _frame(ax: Axes, box: tuple[float, float, float, float], style: Any) -> None:
    """A white frame on a black one: visible on every background."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    left, top, right, bottom = box
    for color, line_width, line_style in (("black", 2.6, "-"), ("white", 1.2, style)):
        ax.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=color,
                linewidth=line_width,
                linestyle=line_style,
                joinstyle="miter",
            )
        )


# ---- scale and key -----------------------------------------------------------------------------------------------


def color_bar(ax: Axes, mappable: Any, label: tuple[str, str, str]) -> None:
    """Draw the scale of the evidence's colors to the right of the axes; `label` is low end, what, high end."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    # An inset is placed by the axes themselves: it works in a caller's axes whatever their layout.
    bar_axes = ax.inset_axes((1.03, 0.0, 0.045, 1.0))
    _finish_bar(figure.colorbar(mappable, cax=bar_axes), label, _height_inches(ax))


def bar_beside(figure: Any, panels: Any, mappable: Any, label: tuple[str, str, str], inches: float) -> None:
    """Draw one scale to the right of several panels, `inches` high."""
    n_rows = len(panels)
    shrink = 0.95 if n_rows == 1 else max(0.3, 1.4 / n_rows)
    flat = [ax for row in panels for ax in row]
    bar = figure.colorbar(mappable, ax=flat, fraction=0.03, aspect=18, pad=0.015, shrink=shrink)
    _finish_bar(bar, label, inches)


def _finish_bar(bar: Any, label: tuple[str, str, str], inches: float) -> None:
    from matplotlib.patches import Rectangle  # noqa: PLC0415
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415

    # The colors are transparent: the left half shows them over black, the right half over white.
    for left, gray in ((0.0, "0.0"), (0.5, "1.0")):
        ground = Rectangle((left, 0), 0.5, 1, transform=bar.ax.transAxes, facecolor=gray, edgecolor="none", zorder=0)
        bar.ax.add_patch(ground)
    if bar.solids is not None:
        bar.solids.set_zorder(1)
    bar.set_label(_fitted(label, inches), fontsize=7.5)
    bar.ax.tick_params(labelsize=7)
    # Each label whole: a shared power of ten would stand in the way of the title.
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _height_inches(ax: Axes) -> float:
    """Return how high the picture in an axes will be, about: layout engines decide when the figure is drawn."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    left, right = ax.get_xlim()
    low, high = ax.get_ylim()
    return float(min(ax.bbox.height, ax.bbox.width * abs((high - low) / (right - left))) / figure.dpi)


def _width_inches(ax: Axes) -> float:
    """Return how wide an axes will be, about."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return float(ax.bbox.width / figure.dpi)


def _fitted(label: tuple[str, str, str], inches: float) -> str:
    """A label of three parts as one line, or, where it would be longer than the bar, with its ends in a second one."""
    low, middle, high = label
    line = "    ".join(part for part in label if part)
    if len(line) * _CHARACTER_INCHES <= inches or not (low or high):
        return line
    return f"{middle}\n{'        '.join(part for part in (low, high) if part)}"


def bar_label(heat: Heatmap, sign: Sign = "all") -> tuple[str, str, str]:
    """Return what stands beside a scale: its low end, what it measures, its high end."""
    low, high = ends_text(sign, heat.score_kind)
    return f"← {low}" if low else "", scale_text(heat.score_kind), f"{high} →" if high else ""


def key_of(heats: list[Heatmap], outline: bool) -> list[tuple[Any, str]]:
    """Return what the marks of drawn maps mean: (handle, words) of each that occurs."""
    from matplotlib.patches import Patch  # noqa: PLC0415

    entries: list[tuple[Any, str]] = []
    best = [cells[0] for heat in heats if (cells := heat.top(1)) and cells[0].importance > 0] if outline else []
    if any(cell.exact for cell in best):
        entries.append((Patch(facecolor="none", edgecolor="0.2", linewidth=1.2), "most important window"))
    if any(not cell.exact for cell in best):
        dashed = Patch(facecolor="none", edgecolor="0.2", linewidth=1.2, linestyle="--")
        entries.append((dashed, "most important window, estimated"))
    if any(uncovered(heat).any() for heat in heats):
        entries.append((Patch(facecolor="0.75", edgecolor="0.35", hatch="/////", linewidth=0), NOT_COMPUTED))
    if any(outside(heat.placement) for heat in heats):
        entries.append((Patch(facecolor="0.75", edgecolor="0.35", hatch="\\\\\\\\\\", linewidth=0), OUTSIDE))
    return entries


def add_key(place: Axes | Figure, entries: list[tuple[Any, str]]) -> None:
    """Write what marks mean below an axes, or at the foot of a figure."""
    if not entries:
        return
    handles, words = zip(*entries, strict=True)
    style: dict[str, Any] = {"fontsize": 7, "frameon": False, "handlelength": 1.4, "handletextpad": 0.5}
    style |= {"ncols": len(entries), "columnspacing": 1.2, "borderaxespad": 0.3}
    if hasattr(place, "bbox_inches"):
        place.legend(handles, words, loc="outside lower left", **style)
    else:
        place.legend(handles, words, loc="upper left", bbox_to_anchor=(-0.01, 0.0), **style)


def add_note(ax: Axes, note: str, n_characters: int, below_key: bool) -> None:
    """Write below the axes what to know before trusting the map."""
    plain_text(ax.set_xlabel(textwrap.fill(note, n_characters), fontsize=8, color="#a03000", loc="left"))
    ax.xaxis.labelpad = 20 if below_key else 4


# ---- words -------------------------------------------------------------------------------------------------------


def _titles(heat: Heatmap) -> tuple[str, list[str]]:
    details = [score_line(heat), window_line(heat), *quality_lines(heat)]
    return f"{shortened(Path(heat.image).name, 34)} · {shortened(heat.class_name, 24)}", details


def score_line(heat: Heatmap) -> str:
    """Return the clean score of a map, with the probability beside other scores, where there is one."""
    if heat.score_kind == "value":
        return f"value {heat.clean_score:.4g}"
    score = f"probability {_probability(heat)}"
    if heat.score_kind != "probability":
        score = f"{SCORES[heat.score_kind].name} {heat.clean_score:.4g} ({score})"
    return score


def window_line(heat: Heatmap) -> str:
    """Return size and stride of a map's windows."""
    return heat.windows_text


def quality_lines(heat: Heatmap) -> list[str]:
    """Return what is stated of a map that is not exact, in few words; nothing of others."""
    return [_quality_line(heat)] if heat.quality != "exact" else []


def _quality_line(heat: Heatmap) -> str:
    if not heat.approx:
        return heat.quality
    if heat.metric == "top_cells":
        return f"only the {heat.n_listed} most important windows sought"
    return f"{heat.metric} ≥ {heat.bound:.3g}" if heat.bound is not None else "approximate"


def _probability(heat: Heatmap) -> str:
    """Return the clean probability; close to 1 as its distance from 1, which rounding would hide."""
    short_of_one = math.exp(score_of("log_probability", heat.cells.clean_others, heat.cells.clean_logit).item())
    return f"{heat.clean_probability:.4g}" if short_of_one >= 1e-3 else f"1 − {short_of_one:.1g}"


def shortened(text: str, length: int) -> str:
    """Return a text without its middle where it is longer."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[-tail:]


def plain_text(text: Any) -> None:
    """Have a text drawn as it is."""
    # A file name may hold dollar signs, which matplotlib would read as mathematics.
    text.set_parse_math(False)


def add_titles(ax: Axes, headline: str, details: list[str]) -> None:
    """Write a main line above an axes, and details in small lines below it, as many as their width asks for."""
    lines = [""]
    n_characters = max(30, int(_width_inches(ax) / _DETAIL_INCHES))
    for detail in details:
        joined = f"{lines[-1]} · {detail}" if lines[-1] else detail
        lines[-1:] = [joined] if len(joined) <= n_characters or not lines[-1] else [lines[-1], detail]
    plain_text(ax.set_title("\n".join(lines), fontsize=8, loc="left", color="0.35"))
    # Both move together under every layout engine.
    plain_text(
        ax.annotate(
            headline,
            (0, 1),
            (0, 8 + 11 * len(lines)),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=11,
            fontweight="bold",
            annotation_clip=False,
        )
    )


def bare(ax: Axes) -> None:
    """Leave ticks and frame out."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
