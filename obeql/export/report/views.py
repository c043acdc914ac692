"""The pictures of a map in a report: one of an image or a signal, of a volume slices across each of its axes.

`report` puts them beside the numbers of the map; the page shows one slice of each axis at a time, with a slider. So
that a file can be mailed, slices of large volumes are left out and made smaller, and the page says how many there are.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.drawing.as_picture import as_picture
from obeql.drawing.colors import Palette, hatching
from obeql.drawing.legend import uncovered
from obeql.drawing.slices import aspect, slice_through, slices_across, strongest
from obeql.errors import ImageError

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap

__all__ = ["png", "slices_of_each", "uri", "views_of"]

#: Slices of all volumes of a report together, and across one axis of one, at most.
_MOST_SLICES, _MOST_ACROSS = 360, 40
#: Longest side in pixels of the picture of an image, and of a slice.
_LARGEST_PX, _LARGEST_SLICE_PX = 640, 320


def slices_of_each(n_volumes: int) -> int:
    """Return how many slices across one axis a report shows of each of so many volumes, at most."""
    return max(1, min(_MOST_ACROSS, _MOST_SLICES // (3 * max(1, n_volumes))))


def views_of(heat: Heatmap, most: int, limit: float, chosen: Palette) -> list[dict[str, Any]]:
    """Return the views of a map as the page reads them: of a volume one an axis, each of `most` slices at most."""
    if heat.n_axes < 3:
        picture = as_picture(heat)
        return [
            {
                **_place(picture),
                "axis": None,
                "begin": 0,
                "slices": [_slice(picture, picture.to_pixels(), limit, chosen)],
            }
        ]
    heat = _with_source(heat)
    return [_across(heat, axis, most, limit, chosen) for axis in range(heat.n_axes)]


def _with_source(heat: Heatmap) -> Heatmap:
    """Return the map with its volume at hand, which every slice would read again."""
    try:
        source = heat.source()
    except ImageError:
        return heat
    return replace(heat, picture=lambda: source)


def _across(heat: Heatmap, axis: int, most: int, limit: float, chosen: Palette) -> dict[str, Any]:
    """Return the view of a volume across an axis; the page begins at the slice through the most important window."""
    cell = strongest(heat)
    views = slices_across(heat, axis, most, cell)
    first = views[0]
    return {
        **_place(first.heat),
        "axis": axis,
        "name": heat.kind.grid[axis],
        "n_there": heat.placement.source_size[axis],
        "aspect": aspect(first),
        "begin": [view.at for view in views].index(slice_through(heat, axis, cell).at),
        "slices": [
            {"at": view.at, "plane": view.plane, **_slice(view.heat, view.pixels, limit, chosen, _LARGEST_SLICE_PX)}
            for view in views
        ],
    }


def _place(heat: Heatmap) -> dict[str, Any]:
    """Return where the model's input lies in the picture."""
    place = heat.placement
    return {
        "source_size": place.source_size,
        "model_size": place.model_size,
        "model_box": place.source_box(0, 0, *place.model_size),
    }


def _slice(
    heat: Heatmap, pixels: npt.NDArray[np.float32], limit: float, chosen: Palette, largest_px: int = _LARGEST_PX
) -> dict[str, Any]:
    """Return a picture, the map over it in colors and what no window covers, as pictures of the page."""
    return {
        "picture": _picture(heat, largest_px),
        "overlay": _overlay(pixels, limit, chosen, None if largest_px == _LARGEST_PX else largest_px),
        "hatches": _hatches(heat),
    }


def _picture(heat: Heatmap, largest_px: int) -> str | None:
    from PIL import Image  # noqa: PLC0415

    try:
        pixels = heat.source().unit_pixels()
    except ImageError:
        return None
    image = Image.fromarray(np.uint8(np.rint(pixels * 255)))
    image.thumbnail((largest_px, largest_px))
    buffer = BytesIO()
    if max(image.size) <= 256 and largest_px == _LARGEST_PX:
        image.save(buffer, format="PNG")
        return uri("png", buffer)
    image.save(buffer, format="JPEG", quality=90)
    return uri("jpeg", buffer)


def _overlay(pixels: npt.NDArray[np.float32], limit: float, chosen: Palette, largest_px: int | None) -> str:
    """Return the map in colors, one picture pixel for each of the model's input.

    It is opaque at the ends; the page adds opacity.
    """
    step = 1 if largest_px is None else -(-max(pixels.shape) // largest_px)
    rgba = replace(chosen, alpha=1.0).colors(pixels[::step, ::step] / limit)
    return uri("png", png(np.asarray(np.rint(rgba * 255), np.uint8)))


def _hatches(heat: Heatmap) -> str | None:
    """Return what no window covers, hatched, at about twice the model's size; None where all is covered."""
    unknown = uncovered(heat)
    if not unknown.any():
        return None
    zoom = max(1, round(480 / max(unknown.shape)))
    return uri("png", png(hatching(np.kron(unknown, np.ones((zoom, zoom), bool)), 12)))


def png(pixels: npt.NDArray[np.uint8]) -> BytesIO:
    """Return pixels as a PNG file."""
    from PIL import Image  # noqa: PLC0415

    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer


def uri(kind: str, buffer: BytesIO) -> str:
    """Return a picture as the address of itself."""
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
