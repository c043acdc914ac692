"""Turning a picture as its EXIF or TIFF orientation says, for pixels that Pillow does not hold.

Used by the readers of files that Pillow cannot read in full.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["upright"]

#: By orientation: whether a picture is transposed, and by how many quarter turns anticlockwise it is turned then.
_TURNS = {
    1: (False, 0),
    2: (True, 3),
    3: (False, 2),
    4: (True, 1),
    5: (True, 0),
    6: (False, 3),
    7: (True, 2),
    8: (False, 1),
}


def upright(pixels: npt.NDArray[Any], orientation: Any) -> npt.NDArray[Any]:
    """Return pixels (H, W, C) turned by an orientation of 1 to 8; any other value turns nothing."""
    transposed, turns = _TURNS.get(orientation, (False, 0)) if isinstance(orientation, int) else (False, 0)
    return np.ascontiguousarray(np.rot90(pixels.transpose(1, 0, 2) if transposed else pixels, turns))
