"""What EXPORT RUN writes into a folder: one table of the formats, a module here for each.

Between `export.runs`, which has a result and the name of a folder, and the modules that write. The prompt completes the
words of the table and its help says what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from obeql.errors import ImageError, QueryTypeError, nearest
from obeql.export.folders.fiftyone import write_fiftyone
from obeql.export.folders.geotiff import require_georeferenced, write_geotiffs
from obeql.export.folders.map_files import write_arrays, write_pictures
from obeql.export.folders.nifti import require_volumes, write_nifti
from obeql.export.folders.parametric_map import require_placed, write_parametric_maps
from obeql.export.folders.parquet import write_parquet
from obeql.export.folders.secondary_capture import require_dicom, write_secondary_captures

if TYPE_CHECKING:
    from obeql.results.result import Result

__all__ = ["FOLDER_FORMATS", "FolderFormat", "folder_format"]


@dataclass(frozen=True, slots=True)
class FolderFormat:
    """A format: its word in lower case, what it is, and what writes a result into a folder and returns the files.

    `write` gets a folder that is there and replaces files of the same names. `check` raises, before there is a folder,
    for a result that the format cannot be of.
    """

    name: str
    is_a: str
    write: Callable[[Result, Path], list[Path]]
    check: Callable[[Result], None] = lambda result: None


def _of_pictures(name: str, check: Callable[[Result], None] = lambda result: None) -> Callable[[Result], None]:
    """Return a check that refuses maps of volumes, which the format `name` has no room for, before another check."""

    def require(result: Result) -> None:
        for heat in result:
            if heat.n_axes > 2:
                raise ImageError(
                    f"'{heat.image}' is a volume: FORMAT {name.upper()} is of images; NIFTI, NPZ, PNG and PARQUET take "
                    "volumes."
                )
        check(result)

    return require


#: The first is written where no format is named.
FOLDER_FORMATS: tuple[FolderFormat, ...] = (
    FolderFormat("parquet", "one table, heatmaps.parquet, a row a map", write_parquet),
    FolderFormat("npz", "the numbers of each map for numpy, and maps.csv", write_arrays),
    FolderFormat("png", "each map over its image, and maps.csv", write_pictures),
    FolderFormat(
        "dicom",
        "a DICOM Parametric Map of each map, and maps.csv",
        write_parametric_maps,
        _of_pictures("dicom", require_placed),
    ),
    FolderFormat(
        "secondary_capture",
        "a DICOM picture of each map over its image, and maps.csv",
        write_secondary_captures,
        _of_pictures("secondary_capture", require_dicom),
    ),
    FolderFormat("fiftyone", "a dataset for FiftyOne, a Heatmap a map", write_fiftyone, _of_pictures("fiftyone")),
    FolderFormat(
        "geotiff", "a GeoTIFF of each map, and maps.csv", write_geotiffs, _of_pictures("geotiff", require_georeferenced)
    ),
    FolderFormat("nifti", "a NIfTI file of each map of a volume, and maps.csv", write_nifti, require_volumes),
)


def folder_format(name: str | None) -> FolderFormat:
    """Return the format of a word in any case, without one the first; raises QueryTypeError that lists all."""
    if name is None:
        return FOLDER_FORMATS[0]
    known = {each.name: each for each in FOLDER_FORMATS}
    found = known.get(name.lower())
    if found is None:
        raise QueryTypeError(
            f"format {name[:40]!r} is unknown; allowed are {', '.join(known)}.{nearest(name[:40].lower(), known)}"
        )
    return found
