"""A run as one HTML file: every map over its image, with the numbers of the window under the pointer.

Comes last, as `render` does. The file holds everything it shows: it can be mailed, and opens without a network.
"""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.colours import evidence_colours, shared_limits
from obeql.errors import ImageError, QueryTypeError
from obeql.quality import estimated_note, quality_sentence

if TYPE_CHECKING:
    from obeql.heatmap import Heatmap
    from obeql.result import Result

__all__ = ["MAX_REPORT", "report_text"]

#: Most maps in one report; a browser carries more badly.
MAX_REPORT = 200

#: Longest side in pixels of the pictures in a report.
_LARGEST_PX = 640


def report_text(result: Result, plan: str | None = None) -> str:
    """Return the HTML of a run. Maps of one score share a scale. Raises QueryTypeError for none or too many maps."""
    if not result.maps:
        raise QueryTypeError("there is no heat map to report")
    if len(result.maps) > MAX_REPORT:
        raise QueryTypeError(f"a report holds at most {MAX_REPORT} maps, not {len(result.maps)}; slice the result")
    limits = shared_limits(result.maps)
    name = result.run_name if result.run_name is not None else f"run {result.run_id}"
    facts = (
        f"{len(result.maps)} heat map{'s' if len(result.maps) > 1 else ''} by occlusion · model {result.maps[0].model}"
    )
    if result.seconds is not None:
        facts += f" · {result.seconds:.3g} s"
    data = {
        "title": f"Where it looks: {name}",
        "facts": facts,
        "colours": _colours(),
        "maps": [_map(heat, limits[heat.score_kind]) for heat in result.maps],
        "failures": [(failure.shown, failure.error) for failure in result.failures],
        "plan": plan,
    }
    # In a script element nothing is special but its own end.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    template = (files("obeql") / "report.html").read_text(encoding="utf-8")
    return template.replace("/*DATA*/", text)


def _map(heat: Heatmap, limit: float) -> dict[str, Any]:
    detail = (
        f"{heat.model} · clean {heat.score_kind} {heat.clean_score:.4g} · window {heat.patch[0]}x{heat.patch[1]} px, "
        f"stride {heat.stride[0]}x{heat.stride[1]}, fill {heat.cells.key.fill}"
    )
    if heat.label is not None:
        detail += f" · label {heat.label}"
    place = heat.placement
    named = set(np.unique(heat.top_class).tolist()) | {heat.class_id}
    names = {str(i): heat.classes[i] for i in sorted(named) if 0 <= i < len(heat.classes)}
    return {
        "title": f"{Path(heat.image).name} · {heat.class_name}",
        "detail": detail,
        "quality": quality_sentence(heat.cells.quality, heat.cells.logit.size),
        "warning": heat.warning,
        "score_kind": heat.score_kind.replace("_", "-"),
        "clean_score": heat.clean_score,
        "limit": limit,
        "source_size": place.source_size,
        "model_size": place.model_size,
        "model_box": place.source_box(0, 0, *place.model_size),
        "tops": heat.tops.tolist(),
        "lefts": heat.lefts.tolist(),
        "heights": heat.heights.tolist(),
        "widths": heat.widths.tolist(),
        "importance": _numbers(heat.importance),
        "scores": _numbers(heat.scores),
        "top_class": heat.top_class.tolist(),
        "inexact": estimated_note(heat.cells.quality),
        "exact": None if heat.cells.exact is None else heat.cells.exact.astype(int).tolist(),
        "class_names": names,
        "best": [(cell.row, cell.col) for cell in heat.top()],
        "picture": _picture(heat),
        "overlay": _overlay(heat, limit),
    }


def _numbers(plane: npt.NDArray[np.float32]) -> list[list[float | None]]:
    """Rows of numbers as JSON has them: five digits, null where not computed."""
    return [[float(f"{value:.5g}") if np.isfinite(value) else None for value in row] for row in plane.tolist()]


def _picture(heat: Heatmap) -> str | None:
    from PIL import Image  # noqa: PLC0415

    try:
        pixels = heat.source().unit_pixels()
    except ImageError:
        return None
    image = Image.fromarray(np.uint8(np.rint(pixels * 255)))
    image.thumbnail((_LARGEST_PX, _LARGEST_PX))
    buffer = BytesIO()
    if max(image.size) <= 256:
        image.save(buffer, format="PNG")
        return _uri("png", buffer)
    image.save(buffer, format="JPEG", quality=90)
    return _uri("jpeg", buffer)


def _overlay(heat: Heatmap, limit: float) -> str:
    """The map in colours with opacity, one picture pixel for each of the model's input."""
    from PIL import Image  # noqa: PLC0415

    rgba = evidence_colours(heat.to_pixels() / limit)
    buffer = BytesIO()
    Image.fromarray(np.uint8(np.rint(rgba * 255)), "RGBA").save(buffer, format="PNG")
    return _uri("png", buffer)


def _uri(kind: str, buffer: BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _colours() -> list[str]:
    """The scale from against to for, over mid-grey, as CSS."""
    rgba = evidence_colours(np.linspace(-1, 1, 21), 1.0)
    over_grey = rgba[:, :3] * rgba[:, 3:] + 0.5 * (1 - rgba[:, 3:])
    return [f"rgb({red}, {green}, {blue})" for red, green, blue in np.rint(over_grey * 255).astype(int).tolist()]
