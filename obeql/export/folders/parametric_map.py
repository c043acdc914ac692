"""Maps of DICOM images as DICOM Parametric Maps: float32 importance in the frame of reference of the image.

A format of `EXPORT RUN .. FORMAT`, named in the table of this package; highdicom writes what the standard asks for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import obeql
from obeql.errors import ImageError, UnsupportedError, install
from obeql.export.folders.map_files import write_map_files
from obeql.export.provenance import of_map

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap
    from obeql.results.result import Result

__all__ = ["require_placed", "write_parametric_maps"]

#: What places the pixels of an image in the patient.
_PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
#: Most characters of a label, of a description, and of comments, in DICOM.
_LABEL, _DESCRIPTION, _COMMENTS = 16, 64, 10240


def require_placed(result: Result) -> None:
    """Raise for what cannot be written: UnsupportedError without highdicom, ImageError for an image that does not fit.

    An image fits that is a DICOM file in gray, of one frame, with a frame of reference.
    """
    _highdicom()
    for path in _paths(result):
        _require_place(path, _header(path))


def write_parametric_maps(result: Result, folder: Path) -> list[Path]:
    """Write a Parametric Map of each map, and the list; return the files. Raises as `require_placed`."""
    return write_map_files(result, folder, "dcm", _ParametricMaps(result).write)


def _highdicom() -> Any:
    try:
        import highdicom  # noqa: PLC0415
    except ImportError:
        raise UnsupportedError(f"DICOM Parametric Maps need highdicom; {install('dicom')}.") from None
    return highdicom


class _ParametricMaps:
    """Writes the maps of one result: those of the images of one study are one series."""

    def __init__(self, result: Result) -> None:
        self._highdicom = _highdicom()
        self._result = result
        self._series: dict[str, str] = {}
        self._number = 0

    def write(self, heat: Heatmap, path: Path) -> None:
        """Write one map. Raises ImageError where the image or the folder is gone."""
        source = _header(heat.path or heat.image, pixels=True)
        values = np.nan_to_num(heat.to_pixels("source"), nan=0.0).astype(np.float32)
        self._number += 1
        try:
            self._made(heat, source, values).save_as(path)
        except OSError as error:
            raise ImageError(f"cannot write '{path}': {error.strerror or error}") from None

    def _made(self, heat: Heatmap, source: Any, values: np.ndarray[Any, Any]) -> Any:
        from pydicom.sr.codedict import codes  # noqa: PLC0415

        hd = self._highdicom
        study = str(source.StudyInstanceUID)
        low, high = float(values.min()), float(values.max())
        limit = max(abs(low), abs(high)) or 1.0
        made = hd.pm.ParametricMap(
            source_images=[source],
            pixel_array=values,
            series_instance_uid=self._series.setdefault(study, hd.UID()),
            series_number=(int(source.get("SeriesNumber") or 0) % 1_000_000) + 1000,
            sop_instance_uid=hd.UID(),
            instance_number=self._number,
            manufacturer="OBEQL",
            manufacturer_model_name="OBEQL",
            software_versions=obeql.__version__,
            device_serial_number="0",
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                hd.pm.RealWorldValueMapping(
                    lut_label=_short(heat.class_name, _LABEL),
                    lut_explanation=_short(f"{heat.score_kind} lost for {heat.class_name}", _DESCRIPTION),
                    unit=codes.UCUM.NoUnits,
                    value_range=(low, high if high > low else math.nextafter(low, math.inf)),
                    intercept=0.0,
                    slope=1.0,
                    quantity_definition=codes.DCM.ClassActivation,
                )
            ],
            voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.0, window_width=2 * limit)],
            content_label="IMPORTANCE",
            content_description=_short(f"Occlusion, {heat.class_name} by {heat.model}", _DESCRIPTION),
        )
        made.SeriesDescription = _short(f"Occlusion maps of {heat.model}", _DESCRIPTION)
        told = json.dumps(of_map(heat, self._result), ensure_ascii=True)
        made.ImageComments = told if len(told) <= _COMMENTS else told[: _COMMENTS - 3] + "..."
        return made


def _paths(result: Result) -> Iterable[str]:
    """The files that the maps are of, each once."""
    return dict.fromkeys(heat.path or heat.image for heat in result)


def _header(path: str, pixels: bool = False) -> Any:
    import pydicom  # noqa: PLC0415

    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except OSError as error:
        raise ImageError(f"'{path}' cannot be opened: {error.strerror or error}.") from None
    except Exception:
        raise ImageError(
            f"'{path}' is no DICOM file: FORMAT DICOM writes maps of DICOM images; PNG and NPZ are of any."
        ) from None


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


def _short(text: str, most: int) -> str:
    """Return a text as DICOM's short strings take it: without backslashes and control characters, not too long."""
    plain = (
        "".join(c if c.isprintable() and c != "\\" else " " for c in text).encode("ascii", "replace").decode().strip()
    )
    return plain if len(plain) <= most else plain[: most - 2].rstrip() + ".."
