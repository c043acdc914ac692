"""Maps of DICOM images as DICOM Parametric Maps: float32 importance in the frame of reference of the image.

A format of `EXPORT RUN .. FORMAT`, named in the table of this package; highdicom writes what the standard asks for.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from obeql.errors import ImageError
from obeql.export.folders.dicom_files import (
    DESCRIPTION,
    LABEL,
    DicomObjects,
    header_of,
    highdicom,
    paths_of,
    short_text,
)

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap
    from obeql.results.result import Result

__all__ = ["require_placed", "write_parametric_maps"]

#: What places the pixels of an image in the patient.
_PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def require_placed(result: Result) -> None:
    """Raise for what cannot be written: UnsupportedError without highdicom, ImageError for an image that does not fit.

    An image fits that is a DICOM file in gray, of one frame, with a frame of reference.
    """
    highdicom()
    for path in paths_of(result):
        _require_place(path, header_of(path))


def write_parametric_maps(result: Result, folder: Path) -> list[Path]:
    """Write a Parametric Map of each map, and the list; return the files. Raises as `require_placed`."""
    return _ParametricMaps(result).write_all(folder)


class _ParametricMaps(DicomObjects):
    """Float32 importance, in pixels of the image."""

    series_offset = 1000

    def made(self, heat: Heatmap, path: str) -> Any:
        from pydicom.sr.codedict import codes  # noqa: PLC0415

        hd = self.highdicom
        source = header_of(path, pixels=True)
        values = np.nan_to_num(heat.to_pixels("source"), nan=0.0).astype(np.float32)
        low, high = float(values.min()), float(values.max())
        limit = max(abs(low), abs(high)) or 1.0
        made = hd.pm.ParametricMap(
            source_images=[source],
            pixel_array=values,
            **self.identity(source),
            manufacturer_model_name="OBEQL",
            device_serial_number="0",
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                hd.pm.RealWorldValueMapping(
                    lut_label=short_text(heat.class_name, LABEL),
                    lut_explanation=short_text(f"{heat.score_kind} lost for {heat.class_name}", DESCRIPTION),
                    unit=codes.UCUM.NoUnits,
                    value_range=(low, high if high > low else math.nextafter(low, math.inf)),
                    intercept=0.0,
                    slope=1.0,
                    quantity_definition=codes.DCM.ClassActivation,
                )
            ],
            voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.0, window_width=2 * limit)],
            content_label="IMPORTANCE",
            content_description=short_text(f"Occlusion, {heat.class_name} by {heat.model}", DESCRIPTION),
        )
        made.SeriesDescription = short_text(f"Occlusion maps of {heat.model}", DESCRIPTION)
        return made


def _require_place(path: str, header: Any) -> None:
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise ImageError(f"'{path}' is in color: a DICOM Parametric Map lies on a gray image; FORMAT PNG draws it.")
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise ImageError(f"'{path}' has several frames: maps are written of files of one; FORMAT NPZ is of any.")
    missing = [name for name in _PLACE if not header.get(name)]
    if missing:
        raise ImageError(
            f"'{path}' has no frame of reference (it lacks {', '.join(missing)}), so that a map of it has no place in "
            "the patient: FORMAT PNG and NPZ need none."
        )
