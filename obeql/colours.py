"""The colours of evidence, for every way a map is drawn: pictures, terminal, animations, reports.

Red is evidence for a class, blue against it, zero is transparent. Plain numpy, so that a terminal needs no matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from obeql.heatmap import Heatmap
    from obeql.planner.scores import ScoreKind

__all__ = ["blended", "evidence_colours", "shared_limits", "symmetric_limit"]

# From weak to strong. Vermilion against blue stays apart for every common kind of colour blindness; the strong ends
# are bright enough for dark scans and dark enough for white ones.
_RED = ((1.00, 0.66, 0.40), (1.00, 0.36, 0.16), (0.92, 0.05, 0.08))
_BLUE = ((0.45, 0.82, 1.00), (0.15, 0.58, 1.00), (0.10, 0.28, 0.95))


def evidence_colours(values: npt.NDArray[Any], alpha: float = 0.7) -> npt.NDArray[np.float64]:
    """Return RGBA in 0..1, (*shape, 4), of values in -1..1; opacity grows with |value| to `alpha`, NaN is clear."""
    clean = np.clip(np.nan_to_num(np.asarray(values, np.float64), nan=0.0), -1, 1)
    distance = np.abs(clean)
    stops = np.linspace(0, 1, len(_RED))
    rgba = np.empty((*clean.shape, 4))
    for channel in range(3):
        red = np.interp(distance, stops, [colour[channel] for colour in _RED])
        blue = np.interp(distance, stops, [colour[channel] for colour in _BLUE])
        rgba[..., channel] = np.where(clean < 0, blue, red)
    rgba[..., 3] = alpha * distance
    return rgba


def blended(
    ground: npt.NDArray[Any], values: npt.NDArray[Any], limit: float, alpha: float = 0.7
) -> npt.NDArray[np.uint8]:
    """Return uint8 (H, W, 3): `ground`, RGB (H, W, 3) in 0..1, under the colours of `values` (H, W) / `limit`."""
    rgba = evidence_colours(values / limit, alpha)
    mixed = ground * (1 - rgba[..., 3:]) + rgba[..., :3] * rgba[..., 3:]
    return np.asarray(np.rint(255 * np.clip(mixed, 0, 1)), np.uint8)


def symmetric_limit(values: npt.NDArray[Any]) -> float:
    """The largest |value|, ignoring NaN and infinities; 1.0 where all are zero or missing."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    # A subnormal limit would make the scale's steps underflow.
    return largest if largest > 1e-30 else 1.0


def shared_limits(heats: Sequence[Heatmap]) -> dict[ScoreKind, float]:
    """The end of the scale that maps of one score share: the largest |per-pixel importance| among them."""
    planes: dict[ScoreKind, list[npt.NDArray[np.float32]]] = {}
    for heat in heats:
        planes.setdefault(heat.score_kind, []).append(heat.to_pixels().ravel())
    return {kind: symmetric_limit(np.concatenate(found)) for kind, found in planes.items()}
