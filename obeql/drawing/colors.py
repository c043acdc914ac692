"""The colors of evidence, for every way a map is drawn: pictures, terminal, films, reports.

Red is evidence for a class, blue against it, zero is transparent, and what was not computed is hatched. Plain numpy
unless a colormap of matplotlib is asked for, so that a terminal needs none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from obeql.errors import QueryTypeError, nearest

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

    from obeql.planner.scores import ScoreKind
    from obeql.results.heatmap import Heatmap

__all__ = [
    "ALPHA",
    "SIGNS",
    "Bytes",
    "Palette",
    "Sign",
    "bar_pixels",
    "checked_limit",
    "hatching",
    "limit_of",
    "palette",
    "shared_limits",
    "symmetric_limit",
]

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

#: What of a map is colored: both signs, the evidence for the class, that against it, or how much, whichever way.
Sign = Literal["all", "positive", "negative", "absolute"]
SIGNS: tuple[Sign, ...] = get_args(Sign)

#: Opacity at the ends of the scale, unless something else is asked for.
ALPHA = 0.75

# From weak to strong. Vermilion against blue stays apart for every common kind of color blindness; the strong ends
# are bright enough for dark scans and dark enough for white ones.
_RED = ((1.00, 0.66, 0.40), (1.00, 0.36, 0.16), (0.92, 0.05, 0.08))
_BLUE = ((0.45, 0.82, 1.00), (0.15, 0.58, 1.00), (0.10, 0.28, 0.95))

#: Ends of the scale, as parts of the limit, by what is colored.
_SPANS: dict[Sign, tuple[float, float]] = {
    "all": (-1.0, 1.0),
    "positive": (0.0, 1.0),
    "negative": (-1.0, 0.0),
    "absolute": (0.0, 1.0),
}

#: The veil and the two lines of a hatch, gray levels and opacities: visible on black scans and on white ones.
_VEIL, _DARK_LINE, _LIGHT_LINE = (128, 60), (40, 160), (225, 160)


@dataclass(frozen=True, slots=True)
class Palette:
    """How importances become colors: `alpha` is the opacity at the ends, `cmap` a colormap of matplotlib or None."""

    alpha: float = ALPHA
    cmap: Colormap | None = None
    sign: Sign = "all"

    @property
    def span(self) -> tuple[float, float]:
        """Return the ends of the scale, as parts of its limit."""
        return _SPANS[self.sign]

    def colors(self, values: npt.NDArray[Any]) -> Floats:
        """Return RGBA in 0..1, (*shape, 4), of values in -1..1, parts of the limit.

        Opacity grows with |value| to `alpha`; NaN, and the sign that is not asked for, are clear.
        """
        known = np.nan_to_num(np.asarray(values, np.float64), nan=0.0)
        low, high = self.span
        clean = np.clip(np.abs(known) if self.sign == "absolute" else known, low, high)
        rgba = _evidence(clean) if self.cmap is None else self._mapped(clean)
        rgba[..., 3] = self.alpha * np.abs(clean)
        return rgba

    def _mapped(self, clean: Floats) -> Floats:
        assert self.cmap is not None
        along = (clean + 1) / 2 if self.sign == "all" else np.abs(clean)
        return np.array(self.cmap(along), np.float64)

    def blended(self, ground: npt.NDArray[Any], values: npt.NDArray[Any], limit: float) -> Bytes:
        """Return uint8 (H, W, 3): `ground`, RGB (H, W, 3) in 0..1, under the colors of `values` (H, W) / `limit`."""
        rgba = self.colors(values / limit)
        mixed = ground * (1 - rgba[..., 3:]) + rgba[..., :3] * rgba[..., 3:]
        return np.asarray(np.rint(255 * np.clip(mixed, 0, 1)), np.uint8)

    def scale(self, n: int) -> Floats:
        """Return RGBA (n, 4) from the low to the high end of the scale."""
        return self.colors(np.linspace(*self.span, n))


def palette(alpha: float | None = None, cmap: Any = None, sign: str = "all") -> Palette:
    """Return the palette of drawing options: `cmap` is a name that matplotlib knows, or a Colormap.

    Raises QueryTypeError for an opacity outside of 0..1, an unknown sign or an unknown colormap.
    """
    alpha = ALPHA if alpha is None else alpha
    if not 0 < alpha <= 1:
        raise QueryTypeError(f"alpha must lie in 0..1, above 0, not {alpha}")
    for known in SIGNS:
        if sign == known:
            return Palette(float(alpha), None if cmap is None else _colormap(cmap), known)
    raise QueryTypeError(f"sign {sign!r} is unknown; allowed are {', '.join(SIGNS)}.{nearest(str(sign), SIGNS)}")


def bar_pixels(chosen: Palette, n: int) -> Bytes:
    """Return uint8 (2, n, 3): the scale from low to high, over black in the first row and over white in the second.

    The colors of a map are transparent; this is what they look like on a dark image and on a bright one.
    """
    values = np.tile(np.linspace(*chosen.span, n), (2, 1))
    ground = np.repeat(np.array([0.0, 1.0])[:, None, None], n, axis=1).repeat(3, axis=2)
    return chosen.blended(ground, values, 1.0)


def hatching(unknown: Flags, period: int, falling: bool = False) -> Bytes:
    """Return uint8 RGBA (H, W, 4): slanted lines over a gray veil where `unknown` (H, W), clear elsewhere."""
    rows, cols = np.indices(unknown.shape)
    place = (rows - cols if falling else rows + cols) % period
    rgba = np.zeros((*unknown.shape, 4), np.uint8)
    width = max(1, period // 6)
    for (gray, opacity), part in (
        (_VEIL, unknown),
        (_DARK_LINE, unknown & (place < width)),
        (_LIGHT_LINE, unknown & (place >= width) & (place < 2 * width)),
    ):
        rgba[part] = (gray, gray, gray, opacity)
    return rgba


def symmetric_limit(values: npt.NDArray[Any], sign: Sign = "all") -> float:
    """Return the largest |value| of a sign, ignoring NaN and infinities; 1.0 where all are zero or missing."""
    finite = values[np.isfinite(values)]
    finite = np.maximum(finite, 0) if sign == "positive" else np.minimum(finite, 0) if sign == "negative" else finite
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    # A subnormal limit would make the scale's steps underflow.
    return largest if largest > 1e-30 else 1.0


def limit_of(heat: Heatmap, sign: Sign = "all") -> float:
    """Return the end of a map's scale: the largest |importance| of a window, which tables list.

    A pixel is the mean of the windows over it, and lies within.
    """
    return symmetric_limit(heat.importance, sign)


def shared_limits(heats: Sequence[Heatmap], sign: Sign = "all") -> dict[ScoreKind, float]:
    """Return the end of the scale that maps of one score share: the largest of theirs."""
    planes: dict[ScoreKind, list[npt.NDArray[np.float32]]] = {}
    for heat in heats:
        planes.setdefault(heat.score_kind, []).append(heat.importance.ravel())
    return {kind: symmetric_limit(np.concatenate(found), sign) for kind, found in planes.items()}


def checked_limit(limit: float | None) -> float | None:
    """Return the limit of a scale, None for none. Raises QueryTypeError for one that is no positive number."""
    if limit is not None and not (math.isfinite(limit) and limit > 0):
        raise QueryTypeError(f"limit must be a positive number, not {limit}")
    return limit


def _evidence(clean: Floats) -> Floats:
    """Return RGBA of values in -1..1 without their opacity."""
    distance = np.abs(clean)
    stops = np.linspace(0, 1, len(_RED))
    rgba = np.empty((*clean.shape, 4))
    for channel in range(3):
        red = np.interp(distance, stops, [color[channel] for color in _RED])
        blue = np.interp(distance, stops, [color[channel] for color in _BLUE])
        rgba[..., channel] = np.where(clean < 0, blue, red)
    return rgba


def _colormap(cmap: Any) -> Colormap:
    from matplotlib import colormaps  # noqa: PLC0415 - slow to import
    from matplotlib.colors import Colormap  # noqa: PLC0415

    if isinstance(cmap, Colormap):
        return cmap
    if isinstance(cmap, str) and cmap in colormaps:
        return colormaps[cmap]
    known = {name.lower(): name for name in colormaps}
    if isinstance(cmap, str) and cmap.lower() in known:  # SQL's words may come in any case
        return colormaps[known[cmap.lower()]]
    raise QueryTypeError(
        f"cmap {cmap!r} is no colormap of matplotlib, such as 'coolwarm', 'RdBu_r' or 'inferno'."
        f"{nearest(str(cmap), list(colormaps))}"
    )
