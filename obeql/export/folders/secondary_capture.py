"""Maps of DICOM images as DICOM secondary captures: the picture with the map over it, in color, for any viewer.

A format of `EXPORT RUN .. FORMAT`, named in the table of this package. A capture is a picture of the study, without
numbers and without a place in the patient; `parametric_map` writes those.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from obeql.drawing.colors import limit_of, palette
from obeql.export.folders.dicom_files import DESCRIPTION, DicomObjects, header_of, highdicom, paths_of, short_text

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap
    from obeql.results.result import Result

__all__ = ["require_dicom", "write_secondary_captures"]

#: Where the letters of a patient's directions point, for each axis of the patient: against it and along it.
_DIRECTIONS = ("RL", "AP", "FH")


def require_dicom(result: Result) -> None:
    """Raise UnsupportedError without highdicom, and ImageError for an image that is no DICOM file."""
    highdicom()
    for path in paths_of(result):
        header_of(path)


def write_secondary_captures(result: Result, folder: Path) -> list[Path]:
    """Write a capture of each map, in pixels of its image, and the list; return the files."""
    return _Captures(result).write_all(folder)


class _Captures(DicomObjects):
    """Pictures in color: the image under the colors of its map."""

    series_offset = 2000

    def made(self, heat: Heatmap, path: str) -> Any:
        header = header_of(path)
        pixels = palette().blended(heat.source().unit_pixels(), heat.to_pixels("source"), limit_of(heat))
        made = self.highdicom.sc.SCImage.from_ref_dataset(
            header,
            pixel_array=np.ascontiguousarray(pixels),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            **self.identity(header),
            pixel_spacing=header.get("PixelSpacing"),
            patient_orientation=_orientation(header) or ("L", "F"),
        )
        if _orientation(header) is None:
            made.PatientOrientation = None  # not known
        if header.get("BurnedInAnnotation"):
            made.BurnedInAnnotation = header.BurnedInAnnotation
        made.DerivationDescription = short_text(f"Occlusion, {heat.class_name} by {heat.model}", DESCRIPTION)
        made.SeriesDescription = short_text(f"Occlusion maps of {heat.model}, drawn", DESCRIPTION)
        return made


def _orientation(header: Any) -> tuple[str, str] | None:
    """Return where the rows and the columns of an image point in the patient; None where its file does not say."""
    if header.get("PatientOrientation") and len(header.PatientOrientation) == 2:
        return str(header.PatientOrientation[0]), str(header.PatientOrientation[1])
    cosines = header.get("ImageOrientationPatient")
    if not cosines or len(cosines) != 6:
        return None
    row, column = (np.array([float(each) for each in part]) for part in (cosines[:3], cosines[3:]))
    return _direction(row), _direction(column)


def _direction(cosines: np.ndarray[Any, Any]) -> str:
    axis = int(np.abs(cosines).argmax())
    return _DIRECTIONS[axis][int(cosines[axis] > 0)]
