"""A map of any kind of input as one of a picture, for what knows pictures alone: reports, pages, sheets, comparisons.

Between those and the modules that know a kind of input: `curves` for signals, `slices` for volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from obeql.drawing import curves, slices

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap

__all__ = ["as_picture"]

#: By the kind of input; images are pictures.
_AS_PICTURE: Mapping[str, Callable[[Heatmap], Heatmap]] = {"signal": curves.as_picture, "volume": slices.as_picture}


def as_picture(heat: Heatmap) -> Heatmap:
    """Return a signal's map as one of its curves, a volume's as that of its strongest slice, others as they are."""
    convert = _AS_PICTURE.get(heat.kind.name)
    return heat if convert is None else convert(heat)
