"""Pictures and files of maps, imported when the first is asked for: matplotlib takes longer than most statements.

Results stand below `drawing` and `export`, which read them; here alone they reach up.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from obeql.results.heatmap import Heatmap
    from obeql.results.result import Result

__all__ = [
    "draw_map",
    "draw_maps",
    "draw_two",
    "export_maps",
    "film_bytes",
    "map_png",
    "maps_png",
    "report_text",
    "report_widget",
    "save_map",
    "save_maps",
]


def draw_map(heat: Heatmap, ax: Axes | None, **options: Any) -> Axes:
    """Draw one map over its image, as `Heatmap.plot` says."""
    from obeql.drawing.figures import show_later
    from obeql.drawing.overlay import overlay

    axes = overlay(heat, ax, **options)
    if ax is None:
        show_later(axes.get_figure(root=True))
    return axes


def draw_two(first: Heatmap, second: Heatmap, **options: Any) -> Figure:
    """Draw two maps on one scale, with their difference, as `Heatmap.compare` says."""
    from obeql.drawing.compare import side_by_side
    from obeql.drawing.figures import show_later

    figure = side_by_side(first, second, **options)
    show_later(figure)
    return figure


def draw_maps(maps: Sequence[Heatmap], **options: Any) -> Figure:
    """Draw many maps on one figure, as `Result.plot` says."""
    from obeql.drawing.figures import show_later
    from obeql.drawing.sheet import sheet

    figure = sheet(maps, **options)
    show_later(figure)
    return figure


def map_png(heat: Heatmap, dpi: int) -> bytes:
    """Return the picture of one map."""
    from obeql.drawing.overlay import overlay, picture_bytes

    return picture_bytes(overlay(heat).get_figure(root=True), ".png", dpi)


def maps_png(maps: Sequence[Heatmap], dpi: int) -> bytes:
    """Return one picture of many maps."""
    from obeql.drawing.overlay import picture_bytes
    from obeql.drawing.sheet import sheet

    return picture_bytes(sheet(maps), ".png", dpi)


def film_bytes(heat: Heatmap, suffix: str, **options: Any) -> bytes:
    """Return a film of the sliding window, as `Heatmap.animate` says."""
    from obeql.drawing.animation import film_bytes

    return film_bytes(heat, suffix, **options)


def report_text(result: Result, *, alpha: float | None, cmap: Any, sign: Any, **options: Any) -> str:
    """Return the HTML of a report, as `Result.report` says."""
    from obeql.drawing.colors import palette
    from obeql.export.report.report import report_text

    plan = None if result.plan is None else str(result.plan)
    return report_text(result, plan, chosen=palette(alpha, cmap, sign), **options)


def report_widget(result: Result, *, alpha: float | None, cmap: Any, sign: Any, **options: Any) -> Any:
    """Return a widget for notebooks, as `Result.widget` says."""
    from obeql.drawing.colors import palette
    from obeql.export.report.report import report_data
    from obeql.export.report.widget import report_widget

    return report_widget(report_data(result, chosen=palette(alpha, cmap, sign), **options))


def save_map(heat: Heatmap, path: str | Path, options: dict[str, Any]) -> None:
    """Write one map into a file, as `Heatmap.save` says."""
    from obeql.export.registry import save_map

    save_map(heat, path, options)


def save_maps(result: Result, path: str | Path, options: dict[str, Any]) -> list[Path]:
    """Write all maps into one file, or into numbered ones, as `Result.save` says."""
    from obeql.export.registry import save_result

    return save_result(result, path, options)


def export_maps(result: Result, folder: str | Path, format: str | None) -> list[Path]:
    """Write all maps into a folder, as `Result.export` says."""
    from obeql.export.runs import export_run

    return export_run(result, folder, format)
