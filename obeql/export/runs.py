"""Export of the maps of a run: one Parquet file, or a file a map with a list of them.

Comes after a result; maps are taken one after the other, so that a run of any size is exported in little memory.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from obeql.errors import ImageError, QueryTypeError, nearest
from obeql.export.parametric_map import ParametricMaps
from obeql.export.provenance import of_run
from obeql.export.registry import known_suffixes
from obeql.grammar.statements import EXPORT_FORMATS
from obeql.planner.binding.image_paths import image_name
from obeql.planner.cells import FloatPlane
from obeql.results.heatmap import Heatmap, write_file
from obeql.store.codec import dump

if TYPE_CHECKING:
    from obeql.results.result import Result

__all__ = ["TABLES", "export_run", "is_one_file"]

#: Suffixes of tables that EXPORT RUN writes, one row a window.
TABLES = (".csv", ".json", ".parquet")
#: What other files end in; folders are called `maps.v2` or `2026.03`.
_LIKE_A_FILE = re.compile(r"\.([a-z]{2,6}|h5|hdf5|mp4|pt2)")


def is_one_file(path: str | Path) -> bool:
    """Return whether a run is exported to one file of this name, and not into a folder.

    Raises QueryTypeError for a name like that of a file which is not written.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        return False
    known = (*known_suffixes(), *TABLES)
    if suffix not in known and _LIKE_A_FILE.fullmatch(suffix):
        raise QueryTypeError(
            f"'{path.name}' needs a suffix of {' '.join(known)}; or name a folder.{nearest(suffix, known)}"
        )
    return suffix in known


#: Maps that are written to Parquet at once, and the columns that say which file shows which map.
_GROUP = 64
_LISTED = (
    "file",
    "image",
    "label",
    "class_id",
    "class_name",
    "patch",
    "stride",
    "score",
    "clean_score",
    "max_importance",
    "max_is_exact",
    "quality",
)

_PLANE = pa.list_(pa.list_(pa.float32()))
_AXIS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    [
        ("run_id", pa.int64()),
        ("run_name", pa.string()),
        ("image_id", pa.int64()),
        ("image", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("columns", pa.string()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("model", pa.string()),
        ("score", pa.string()),
        *((f"{name}_{side}", pa.int32()) for name in ("patch", "stride", "input") for side in ("height", "width")),
        ("fill", pa.string()),
        ("precision", pa.string()),
        ("clean_score", pa.float64()),
        ("clean_logit", pa.float64()),
        ("clean_others", pa.float64()),
        ("scores", _PLANE),
        ("importance", _PLANE),
        ("logit", _PLANE),
        ("others", _PLANE),
        ("top_class", pa.list_(_AXIS)),
        ("exact", pa.list_(pa.list_(pa.bool_()))),
        *((name, _AXIS) for name in ("tops", "lefts", "heights", "widths")),
        ("quality", pa.string()),
        ("image_hash", pa.string()),
        ("model_hash", pa.string()),
        ("preprocessing_hash", pa.string()),
        ("score_kind", pa.string()),
        ("regions", pa.list_(pa.string())),
    ]
)


def export_run(result: Result, folder: str | Path, form: str | None = None) -> list[Path]:
    """Write the maps into a folder, which is made if missing, or into one file of that name; return the files.

    Without a format, a name with the suffix of a picture, film, report or numpy file is that file, as `Result.save`
    writes it, and any other a folder of `parquet`.
    `parquet` is one file, heatmaps.parquet, a row a map with its planes as nested lists and NULL where a cell was not
    computed. `npz` (all numbers, as `Heatmap.save`) and `png` (the map over its image) are a file a map, and maps.csv
    that lists them; so is `dicom`, a Parametric Map of each, of images that are DICOM files. Files of the same names
    are replaced. Raises QueryTypeError for another format and for a new folder named like a file, ImageError for a
    folder that cannot be written and for images that a format cannot be of.
    """
    if form is None and is_one_file(folder):
        if Path(folder).suffix.lower() in TABLES:
            raise QueryTypeError(
                f"'{Path(folder).name}' is a table of windows, which the database writes: "
                f"db.execute(\"EXPORT RUN {result.run_id} TO '{Path(folder).name}'\"); or name a folder"
            )
        return result.save(folder)
    form = (form or "parquet").lower()
    if form not in EXPORT_FORMATS:
        known = ", ".join(EXPORT_FORMATS)
        raise QueryTypeError(f"format {form!r} is unknown; allowed are {known}.{nearest(form, EXPORT_FORMATS)}")
    folder = Path(folder).expanduser()
    if is_one_file(folder):
        raise QueryTypeError(
            f"'{folder}' is named like a file, but with a format a run is exported into a folder: name a folder, "
            "or leave out the format to write this one file"
        )
    maps = ParametricMaps(result) if form == "dicom" else None  # which refuses images before there is a folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot write into '{folder}': {error.strerror or error}") from None
    if form == "parquet":
        return [_parquet(result, folder / "heatmaps.parquet")]
    if maps is not None:
        return _file_a_map(result, folder, "dcm", maps.write)
    return _file_a_map(result, folder, form, lambda heat, path: heat.save(path))


def _parquet(result: Result, path: Path) -> Path:
    from pyarrow import parquet  # noqa: PLC0415

    schema = _SCHEMA.with_metadata({"obeql": json.dumps(of_run(result))})
    try:
        with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            heats = iter(result)
            while rows := [_row(heat, result.run_name) for heat in islice(heats, _GROUP)]:
                writer.write_table(pa.Table.from_pylist(rows, schema))
    except OSError as error:
        raise ImageError(f"cannot write '{path}': {error.strerror or error}") from None
    return path


def _row(heat: Heatmap, run_name: str | None) -> dict[str, Any]:
    cells, size = heat.cells, heat.placement.model_size
    return {
        "run_id": heat.run_id,
        "run_name": run_name,
        "image_id": heat.image_id,
        "image": heat.image,
        "path": heat.path,
        "label": heat.label,
        "columns": dump(heat.columns),
        "class_id": heat.class_id,
        "class_name": heat.class_name,
        "model": heat.model,
        "score_kind": heat.score_kind,
        "score": heat.score_kind,
        "patch_height": heat.patch[0],
        "patch_width": heat.patch[1],
        "stride_height": heat.stride[0],
        "stride_width": heat.stride[1],
        "input_height": size[0],
        "input_width": size[1],
        "fill": cells.key.fill,
        "precision": cells.key.precision,
        "clean_score": heat.clean_score,
        "clean_logit": cells.clean_logit,
        "clean_others": cells.clean_others,
        "scores": _plane(heat.scores),
        "importance": _plane(heat.importance),
        "logit": _plane(cells.logit),
        "others": _plane(cells.others.astype(np.float32)),
        "top_class": cells.top_class.tolist(),
        "exact": np.ones(heat.shape, bool).tolist() if cells.exact is None else cells.exact.tolist(),
        "tops": heat.tops.tolist(),
        "lefts": heat.lefts.tolist(),
        "heights": heat.heights.tolist(),
        "widths": heat.widths.tolist(),
        "quality": dump(cells.quality),
        "image_hash": cells.key.image_hash,
        "model_hash": cells.key.model_hash,
        "preprocessing_hash": cells.key.preprocessing_hash,
        "regions": None if cells.listed is None else list(cells.listed.names),
    }


def _plane(values: FloatPlane) -> list[list[float | None]]:
    """Rows of a plane, None where a cell was not computed."""
    return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]


def _file_a_map(result: Result, folder: Path, suffix: str, write: Callable[[Heatmap, Path], None]) -> list[Path]:
    listing = StringIO()
    writer = csv.writer(listing, lineterminator="\n")
    writer.writerow(_LISTED)
    files = []
    for heat, name in zip(result, _names(len(result)), strict=False):
        path = folder / f"{name}_{_word(image_name(heat.image))}_{_word(heat.class_name)}_{heat.patch_text}.{suffix}"
        write(heat, path)
        files.append(path)
        best = heat.top(1)
        writer.writerow(
            (
                path.name,
                heat.path or heat.image,
                heat.label,
                heat.class_id,
                heat.class_name,
                heat.patch_text,
                _pair(heat.stride),
                heat.score_kind,
                heat.clean_score,
                best[0].importance if best else None,
                best[0].exact if best else None,
                heat.quality,
            )
        )
    write_file(folder / "maps.csv", listing.getvalue().encode())
    return [*files, folder / "maps.csv"]


def _names(count: int) -> Iterator[str]:
    """Numbers of one length, so that files sort as the maps do."""
    width = len(str(max(0, count - 1)))
    return (f"{number:0{width}d}" for number in range(count))


def _word(text: str) -> str:
    """Return a name as a part of a file's name."""
    return re.sub(r"[^\w-]+", "_", text)[:60] or "_"


def _pair(pair: tuple[int, int]) -> str:
    return "x".join(map(str, pair))
