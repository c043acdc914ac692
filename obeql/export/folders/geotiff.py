"""Maps of georeferenced TIFF images as GeoTIFF: float32 importance that lies where the image lies.

A format of `EXPORT RUN .. FORMAT`, named in the table of this package. tifffile reads the georeference of the image,
which is copied tag by tag, and writes the map.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from obeql.errors import ImageError, UnsupportedError, install
from obeql.export.folders.map_files import write_map_files
from obeql.export.provenance import as_json, of_map
from obeql.planner.binding.image_paths import split_page

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap
    from obeql.results.result import Result

__all__ = ["require_georeferenced", "write_geotiffs"]

#: Tags of a georeference (GeoTIFF 1.1, section 7): scale, tie points, transformation, and the three of its keys.
_KEYS = 34735
_TAGS = (33550, 33922, 34264, _KEYS, 34736, 34737)
#: GDAL's tag of the value of pixels without one.
_NO_DATA = 42113


def require_georeferenced(result: Result) -> None:
    """Raise UnsupportedError without tifffile, and ImageError for an image that is no TIFF file with a georeference."""
    for path in dict.fromkeys(heat.path or heat.image for heat in result):
        _georeference(path)


def write_geotiffs(result: Result, folder: Path) -> list[Path]:
    """Write each map in pixels of its image, NaN where no window hid anything, and the list; return the files."""

    def write(heat: Heatmap, path: Path) -> None:
        tags = _georeference(heat.path or heat.image)
        values = heat.to_pixels("source").astype(np.float32)
        try:
            _tifffile().imwrite(
                path,
                values,
                photometric="minisblack",
                description=as_json(of_map(heat, result)),
                metadata=None,
                compression="zlib",
                extratags=[*tags, (_NO_DATA, "s", 0, "nan", True)],
            )
        except OSError as error:
            raise ImageError(f"cannot write '{path}': {error.strerror or error}") from None

    return write_map_files(result, folder, "tif", write)


def _tifffile() -> Any:
    try:
        import tifffile  # noqa: PLC0415
    except ImportError:
        raise UnsupportedError(f"GeoTIFF files need tifffile; {install('geo')}.") from None
    return tifffile


def _georeference(path: str) -> list[tuple[int, int, int, Any, bool]]:
    """Return the tags of an image's georeference, as tifffile writes them."""
    tifffile = _tifffile()
    file, page = split_page(path)
    try:
        with tifffile.TiffFile(file) as tiff:
            found = [tag for tag in tiff.pages[(page or 1) - 1].tags if tag.code in _TAGS]
            tags = [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found]
    except OSError as error:
        raise ImageError(f"'{path}' cannot be opened: {error.strerror or error}.") from None
    except Exception:
        tags = []
    if _KEYS not in {tag[0] for tag in tags}:
        raise ImageError(
            f"'{path}' has no georeference: FORMAT GEOTIFF writes maps of GeoTIFF images; PNG and NPZ are of any."
        )
    return tags
