"""What the formats of DICOM files share: highdicom, the headers of the images, and texts as DICOM takes them.

Used by `parametric_map` and `secondary_capture`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from obeql.errors import ImageError, UnsupportedError, install
from obeql.export.provenance import as_json, of_map

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap
    from obeql.results.result import Result

__all__ = ["DESCRIPTION", "LABEL", "comments", "header_of", "highdicom", "paths_of", "series_number", "short_text"]

#: Most characters of a label, of a description, and of comments, in DICOM.
LABEL, DESCRIPTION, _COMMENTS = 16, 64, 10240


def highdicom() -> Any:
    """Return the package. Raises UnsupportedError where it is not installed."""
    try:
        import highdicom  # noqa: PLC0415
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


def comments(heat: Heatmap, result: Result) -> str:
    """Return where a map comes from, as JSON in the length of Image Comments."""
    told = as_json(of_map(heat, result))
    return told if len(told) <= _COMMENTS else told[: _COMMENTS - 3] + "..."


def series_number(source: Any) -> int:
    """Return the number of a series of maps of an image."""
    return (int(source.get("SeriesNumber") or 0) % 1_000_000) + 1000
