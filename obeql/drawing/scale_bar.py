"""The scale of colors beside a drawn map, and the key that says what hatches and frames mean.

Before: `map_layers` has drawn a map. After: `overlay`, `compare` and `sheet` place scale and key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from obeql.drawing.legend import NOT_COMPUTED, OUTSIDE, ends_text, outside, scale_text, uncovered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from obeql.drawing.colors import Sign
    from obeql.results.heatmap import Heatmap

__all__ = ["add_key", "bar_beside", "bar_label", "color_bar", "fitted", "key_of"]

#: Width of a character on a color bar.
_CHARACTER_INCHES = 0.057


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
    bar.set_label(fitted(label, inches), fontsize=7.5)
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


def fitted(label: tuple[str, str, str], inches: float) -> str:
    """Return a label of three parts as one line; where that is longer than the bar, with its ends in a second one."""
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
