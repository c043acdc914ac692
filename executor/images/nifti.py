"""NIfTI files: volumes with the place of every voxel in the scanner's space. nibabel does the reading (extra `nifti`).

Called by `volume_files`.
"""

from __future__ import annotations

import importlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from obeql.errors import ImageError, install
from obeql.executor.images.locate import no_page
from obeql.executor.images.volume_limits import require_small_volume

__all__ = ["NIFTI_SUFFIXES", "read_nifti"]

#: Suffixes of NIfTI files, in lower case.
NIFTI_SUFFIXES = (".nii", ".nii.gz")


def read_nifti(path: Path, shown: str, page: int | None) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Return the voxels (x, y, z), float32, in canonical orientation, and where they lie: `affine` and `spacing`.

    The axes run to the right, to the front and to the top of the body (RAS), as `nibabel.as_closest_canonical` and
    MONAI's `Orientation("RAS")` have them. Of a file of four axes `page` says which volume, counted from 1.

    Raises ImageError without the library, for a file that it cannot read, and for four axes without a page.
    """
    try:
        nibabel: Any = importlib.import_module("nibabel")
    except ImportError:
        raise ImageError(f"NIfTI files need the nibabel package: '{shown}'; {install('nifti')}") from None
    broken = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError)
    try:
        image = nibabel.load(path)
        size = tuple(int(n) for n in image.shape)
        if np.dtype(image.get_data_dtype()).kind not in "fiub":
            raise ImageError(f"'{shown}' holds voxels of type {image.get_data_dtype()}; allowed are plain numbers")
        while len(size) > 3 and size[-1] == 1 and page is None:
            size = size[:-1]
        if len(size) < 3 or len(size) > 4:
            raise ImageError(f"'{shown}' has {len(size)} axes ({_by(size)}); a volume has three")
        if len(size) == 4 and page is None:
            raise ImageError(
                f"'{shown}' has four axes ({_by(size)}): {size[3]} volumes, one after the other; "
                f"'{path.name}#page=1' is the first of them"
            )
        n_volumes = size[3] if len(size) == 4 else 1
        if page is not None and not 1 <= page <= n_volumes:
            raise no_page(shown, n_volumes)
        require_small_volume(size[:3], shown)
        one = image
        if len(image.shape) > 3:
            at = (page or 1) - 1
            whole = (slice(None),) * 3
            one = image.slicer[(*whole, slice(at, at + 1), *(slice(None),) * (len(image.shape) - 4))]
        one = nibabel.as_closest_canonical(one)
        voxels = np.asarray(one.dataobj, np.float32).reshape(one.shape[:3])
    except (*broken, OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise ImageError(f"'{shown}' cannot be read as NIfTI: {_first_line(error)}") from None
    spacing = [float(n) for n in one.header.get_zooms()[:3]]
    return voxels, {"affine": np.asarray(one.affine, float).tolist(), "spacing": spacing}


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
