"""Maps of signals: the curves of the channels, the importance as a band behind them and as a curve below.

Beside `overlay`, which draws maps of images and hands those of signals over. What knows pictures alone (reports, pages,
sheets, films) draws a map `as_picture`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.drawing.colors import Palette
from obeql.errors import ImageError
from obeql.executor.images.placement import Placement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from obeql.executor.images import SourceImage
    from obeql.results.heatmap import Heatmap

__all__ = ["as_picture", "draw_signal", "figure_size", "samples_of"]

#: Height of a signal's picture as a share of its width, where a map of it is drawn as that of an image.
_HEIGHT = 1 / 3
#: Channels that have an axis of their own; more would be too flat to read.
_MOST_CHANNELS = 16


def as_picture(heat: Heatmap) -> Heatmap:
    """Return a signal's map as one of a picture of its curves, whose windows reach from top to bottom."""
    if heat.n_axes > 1:
        return heat
    place = heat.placement
    length, wide = place.source_size[1], float(place.source_size[1])
    size = max(1, round(wide * _HEIGHT)), length

    def source() -> SourceImage:
        return heat.source()

    placement = Placement(size, (1, place.resized_size[1]), (0, place.crop[1]), place.model_size)
    return replace(heat, n_axes=2, placement=placement, picture=source)


def figure_size(heat: Heatmap) -> tuple[float, float]:
    """Return the inches of a figure with room for every channel."""
    return 9.0, 2.6 + 0.8 * min(_MOST_CHANNELS, max(1, len(heat.channels)))


def samples_of(heat: Heatmap) -> tuple[npt.NDArray[np.float32] | None, str]:
    """Return the signal (channels, length) of a map, or None and why there is none."""
    try:
        return heat.source().samples, ""
    except ImageError as error:
        return None, f"drawn without its signal: {error}"


def draw_signal(
    outer: Axes, heat: Heatmap, limit: float, chosen: Palette, smooth: bool, outline: bool
) -> tuple[Any, str]:
    """Draw the channels of a signal below each other and the importance under them, in the place of an axes.

    Returns the mappable of the band, and what is wrong with the signal, if anything.
    """
    samples, problem = samples_of(heat)
    n_rows = 1 if samples is None else min(len(samples), _MOST_CHANNELS)
    outer.set_axis_off()
    rows = [outer.inset_axes((0.0, y, 1.0, height)) for y, height in _rows(n_rows)]
    length = heat.placement.source_size[1]
    importance = heat.to_pixels("source")
    mappable = None
    for number, ax in enumerate(rows[:-1]):
        if heat.hides(number):
            mappable = _band(ax, importance, limit, chosen, smooth)
        if samples is not None:
            ax.plot(np.arange(length) + 0.5, samples[number], color="0.1", linewidth=0.9)
            ax.set_ylim(*_span(samples[number]))
        name = heat.channels[number] if number < len(heat.channels) else str(number)
        ax.set_ylabel(name if n_rows > 1 or name != "0" else "", rotation=0, ha="right", va="center")
        if outline and heat.hides(number):
            _frame(ax, heat)
    below = rows[-1]
    centre = np.arange(length) + 0.5
    below.axhline(0, color="0.7", linewidth=0.6)
    below.plot(centre, importance, color="0.1", linewidth=0.9)
    ends = chosen.colors(np.array([-1.0, 1.0]))[:, :3] if chosen.sign == "all" else [chosen.scale(3)[-1, :3]] * 2
    for sign, color in zip((-1, 1), ends, strict=True):
        part = np.nan_to_num(np.clip(importance * sign, 0, None)) * sign
        below.fill_between(centre, 0, part, color=color, linewidth=0)
    known = importance[np.isfinite(importance)]
    low, high = float(known.min(initial=0.0)), float(known.max(initial=0.0))
    below.set_ylim(low * 1.1 - (high == low), high * 1.1 + (high == low))
    below.set_ylabel("importance", rotation=0, ha="right", va="center", fontsize="small")
    for ax in rows:
        ax.set_xlim(0, length)
        ax.tick_params(labelsize="x-small")
        if ax is not below:
            ax.tick_params(labelbottom=False)
    below.set_xlabel("sample", fontsize="small")
    return mappable, problem


def _rows(n_channels: int) -> list[tuple[float, float]]:
    """Return (bottom, height) in 0..1 of the axes of channels, from the top, and of the importance, which is last."""
    gap, share = 0.03, 1 / (n_channels + 1)
    below = max(share, 0.18)
    height = (1 - below) / n_channels - gap
    tops = [(below + gap + (n_channels - 1 - i) * (height + gap), height) for i in range(n_channels)]
    return [*tops, (0.0, below)]


def _band(ax: Axes, importance: npt.NDArray[np.float32], limit: float, chosen: Palette, smooth: bool) -> Any:
    from matplotlib.colors import Normalize  # noqa: PLC0415

    from obeql.drawing.map_layers import color_map  # noqa: PLC0415

    values = np.abs(importance) if chosen.sign == "absolute" else importance
    low, high = chosen.span
    return ax.imshow(
        np.ma.masked_invalid(values[None]),
        cmap=color_map(chosen),
        norm=Normalize(low * limit, high * limit),
        extent=(0, len(importance), 0, 1),
        transform=ax.get_xaxis_transform(),
        aspect="auto",
        interpolation="bilinear" if smooth else "nearest",
    )


def _frame(ax: Axes, heat: Heatmap) -> None:
    """Mark the most important window by two lines, dashed where it is estimated."""
    for cell in heat.top(1):
        if cell.importance > 0:
            _, left, _, width = heat.placement.source_box(0, cell.left, 1, cell.width)
            for x in (left, left + width):
                ax.axvline(x, color="0.25", linewidth=0.8, linestyle="-" if cell.exact else "--")


def _span(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * 0.08 or 1.0
    return low - margin, high + margin
