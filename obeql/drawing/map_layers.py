"""The layers of a drawn map, each on the axes of a picture: the image, the map's colors, hatches, frames.

Before: a heat map, whose numbers these draw. After: `overlay`, `compare`, `sheet` and `curves` put them together.
Matplotlib is imported inside the functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.drawing.captions import plain_text, shortened
from obeql.drawing.colors import Palette, hatching, symmetric_limit
from obeql.drawing.legend import outside
from obeql.errors import ImageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap

    from obeql.results.heatmap import Heatmap

__all__ = ["bare", "color_map", "draw_hatches", "draw_outlines", "draw_picture", "draw_pixels", "picture_of"]

#: Pixels that the longer side of a hatch has at least, and lines along it.
_HATCH_PX, _HATCH_LINES = 640, 34


def color_map(chosen: Palette) -> ListedColormap:
    """Return the colors of a palette from the low to the high end of its scale, transparent at zero, for matplotlib."""
    from matplotlib.colors import ListedColormap  # noqa: PLC0415

    # An odd number, so that zero has a color of its own: none.
    return ListedColormap(chosen.scale(257), name="obeql_evidence")


def picture_of(heat: Heatmap) -> tuple[npt.NDArray[np.float32] | None, str]:
    """Return RGB pixels of the source, or None and why there are none; a stored map can outlive its file."""
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
    height, width = heat.placement.model_size
    left, top, right, bottom = _extent(heat, (0, 0, height, width))
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
    """Return (left, top, right, bottom) in source pixels of a box (top, left, height, width) of the model's input."""
    top, left, height, width = heat.placement.source_box(*box)
    return left, top, left + width, top + height


def draw_outlines(ax: Axes, heat: Heatmap) -> None:
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
    """Draw a white frame on a black one: visible on every background."""
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


def bare(ax: Axes) -> None:
    """Leave ticks and frame out."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
