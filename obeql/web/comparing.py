"""Two to four maps beside each other in numbers: SSIM, rank correlation, largest difference, each against the first.

Beside `reader`; the page draws the maps itself, on one scale, and their differences. Maps of other grids are read at
the windows' middles of the first, from the nearest window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from obeql.errors import QueryTypeError
from obeql.executor.adaptive.map_quality import ssim
from obeql.results.heatmap import Heatmap
from obeql.web.map_frames import MEDIA, frame
from obeql.web.request_parts import map_of

if TYPE_CHECKING:
    from obeql.web.page import Page

__all__ = ["comparison", "comparison_frame", "routes"]

Floats = npt.NDArray[np.float64]


def routes(page: Page) -> list[BaseRoute]:
    """Return the addresses of the view: `?map=7/12-3&map=8` names the maps."""

    def heats(request: Request) -> list[Heatmap]:
        return [page.reader.heat(*map_of(address)) for address in request.query_params.getlist("map")]

    async def figures(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(lambda: comparison(heats(request))))

    async def planes(request: Request) -> Response:
        return Response(await run_in_threadpool(lambda: comparison_frame(heats(request))), media_type=MEDIA)

    return [Route("/api/compare", figures), Route("/api/compare.bin", planes)]


def comparison(heats: Sequence[Heatmap]) -> dict[str, Any]:
    """Return the figures of each map against the first. Raises QueryTypeError unless there are two to four maps."""
    first, others = _planes([heat.with_row() for heat in heats])
    return {"against": 0, "pairs": [_figures(first, other) for other in others]}


def comparison_frame(heats: Sequence[Heatmap]) -> bytes:
    """Return the differences, each map minus the first, on the grid of the first; a plane a map."""
    heats = [heat.with_row() for heat in heats]
    first, others = _planes(heats)
    head = heats[0]
    about = {
        "model_size": head.placement.model_size,
        "tops": head.tops.tolist(),
        "lefts": head.lefts.tolist(),
        "heights": head.heights.tolist(),
        "widths": head.widths.tolist(),
        "pairs": [_figures(first, other) for other in others],
    }
    differences = {f"difference_{n}": (other - first).astype(np.float32) for n, other in enumerate(others, 1)}
    return frame(about, differences)


def _planes(heats: Sequence[Heatmap]) -> tuple[Floats, list[Floats]]:
    if not 2 <= len(heats) <= 4:
        raise QueryTypeError(f"two to four maps are compared, not {len(heats)}")
    return np.asarray(heats[0].importance, np.float64), [_on_grid_of(heats[0], other) for other in heats[1:]]


def _on_grid_of(first: Heatmap, other: Heatmap) -> Floats:
    """Return the importance of `other` at the middles of the windows of `first`."""
    scale = [o / f for f, o in zip(first.placement.model_size, other.placement.model_size, strict=True)]
    rows = _nearest((first.tops + first.heights / 2) * scale[0], other.tops + other.heights / 2)
    cols = _nearest((first.lefts + first.widths / 2) * scale[1], other.lefts + other.widths / 2)
    return np.asarray(other.importance, np.float64)[np.ix_(rows, cols)]


def _nearest(wanted: Floats, there: Floats) -> npt.NDArray[np.intp]:
    return np.asarray(np.abs(wanted[:, None] - there[None]).argmin(axis=1), np.intp)


def _figures(first: Floats, other: Floats) -> dict[str, float | None]:
    both = np.isfinite(first) & np.isfinite(other)
    if not both.any():
        return {"ssim": None, "rank_correlation": None, "largest_difference": None, "cells": 0}
    similar: float | None = None
    if both.all() and min(first.shape) >= 3:
        similar = float(ssim(first[None], other)[0])
    return {
        "ssim": similar,
        "rank_correlation": _correlation(_ranks(first[both]), _ranks(other[both])),
        "largest_difference": float(np.abs(first - other)[both].max()),
        "cells": int(both.sum()),
    }


def _ranks(values: Floats) -> Floats:
    """Return the ranks, ties with their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place], np.float64)


def _correlation(first: Floats, other: Floats) -> float | None:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(first, other)[0, 1])
