"""A run as one HTML file: every map over its image, with the numbers of the window under the pointer.

Comes last, as `overlay` does. The file holds everything it shows: it can be mailed, and opens without a network.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from obeql.drawing.as_picture import as_picture
from obeql.drawing.colors import Palette, checked_limit, hatching, limit_of, shared_limits
from obeql.drawing.legend import NOT_COMPUTED, OUTSIDE, ends_text, outside, scale_text
from obeql.errors import QueryTypeError
from obeql.export.report.views import png, slices_of_each, uri, views_of
from obeql.results.quality_text import estimated_note, quality_sentence

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap
    from obeql.results.result import Result

__all__ = ["MAX_REPORT", "report_data", "report_text"]

#: Most maps in one report; a browser carries more badly.
MAX_REPORT = 200


def report_text(
    result: Result,
    plan: str | None = None,
    *,
    limit: float | None = None,
    chosen: Palette | None = None,
    shared: bool = True,
) -> str:
    """Return the HTML of a run, with the options of `report_data`. Raises QueryTypeError for none or too many maps."""
    data = report_data(result, plan, limit=limit, chosen=chosen, shared=shared)
    # In a script element nothing is special but its own end.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    folder = files("obeql.export.report")
    page, viewer, style = (
        (folder / name).read_text(encoding="utf-8") for name in ("report.html", "viewer.js", "viewer.css")
    )
    return page.replace("/*CSS*/", style).replace("/*VIEWER*/", viewer).replace("/*DATA*/", text)


def report_data(
    result: Result,
    plan: str | None = None,
    *,
    limit: float | None = None,
    chosen: Palette | None = None,
    shared: bool = True,
) -> dict[str, Any]:
    """Return what `viewer.js` shows of a run, as plain values for JSON.

    Maps of one score share a scale, unless `shared` is False or a `limit` is given. Raises QueryTypeError for none or
    too many maps.
    """
    chosen = Palette() if chosen is None else chosen
    if not result.maps:
        raise QueryTypeError("there is no heat map to report")
    if len(result.maps) > MAX_REPORT:
        raise QueryTypeError(
            f"a report holds at most {MAX_REPORT} maps, not {len(result.maps)}: choose some (RENDER .. WITH "
            "class='name', or a slice of the result in Python)"
        )
    checked_limit(limit)
    limits = shared_limits(result.maps, chosen.sign) if shared and limit is None else {}
    name = result.run_name if result.run_name is not None else f"run {result.run_id}"
    if result.run_name is None and result.run_id is None:
        name = Path(result.maps[0].image).name
    facts = (
        f"{len(result.maps)} heat map{'s' if len(result.maps) > 1 else ''} by occlusion · model {result.maps[0].model}"
    )
    if result.seconds is not None:
        facts += f" · {result.seconds:.3g} s"
    most_slices = slices_of_each(sum(heat.n_axes > 2 for heat in result.maps))
    return {
        "title": f"Where it looks: {name}",
        "facts": facts,
        "scale": _scale(chosen),
        "span": chosen.span,
        "alpha": chosen.alpha,
        "hatch": uri("png", png(hatching(np.ones((12, 12), bool), 12))),
        "hatch_outside": uri("png", png(hatching(np.ones((12, 12), bool), 12, falling=True))),
        "not_computed": NOT_COMPUTED,
        "outside": OUTSIDE,
        "maps": [
            _map(heat, limit or limits.get(heat.score_kind) or limit_of(heat, chosen.sign), chosen, most_slices)
            for heat in result.maps
        ],
        "failures": [(failure.shown, failure.error) for failure in result.failures],
        "plan": plan,
    }


def _map(heat: Heatmap, limit: float, chosen: Palette, most_slices: int) -> dict[str, Any]:
    detail = (
        f"{heat.model} · clean {heat.score_kind} {heat.clean_score:.4g} · {heat.windows_text}, "
        f"fill {heat.cells.key.fill}"
    )
    if heat.label is not None:
        detail += f" · label {heat.label}"
    heat = heat if heat.n_axes > 2 else as_picture(heat)
    named = set(np.unique(heat.top_class).tolist()) | {heat.class_id}
    names = {str(i): heat.classes[i] for i in sorted(named) if 0 <= i < len(heat.classes)}
    return {
        "title": f"{Path(heat.image).name} · {heat.class_name}",
        "detail": detail,
        "quality": quality_sentence(heat.cells.quality, heat.cells.logit.size, heat.n_known),
        "warning": heat.warning,
        "score_kind": heat.score_kind.replace("_", "-"),
        "clean_score": heat.clean_score,
        "limit": limit,
        "box_names": heat.kind.box_names,
        "unit": heat.kind.short_unit,
        "starts": [along.tolist() for along in heat.cells.starts],
        "lengths": [along.tolist() for along in heat.cells.lengths],
        "regions": [cell.name for cell in heat.regions] or None,
        "masks": [None if cell.mask is None else cell.mask.astype(int).tolist() for cell in heat.regions],
        "importance": _numbers(heat.importance.tolist()),
        "scores": _numbers(heat.scores.tolist()),
        "top_class": heat.top_class.tolist(),
        "inexact": estimated_note(heat.cells.quality),
        "exact": None if heat.cells.exact is None else heat.cells.exact.astype(int).tolist(),
        "class_names": names,
        "best": [cell.place for cell in heat.top()],
        "views": views_of(heat, most_slices, limit, chosen),
        "has_outside": outside(heat.placement),
        "scale_text": scale_text(heat.score_kind),
        "ends": ends_text(chosen.sign, heat.score_kind),
    }


def _numbers(plane: Any) -> Any:
    """Return numbers, nested as a plane is, as JSON has them: five digits, null where not computed."""
    if isinstance(plane, list):
        return [_numbers(part) for part in plane]
    return float(f"{plane:.5g}") if np.isfinite(plane) else None


def _scale(chosen: Palette) -> list[str]:
    """Return the scale from its low to its high end, as CSS colors that are opaque at the ends."""
    stops = replace(chosen, alpha=1.0).scale(41)
    return [
        f"rgba({red * 255:.0f}, {green * 255:.0f}, {blue * 255:.0f}, {alpha:.3f})"
        for red, green, blue, alpha in stops.tolist()
    ]
