"""Maps of volumes: slices of the scan with the map over them, through the most important window or one after another.

Beside `curves`, which draws those of signals; `overlay` hands them over. A slice is a map of a picture, so that what
draws maps of images draws it, too. What knows pictures alone draws a volume's map `as_picture`: its strongest slice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.drawing.colors import Palette
from obeql.drawing.legend import uncovered
from obeql.drawing.map_layers import bare, draw_hatches, draw_picture, draw_pixels, picture_of
from obeql.errors import ImageError
from obeql.executor.images.placement import Placement
from obeql.executor.images.volumes import gray_span, seen_slice
from obeql.planner.grid import WindowGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from obeql.executor.images import SourceImage
    from obeql.results.heatmap import Cell, Heatmap

__all__ = [
    "Slice",
    "as_picture",
    "aspect",
    "draw_montage",
    "draw_volume",
    "figure_size",
    "plane_so_far",
    "slice_through",
    "slices_across",
    "strongest",
]

#: Names of the axes of a picture cut across each axis of a volume: (down, to the right).
_SEEN = (("row", "column"), ("plane", "column"), ("plane", "row"))
_ACROSS = ("plane", "row", "column")


#: Slices of a montage, and its width over its height.
_MOST_PANELS, _ASPECT = 20, 1.25


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A slice of a volume across one axis: a map of a picture, and the importance of the model's pixels in it (H, W).

    `heat` has the windows of the grid's plane number `plane`; `at` is the slice's place on the source's axis `axis`.
    """

    heat: Heatmap
    pixels: npt.NDArray[np.float32]
    axis: int
    at: int
    plane: int

    @property
    def title(self) -> str:
        """Return where the slice lies: `plane 12 of 40`, counted from 0."""
        return f"{_ACROSS[self.axis]} {self.at}"


def strongest(heat: Heatmap) -> Cell:
    """Return the most important window, or the middle one where none has a value."""
    return (heat.top(1) or [heat.cell(*(n // 2 for n in heat.shape))])[0]


def as_picture(heat: Heatmap) -> Heatmap:
    """Return the map of the slice across the first axis that holds the most important window."""
    view = slice_through(heat, 0, strongest(heat))
    return replace(view.heat, image=f"{heat.image}, {view.title}")


def slice_through(heat: Heatmap, axis: int, cell: Cell) -> Slice:
    """Return the slice across an axis through the middle of a window."""
    at = (cell.starts[axis] + cell.extents[axis] // 2) * 1.0
    return _slice(heat, axis, cell.place[axis], min(int(at), heat.placement.model_size[axis] - 1))


def slices_across(heat: Heatmap, axis: int, most: int, through: Cell | None = None) -> list[Slice]:
    """Return slices across an axis, evenly spread over what windows cover, at most so many; one of them `through` the
    middle of a window, where one is given.
    """
    starts, lengths = heat.cells.starts[axis].astype(int), heat.cells.lengths[axis].astype(int)
    places = np.arange(starts.min(), (starts + lengths).max())
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int))]
    nearest = [int(np.argmin(np.abs(starts + (lengths - 1) / 2 - place))) for place in chosen]
    found = [_slice(heat, axis, plane, int(at)) for plane, at in zip(nearest, chosen, strict=True)]
    if through is not None:
        middle = slice_through(heat, axis, through)
        found[int(np.argmin([abs(view.at - middle.at) for view in found]))] = middle
    return found


def _slice(heat: Heatmap, axis: int, plane: int, at: int) -> Slice:
    """Return the slice at a place on an axis of the model's input, with the windows of a plane of the grid."""
    cells, place = heat.cells, heat.placement
    on_source = int((at + 0.5) * place.scale[axis] + place.offset[axis])
    on_source = min(max(on_source, 0), place.source_size[axis] - 1)
    key = replace(cells.key, patch=_without(cells.key.patch, axis))
    flat = replace(
        cells,
        key=key,
        starts=_without(cells.starts, axis),
        lengths=_without(cells.lengths, axis),
        logit=np.take(cells.logit, plane, axis),
        others=np.take(cells.others, plane, axis),
        top_class=np.take(cells.top_class, plane, axis),
        exact=None if cells.exact is None else np.take(cells.exact, plane, axis),
    )
    sizes = (place.source_size, place.resized_size, place.crop, place.model_size)
    seen = replace(
        heat,
        cells=flat,
        n_axes=2,
        stride=_without(heat.stride, axis),
        placement=Placement(*(_without(numbers, axis) for numbers in sizes)),
        picture=lambda: _source_slice(heat.source(), axis, on_source),
    )
    return Slice(seen, np.take(heat.to_pixels(), at, axis), axis, on_source, plane)


def _without(values: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return values[:axis] + values[axis + 1 :]


def _source_slice(source: SourceImage, axis: int, at: int) -> SourceImage:
    """Return a slice of a volume as an image, which has the identity of the volume that it is of."""
    if source.kind.n_axes != 3:
        raise ImageError(f"'{source.shown}' is no volume")
    pixels = seen_slice(source.samples, axis, at, gray_span(source.samples))
    return replace(source, pixels=pixels)


def figure_size(heat: Heatmap) -> tuple[float, float]:
    """Return the inches of a figure of three slices beside each other."""
    depth, height, width = heat.placement.source_size
    high = max(height, depth)
    return 11.0, min(8.0, max(3.0, 9.5 * high / (2 * width + height))) + 1.2


def draw_volume(
    outer: Axes, heat: Heatmap, limit: float, chosen: Palette, smooth: bool, outline: bool
) -> tuple[Any, str]:
    """Draw three slices across the axes of a volume, through the most important window, in the place of an axes.

    Thin lines show where the other two slices lie. Returns the mappable, and what is wrong with the scan, if anything.
    """
    cell = strongest(heat)
    views = [slice_through(heat, axis, cell) for axis in range(3)]
    outer.set_axis_off()
    mappable, problem = None, ""
    for number, (view, ax) in enumerate(zip(views, _side_by_side(outer, views), strict=True)):
        picture, problem = picture_of(view.heat)
        mappable = _draw(ax, view, picture, limit, chosen, smooth)
        across = _without((views[0].at, views[1].at, views[2].at), number)
        for line, at in zip((ax.axhline, ax.axvline), across, strict=True):
            line(at + 0.5, color="white", linewidth=0.7, alpha=0.8)
            line(at + 0.5, color="black", linewidth=0.7, alpha=0.8, linestyle=(0, (4, 4)))
        if outline:
            _frame(ax, view.heat, cell, number)
        down, right = _SEEN[number]
        ax.set_title(view.title, fontsize="small", pad=3)
        ax.set_ylabel(down, fontsize="x-small")
        ax.set_xlabel(right, fontsize="x-small")
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)
    return mappable, problem


def plane_so_far(
    importance: npt.NDArray[np.float32], exact: npt.NDArray[np.bool_] | None, grid: WindowGrid
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None, WindowGrid]:
    """Return the plane of a volume's map at work that holds its largest value so far, and its part of the grid.

    Maps of images and signals are returned as they are.
    """
    if importance.ndim < 3:
        return importance, exact, grid
    best = np.nanargmax(importance) if np.isfinite(importance).any() else importance.size // 2
    plane = int(np.unravel_index(int(best), importance.shape)[0])
    flat = WindowGrid(grid.axes[1:], grid.patch[1:], grid.stride[1:], grid.border, channels=grid.channels)
    return importance[plane], None if exact is None else exact[plane], flat


def draw_montage(outer: Axes, heat: Heatmap, limit: float, chosen: Palette, smooth: bool) -> tuple[Any, str]:
    """Draw slices across the first axis, evenly spread, in rows in the place of an axes; returns as `draw_volume`."""
    outer.set_axis_off()
    mappable, problem = None, ""
    views = slices_across(heat, 0, _MOST_PANELS)
    height, width = views[0].heat.placement.source_size
    n_columns = min(len(views), max(1, round((len(views) * height / width) ** 0.5 * _ASPECT)))
    n_rows = -(-len(views) // n_columns)
    for number, view in enumerate(views):
        row, column = divmod(number, n_columns)
        ax = outer.inset_axes((column / n_columns, 1 - (row + 1) / n_rows, 0.94 / n_columns, 0.86 / n_rows))
        picture, problem = picture_of(view.heat)
        mappable = _draw(ax, view, picture, limit, chosen, smooth)
        ax.set_title(view.title, fontsize="x-small", pad=2)
    return mappable, problem


def _draw(
    ax: Axes, view: Slice, picture: npt.NDArray[np.float32] | None, limit: float, chosen: Palette, smooth: bool
) -> Any:
    draw_picture(ax, view.heat, picture)
    mappable = draw_pixels(ax, view.heat, view.pixels, limit, chosen, smooth)
    draw_hatches(ax, view.heat, uncovered(view.heat) | np.isnan(view.pixels))
    bare(ax)
    ax.set_aspect(aspect(view))
    return mappable


def aspect(view: Slice) -> float:
    """Return how much taller than wide a voxel of a slice is, as the volume's file says; 1 where it does not."""
    try:
        spacing = view.heat.source().metadata.get("spacing")
    except ImageError:
        spacing = None
    if not spacing:
        return 1.0
    down, right = _without(tuple(spacing), view.axis)
    return float(down / right)


def _frame(ax: Axes, heat: Heatmap, cell: Cell, axis: int) -> None:
    """Frame the part of a window that a slice across an axis cuts, dashed where it is estimated."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    if not cell.importance > 0:
        return
    box = (*_without(cell.starts, axis), *_without(cell.extents, axis))
    top, left, height, width = heat.placement.source_box(*box)
    style = "-" if cell.exact else (0, (3, 2))
    for color, line in (("black", 2.4), ("white", 1.0)):
        ax.add_patch(Rectangle((left, top), width, height, fill=False, color=color, linewidth=line, linestyle=style))


def _side_by_side(outer: Axes, views: list[Slice]) -> list[Axes]:
    """Return an axes for each picture, beside each other, as wide as the pictures are."""
    gap = 0.06
    shapes = [view.heat.placement.source_size for view in views]
    tallest = max(height for height, _ in shapes)
    # All at one scale, unless a side is so short that nothing could be seen of it.
    widths = [max(width, tallest * 0.15) for _, width in shapes]
    share = (1 - gap * (len(views) - 1)) / sum(widths)
    found, x = [], 0.0
    for (height, _), width in zip(shapes, widths, strict=True):
        tall = max(height / tallest, 0.1)
        found.append(outer.inset_axes((x, (1 - tall) / 2, width * share, tall)))
        x += width * share + gap
    return found
