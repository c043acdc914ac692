"""Maps as bytes for a browser: a JSON head, then the planes as they lie in memory.

Made from a stored `Heatmap`, or by `live` from a map at work; the page's `frames.js` reads them. A frame is the length
of its head as uint32, the head in UTF-8, blanks up to a multiple of four bytes, and the planes that the head lists,
each padded likewise: float32 and int32 in little-endian order, flags as bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.drawing.as_picture import as_picture
from obeql.drawing.colors import limit_of
from obeql.results.quality_text import quality_sentence

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap

__all__ = ["MEDIA", "about_map", "frame", "map_frame", "pixel_axes"]

#: What a frame is called in a response.
MEDIA = "application/x-obeql-map"
_KINDS = {"f": ("float32", "<f4"), "i": ("int32", "<i4"), "u": ("uint8", "u1"), "b": ("uint8", "u1")}


def frame(about: Mapping[str, Any], planes: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the frame of planes, all (rows, cols); NaN stands for what was not computed."""
    bodies, listed = [], []
    for name, plane in planes.items():
        kind, layout = _KINDS[plane.dtype.kind]
        body = np.ascontiguousarray(plane).astype(layout).tobytes()
        bodies.append(body + b"\0" * (-len(body) % 4))
        listed.append({"name": name, "kind": kind, "shape": plane.shape})
    head = json.dumps({**about, "planes": listed}, allow_nan=False).encode()
    head += b" " * (-len(head) % 4)
    return b"".join([struct.pack("<I", len(head)), head, *bodies])


def map_frame(heat: Heatmap) -> bytes:
    """Return the frame of a stored map: importance, score and top class of each window, and which are exact.

    Windows that a query lists lie on no grid: of these, each pixel is a cell with the mean of the windows that hide it.
    """
    heat = as_picture(heat)
    if heat.cells.listed is not None:
        pixels = heat.to_pixels()
        none = np.full(pixels.shape, -1, np.int32)
        scores = np.float32(heat.clean_score) - pixels
        return frame(about_map(heat), {"importance": pixels, "scores": scores, "top_class": none})
    planes: dict[str, npt.NDArray[Any]] = {
        "importance": heat.importance,
        "scores": heat.scores,
        "top_class": heat.top_class,
    }
    if heat.cells.exact is not None:
        planes["exact"] = heat.cells.exact
    return frame(about_map(heat), planes)


def about_map(heat: Heatmap) -> dict[str, Any]:
    """Return what is to know of a map beside its planes, as JSON has it."""
    place = heat.placement
    best = [(cell.row, cell.col) for cell in heat.top()]
    axes = {name: getattr(heat, name).tolist() for name in ("tops", "lefts", "heights", "widths")}
    if heat.cells.listed is not None:
        best = [(cell.top + cell.height // 2, cell.left + cell.width // 2) for cell in heat.top()]
        axes = pixel_axes(place.model_size)
    named = sorted({int(i) for i in np.unique(heat.top_class)} | {heat.class_id})
    clean = heat.cells.clean_top_class
    return {
        "live": False,
        "run_id": heat.run_id,
        "image": heat.image,
        "image_id": heat.image_id,
        "label": heat.label,
        "model": heat.model,
        "class_id": heat.class_id,
        "class_name": heat.class_name,
        "class_names": {str(i): heat.classes[i] for i in [*named, clean] if 0 <= i < len(heat.classes)},
        "clean_top_class": clean,
        "score_kind": heat.score_kind,
        "clean_score": _number(heat.clean_score),
        "patch": heat.patch,
        "stride": heat.stride,
        "fill": heat.cells.key.fill,
        "channel": heat.channel,
        "model_size": place.model_size,
        "source_size": place.source_size,
        "model_box": place.source_box(0, 0, *place.model_size),
        **axes,
        "shape": (len(axes["tops"]), len(axes["lefts"])),
        "limit": _number(limit_of(heat)),
        "quality": heat.quality,
        "quality_sentence": quality_sentence(heat.cells.quality, heat.cells.logit.size, heat.n_known),
        "bound": heat.bound if heat.approx else None,
        "confidence": heat.confidence,
        "metric": heat.metric,
        "approx": heat.approx,
        "warning": heat.warning,
        "best": best,
    }


def pixel_axes(size: tuple[int, ...]) -> dict[str, list[int]]:
    """Return the axes of a grid whose windows are the pixels of an input of (height, width)."""
    height, width = size
    tops, lefts = list(range(height)), list(range(width))
    return {"tops": tops, "lefts": lefts, "heights": [1] * height, "widths": [1] * width}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
