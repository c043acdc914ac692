"""How large a volume may be: a header of a few bytes can promise more than any machine holds.

Used by the readers of volumes, before they read a voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from obeql.errors import ImageError

__all__ = ["MOST_VOXELS", "require_small_volume"]

#: 512 slices of 1024 x 1024, 2 GiB of float32.
MOST_VOXELS = 1 << 29


def require_small_volume(size: Sequence[int], shown: str) -> None:
    """Raise ImageError for a volume of more numbers than are read, or of none."""
    n_voxels = math.prod(size)
    by = "x".join(map(str, size))
    if n_voxels <= 0 or min(size) <= 0:
        raise ImageError(f"'{shown}' has no voxels: its size is {by}")
    if n_voxels > MOST_VOXELS:
        raise ImageError(f"'{shown}' says that it is {by}, more than the {MOST_VOXELS:,} voxels that are read")
