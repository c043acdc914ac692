"""What a picture says of its colors: words of scales and keys, the same in pictures, terminal, films and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from obeql.planner.scores import SCORES, ScoreKind

if TYPE_CHECKING:
    from obeql.drawing.colors import Sign
    from obeql.executor.images.placement import Placement
    from obeql.results.heatmap import Heatmap

__all__ = ["NOT_COMPUTED", "OUTSIDE", "ends_text", "outside", "scale_text", "uncovered"]

#: What a hatch means: no window there was computed, or the model does not see that part of the image.
NOT_COMPUTED = "not computed"
OUTSIDE = "outside of the model's input"


def scale_text(kind: ScoreKind) -> str:
    """Return what a scale measures: `drop in log-odds when hidden (nats)`."""
    score = SCORES[kind]
    return f"drop in {score.name} when hidden{f' ({score.unit})' if score.unit else ''}"


def ends_text(sign: Sign, kind: ScoreKind) -> tuple[str, str]:
    """Return what windows at the low and the high end of a scale do, empty for an end at zero.

    They speak for a class or against it; a value, which is no class, they raise or lower.
    """
    low, high = ("lowers it", "raises it") if kind == "value" else ("against", "for")
    return {
        "all": (low, high),
        "positive": ("", high),
        "negative": (low, ""),
        "absolute": ("", "raises or lowers it" if kind == "value" else "for or against"),
    }[sign]


def uncovered(heat: Heatmap) -> npt.NDArray[np.bool_]:
    """Return (H, W) of the model's input: pixels over which no window has a value; none of windows that are listed."""
    if heat.cells.listed is not None:  # which leave out what nobody asked about
        return np.zeros(heat.placement.model_size, np.bool_)
    return np.asarray(~np.isfinite(heat.to_pixels()))


def outside(placement: Placement) -> bool:
    """Return whether parts of the source image lie outside of the model's input, such as beyond a centre crop."""
    size = placement.model_size
    box = placement.source_box(*(0,) * len(size), *size)
    starts, extents = box[: len(size)], box[len(size) :]
    ends = zip(starts, extents, placement.source_size, strict=True)
    return any(start > 0.5 or start + extent < n - 0.5 for start, extent, n in ends)
