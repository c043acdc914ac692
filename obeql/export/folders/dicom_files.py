"""What the formats of DICOM files share: one object a map, the headers of the images, and texts as DICOM takes them.

`parametric_map` and `secondary_capture` say what an object is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import obeql
from obeql.errors import ImageError, UnsupportedError, install
from obeql.export.folders.map_files import write_map_files
from obeql.export.provenance import as_json, of_map

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap
    from obeql.results.result import Result

__all__ = ["DESCRIPTION", "LABEL", "DicomObjects", "header_of", "highdicom", "paths_of", "short_text"]

#: Most characters of a label, of a description, and of comments, in DICOM.
LABEL, DESCRIPTION, _COMMENTS = 16, 64, 10240


def highdicom() -> Any:
    """Return the package. Raises UnsupportedError where it is not installed."""
    try:
        import highdicom  # noqa: PLC0415
        import pydicom  # noqa: F401, PLC0415
    except ImportError:
        raise UnsupportedError(f"DICOM files are written by highdicom; {install('dicom')}.") from None
    return highdicom


def paths_of(result: Result) -> Iterable[str]:
    """Return the files that the maps are of, each once."""
    return dict.fromkeys(heat.path or heat.image for heat in result)


def header_of(path: str, pixels: bool = False) -> Any:
    """Return a DICOM file, with its pixels or without. Raises ImageError for one that cannot be read."""
    import pydicom  # noqa: PLC0415

    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except OSError as error:
        raise ImageError(f"'{path}' cannot be opened: {error.strerror or error}.") from None
    except Exception:
        raise ImageError(
            f"'{path}' is no DICOM file: this format writes maps of DICOM images; PNG and NPZ are of any."
        ) from None


def short_text(text: str, most: int) -> str:
    """Return a text as DICOM's short strings take it: without backslashes and control characters, not too long."""
    plain = (
        "".join(c if c.isprintable() and c != "\\" else " " for c in text).encode("ascii", "replace").decode().strip()
    )
    return plain if len(plain) <= most else plain[: most - 2].rstrip() + ".."


class DicomObjects(ABC):
    """Writes the maps of one result as objects of one kind: those of the images of one study are one series."""

    #: what is added to the number of an image's series
    series_offset: ClassVar[int]

    def __init__(self, result: Result) -> None:
        self.highdicom = highdicom()
        self._result = result
        self._series: dict[str, str] = {}
        self._number = 0

    def write_all(self, folder: Path) -> list[Path]:
        """Write an object of each map, and the list; return the files. Raises ImageError where a file is gone."""
        return write_map_files(self._result, folder, "dcm", self._write)

    @abstractmethod
    def made(self, heat: Heatmap, path: str) -> Any:
        """Return the object of a map of the image at `path`, made with `identity`."""

    def identity(self, header: Any) -> dict[str, Any]:
        """Return what highdicom asks for of every object: which it is, in which series, and who made it."""
        return {
            "series_instance_uid": self._series.setdefault(str(header.StudyInstanceUID), self.highdicom.UID()),
            "series_number": int(header.get("SeriesNumber") or 0) % 1_000_000 + self.series_offset,
            "sop_instance_uid": self.highdicom.UID(),
            "instance_number": self._number,
            "manufacturer": "OBEQL",
            "software_versions": obeql.__version__,
        }

    def _write(self, heat: Heatmap, path: Path) -> None:
        self._number += 1
        made = self.made(heat, heat.path or heat.image)
        told = as_json(of_map(heat, self._result))
        made.ImageComments = told if len(told) <= _COMMENTS else told[: _COMMENTS - 3] + "..."
        try:
            made.save_as(path)
        except OSError as error:
            raise ImageError(f"cannot write '{path}': {error.strerror or error}") from None
