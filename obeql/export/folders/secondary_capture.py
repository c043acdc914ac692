"""Maps of DICOM images as DICOM secondary captures: the picture with the map over it, in color, for any viewer.

A format of `EXPORT RUN .. FORMAT`, named in the table of this package. A capture is a picture of the study, without
numbers and without a place in the patient; `parametric_map` writes those.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import obeql
from obeql.drawing.colors import limit_of, palette
from obeql.errors import ImageError
from obeql.export.folders.dicom_files import (
    DESCRIPTION,
    comments,
    header_of,
    highdicom,
    paths_of,
    series_number,
    short_text,
)
from obeql.export.folders.map_files import write_map_files

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
    return write_map_files(result, folder, "dcm", _Captures(result).write)


class _Captures:
    """Writes the maps of one result: those of the images of one study are one series."""

    def __init__(self, result: Result) -> None:
        self._highdicom = highdicom()
        self._result = result
        self._series: dict[str, str] = {}
        self._number = 0

    def write(self, heat: Heatmap, path: Path) -> None:
        """Write one map. Raises ImageError where the image or the folder is gone."""
        header = header_of(heat.path or heat.image)
        self._number += 1
        pixels = palette().blended(heat.source().unit_pixels(), heat.to_pixels("source"), limit_of(heat))
        hd = self._highdicom
        made = hd.sc.SCImage.from_ref_dataset(
            header,
            pixel_array=np.ascontiguousarray(pixels),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=self._series.setdefault(str(header.StudyInstanceUID), hd.UID()),
            series_number=series_number(header) + 1000,
            sop_instance_uid=hd.UID(),
            instance_number=self._number,
            manufacturer="OBEQL",
            pixel_spacing=header.get("PixelSpacing"),
            patient_orientation=_orientation(header) or ("L", "F"),
            software_versions=obeql.__version__,
        )
        if _orientation(header) is None:
            made.PatientOrientation = None  # not known
        if header.get("BurnedInAnnotation"):
            made.BurnedInAnnotation = header.BurnedInAnnotation
        made.DerivationDescription = short_text(f"Occlusion, {heat.class_name} by {heat.model}", DESCRIPTION)
        made.SeriesDescription = short_text(f"Occlusion maps of {heat.model}, drawn", DESCRIPTION)
        made.ImageComments = comments(heat, self._result)
        try:
            made.save_as(path)
        except OSError as error:
            raise ImageError(f"cannot write '{path}': {error.strerror or error}") from None


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
