"""Maps of volumes as NIfTI: float32 importance that a viewer lays over the scan.

A format of `EXPORT RUN .. FORMAT`, named in the table of this package. nibabel writes the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.errors import ImageError, UnsupportedError, install
from obeql.export.folders.map_files import write_map_files

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap
    from obeql.results.result import Result

__all__ = ["require_volumes", "write_nifti"]

#: Characters that the header has room for.
_DESCRIPTION = 79


def require_volumes(result: Result) -> None:
    """Raise UnsupportedError without nibabel, and ImageError for maps of what is no volume."""
    _nibabel()
    for heat in result:
        if heat.kind.name != "volume":
            raise ImageError(
                f"'{heat.image}' is no volume but of {heat.kind.plural}: FORMAT NIFTI writes maps of volumes; PNG and "
                "NPZ are of any."
            )


def write_nifti(result: Result, folder: Path) -> list[Path]:
    """Write each map in voxels of its volume, NaN where no window hid anything, and the list; return the files.

    The affine is the volume's, so that map and scan lie on each other; the identity where it has none, or is gone.
    """

    def write(heat: Heatmap, path: Path) -> None:
        nibabel = _nibabel()
        image = nibabel.Nifti1Image(heat.to_pixels("source").astype(np.float32), _affine(heat))
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = f"importance for {heat.class_name}, {heat.model}".encode()[:_DESCRIPTION]
        try:
            nibabel.save(image, path)
        except OSError as error:
            raise ImageError(f"cannot write '{path}': {error.strerror or error}") from None

    return write_map_files(result, folder, "nii.gz", write)


def _affine(heat: Heatmap) -> npt.NDArray[np.float64]:
    """Return the 4x4 matrix from voxels to millimetres that the map's volume has."""
    try:
        said = heat.source().metadata.get("affine")
    except ImageError:
        said = None
    return np.eye(4) if said is None else np.asarray(said, np.float64)


def _nibabel() -> Any:
    try:
        import nibabel  # noqa: PLC0415
    except ImportError:
        raise UnsupportedError(f"NIfTI files need nibabel; {install('nifti')}.") from None
    return nibabel
