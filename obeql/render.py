"""Drawing: a heat map over its image, and sheets of many.

Comes last. Matplotlib is imported inside the functions and used through its Figure objects alone (no pyplot, no
global state), so that drawing works in threads and without a display.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.colours import evidence_colours, shared_limits, symmetric_limit
from obeql.errors import ImageError, QueryTypeError
from obeql.planner.scores import ScoreKind, score_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    from obeql.heatmap import Heatmap

__all__ = [
    "MAX_SHEET",
    "PICTURE_SUFFIXES",
    "bare",
    "colour_bar",
    "colour_map",
    "draw_picture",
    "draw_pixels",
    "headline",
    "overlay",
    "picture_bytes",
    "picture_of",
    "plain_text",
    "sheet",
]

#: Picture files that can be written.
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")

#: Most maps on one sheet; beyond it they are too small to read.
MAX_SHEET = 64

#: Width of a character on a colour bar.
_CHARACTER_INCHES = 0.057

#: What the colour bar calls a score, and its unit.
_SCALE: dict[ScoreKind, tuple[str, str]] = {
    "probability": ("probability", ""),
    "log_odds": ("log-odds", "nats"),
    "log_probability": ("log-probability", "nats"),
    "logit": ("logit", ""),
}


def colour_map(alpha: float = 0.7) -> LinearSegmentedColormap:
    """Diverging colours from blue (-1) over transparent (0) to red (+1); opacity grows with distance to `alpha`."""
    from matplotlib.colors import LinearSegmentedColormap  # noqa: PLC0415

    n = 257  # odd, so that zero has a colour of its own: none
    rgba = evidence_colours(np.linspace(-1, 1, n), alpha)
    return LinearSegmentedColormap.from_list("obeql_evidence", [tuple(row) for row in rgba], N=n)


def overlay(
    heat: Heatmap,
    ax: Axes | None = None,
    *,
    limit: float | None = None,
    alpha: float = 0.7,
    beside: bool = False,
    smooth: bool = True,
    outline: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw a map over its image and return the axes.

    Axes are pixels of the source image. Red is evidence for the class, blue against it; opacity grows with
    |importance|, so that the image shows through. The scale is symmetric around zero and ends at `limit` (default:
    the map's largest |per-pixel importance|; give one number to compare maps). `beside` adds the bare image to the
    left (new figures only), `smooth` interpolates between pixels of the model's input, `outline` frames the most
    important window and draws one window to scale in the lower left corner.

    Without `ax` a new Figure is made, at `.figure` of the result. Raises QueryTypeError for a bad `limit` or `alpha`.
    """
    if limit is not None and not (math.isfinite(limit) and limit > 0):
        raise QueryTypeError(f"limit must be a positive number, not {limit}")
    if not 0 < alpha <= 1:
        raise QueryTypeError(f"alpha must lie in 0..1, not {alpha}")
    picture, problem = picture_of(heat)
    if ax is None:
        from matplotlib.figure import Figure  # noqa: PLC0415

        height, width = heat.placement.source_size
        aspect = min(3.0, max(1 / 3, width / height))
        n_panels = 2 if beside else 1
        figure = Figure(figsize=(5.0 * n_panels * min(aspect, 1.6) + 1.2, 5.0 * min(aspect, 1.6) / aspect + 1.0))
        figure.set_layout_engine("constrained")
        if beside:
            left, ax = figure.subplots(1, 2)
            draw_picture(left, heat, picture)
            bare(left)
        else:
            ax = figure.subplots()
    draw_picture(ax, heat, picture)
    mappable = draw_pixels(ax, heat, heat.to_pixels(), limit, alpha, smooth)
    bare(ax)
    if outline:
        _draw_outlines(ax, heat)
    colour_bar(ax, mappable, _bar_label(heat))
    main, detail = _titles(heat)
    plain_text(ax.set_title(detail, fontsize=8, loc="left", color="0.35"))
    headline(ax, main if title is None else title)
    note = "; ".join(text for text in (problem, heat.warning) if text)
    if note:
        n_characters = max(30, int(ax.bbox.width / ax.figure.dpi * 15))
        plain_text(ax.set_xlabel(textwrap.fill(note, n_characters), fontsize=8, color="#a03000", loc="left"))
    return ax


def sheet(heats: Sequence[Heatmap], *, columns: int | None = None, shared: bool = True, **options: Any) -> Figure:
    """Draw many maps on one figure, in rows of `columns` (default: close to a square).

    `shared` gives all maps of one score the same scale (their largest limit), so that they compare; without it each
    map has its own. Other options go to `overlay`. Raises QueryTypeError for no map or more than MAX_SHEET.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    if not heats:
        raise QueryTypeError("there is no heat map to draw")
    if len(heats) > MAX_SHEET:
        raise QueryTypeError(f"a sheet holds at most {MAX_SHEET} maps, not {len(heats)}; slice the result, [:64]")
    n_columns = columns or math.ceil(math.sqrt(len(heats)))
    if n_columns < 1:
        raise QueryTypeError(f"columns must be positive, not {columns}")
    n_columns = min(n_columns, len(heats))
    n_rows = math.ceil(len(heats) / n_columns)
    limit = options.pop("limit", None)
    limits = dict.fromkeys((heat.score_kind for heat in heats), limit)
    if shared and limit is None:
        limits = shared_limits(heats)
    tallest = min(2.0, max(0.4, *(heat.placement.source_size[0] / heat.placement.source_size[1] for heat in heats)))
    figure = Figure(figsize=(4.6 * n_columns, (3.5 * tallest + 0.85) * n_rows))  # of 4.6 inches, the image has 3.5
    figure.set_layout_engine("constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel, heat in zip(panels, heats, strict=False):
        overlay(heat, panel, limit=limits[heat.score_kind], **options)
    for panel in panels[len(heats) :]:
        panel.set_axis_off()
    return figure


def picture_bytes(figure: Any, suffix: str, dpi: float) -> bytes:
    """Render a figure as a file's content, without metadata of program, time or machine."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

    metadata: dict[str, Any] = {
        ".png": {"Software": None},
        ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        ".svg": {"Creator": None, "Date": None},
    }.get(suffix, {})
    buffer = BytesIO()
    FigureCanvasAgg(figure)
    extra = {"metadata": metadata} if metadata else {}
    figure.savefig(buffer, format=suffix[1:], dpi=dpi, facecolor="white", **extra)
    return buffer.getvalue()


def picture_of(heat: Heatmap) -> tuple[npt.NDArray[np.float32] | None, str]:
    """RGB pixels of the source, or None and why there are none; a stored map can outlive its file."""
    try:
        return heat.source().unit_pixels(), ""
    except ImageError as error:
        return None, f"drawn without its image: {error}"


def draw_picture(ax: Axes, heat: Heatmap, picture: npt.NDArray[np.float32] | None) -> None:
    """Draw the source image in its own pixels, or a grey ground where there is none, and fix the axes to it."""
    height, width = heat.placement.source_size
    if picture is None:
        ax.set_facecolor("0.85")
    else:
        # RGB values are drawn as they are: no colour map and no stretching, so grey stays grey.
        ax.imshow(picture, extent=(0, width, height, 0), interpolation="antialiased")
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_aspect("equal")


def draw_pixels(
    ax: Axes, heat: Heatmap, pixels: npt.NDArray[np.float32], limit: float | None, alpha: float, smooth: bool
) -> Any:
    """Draw values of the model's pixels (H, W) where they lie in the source image of `heat`; returns the mappable."""
    from matplotlib.colors import Normalize  # noqa: PLC0415

    limit = symmetric_limit(pixels) if limit is None else limit
    if smooth:
        pixels = _between_steps(pixels, heat)
    left, top, right, bottom = _extent(heat, (0, 0, *heat.placement.model_size))
    mappable = ax.imshow(
        np.ma.masked_invalid(pixels),
        cmap=colour_map(alpha),
        norm=Normalize(-limit, limit),
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


def _extent(heat: Heatmap, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in source pixels of a box (top, left, height, width) of the model's input."""
    top, left, height, width = heat.placement.source_box(*box)
    return left, top, left + width, top + height


def _draw_outlines(ax: Axes, heat: Heatmap) -> None:
    from matplotlib.patheffects import withStroke  # noqa: PLC0415

    best = heat.top(1)
    if best and best[0].importance > 0:
        _frame(ax, _extent(heat, (best[0].top, best[0].left, best[0].height, best[0].width)), "-")
    height, width = heat.placement.source_size
    margin = 0.03 * min(height, width)
    left, top, right, bottom = _extent(heat, (0, 0, *heat.patch))
    box_height, box_width = bottom - top, right - left
    low = height - margin
    _frame(ax, (margin, low - box_height, margin + box_width, low), ":")
    label = ax.text(margin * 1.6 + box_width, low, "window", fontsize=7, color="white", va="bottom")
    label.set_path_effects([withStroke(linewidth=1.2, foreground="black")])


def _frame(ax: Axes, box: tuple[float, float, float, float], style: str) -> None:
    """A white frame on a black one: visible on every background."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    left, top, right, bottom = box
    for colour, line_width, line_style in (("black", 2.6, "-"), ("white", 1.2, style)):
        ax.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=colour,
                linewidth=line_width,
                linestyle=line_style,
                joinstyle="miter",
            )
        )


def colour_bar(ax: Axes, mappable: Any, label: str) -> None:
    """Draw the scale of the evidence's colours to the right of the axes; `label` is low end, what, high end."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415

    figure = ax.get_figure(root=True)
    assert figure is not None
    # An inset is placed by the axes themselves: it works in a caller's axes whatever their layout.
    bar_axes = ax.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = figure.colorbar(mappable, cax=bar_axes)
    # The colours are transparent: the left half shows them over black, the right half over white.
    for left, grey in ((0.0, "0.0"), (0.5, "1.0")):
        ground = Rectangle((left, 0), 0.5, 1, transform=bar_axes.transAxes, facecolor=grey, edgecolor="none", zorder=0)
        bar_axes.add_patch(ground)
    if bar.solids is not None:
        bar.solids.set_zorder(1)
    bar.set_label(_fitted(label, _height_inches(ax)), fontsize=7.5)
    bar_axes.tick_params(labelsize=7)
    # Each label whole: a shared power of ten would stand in the way of the title.
    bar_axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _height_inches(ax: Axes) -> float:
    """How high the picture in an axes will be, about: layout engines decide when the figure is drawn."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    left, right = ax.get_xlim()
    low, high = ax.get_ylim()
    return float(min(ax.bbox.height, ax.bbox.width * abs((high - low) / (right - left))) / figure.dpi)


def _fitted(label: str, inches: float) -> str:
    """A label of three parts as one line, or, where it would be longer than the bar, with its ends in a second one."""
    if len(label) * _CHARACTER_INCHES <= inches:
        return label
    low, middle, high = (part.strip() for part in label.split("    "))
    return f"{middle}\n{low}        {high}"


def _bar_label(heat: Heatmap) -> str:
    name, unit = _SCALE[heat.score_kind]
    unit = f" ({unit})" if unit else ""
    return f"← against    drop in {name} when hidden{unit}    for →"


def _titles(heat: Heatmap) -> tuple[str, str]:
    name = _shorten(Path(heat.image).name, 34)
    score = f"probability {_probability(heat)}"
    if heat.score_kind != "probability":
        score = f"{_SCALE[heat.score_kind][0]} {heat.clean_score:.4g} ({score})"
    window = "x".join(map(str, heat.patch)) if heat.patch[0] != heat.patch[1] else f"{heat.patch[0]}x{heat.patch[0]}"
    stride = "x".join(map(str, heat.stride)) if heat.stride[0] != heat.stride[1] else str(heat.stride[0])
    detail = f"{score} · window {window} px, stride {stride}"
    if heat.approx and heat.bound is not None:
        detail += f" · {heat.metric} ≥ {heat.bound:.3g}"
    return f"{name} · {_shorten(heat.class_name, 24)}", detail


def _probability(heat: Heatmap) -> str:
    """The clean probability; close to 1 as its distance from 1, which rounding would hide."""
    short_of_one = math.exp(score_of("log_probability", heat.cells.clean_others, heat.cells.clean_logit).item())
    return f"{heat.clean_probability:.4g}" if short_of_one >= 1e-3 else f"1 − {short_of_one:.1g}"


def _shorten(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[-tail:]


def plain_text(text: Any) -> None:
    """Have a text drawn as it is."""
    # A file name may hold dollar signs, which matplotlib would read as mathematics.
    text.set_parse_math(False)


def headline(ax: Axes, text: str) -> None:
    """Write the main line above an axes' title line; both move together under every layout engine."""
    plain_text(
        ax.annotate(
            text,
            (0, 1),
            (0, 19),
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
