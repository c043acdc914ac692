"""A run as one Parquet file, heatmaps.parquet: a row a map, its planes as nested lists.

A format of `EXPORT RUN .. FORMAT`, named in the table of this package.
"""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from obeql.errors import ImageError
from obeql.export.provenance import as_json, of_run
from obeql.planner.cells import FloatPlane
from obeql.results.heatmap import Heatmap
from obeql.store.codec import dump

if TYPE_CHECKING:
    from obeql.results.result import Result

__all__ = ["write_parquet"]

#: Maps that are written at once.
_GROUP = 64

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
        ("channel", pa.string()),
        ("shape", _AXIS),
        ("patch_depth", pa.int32()),
        ("stride_depth", pa.int32()),
        ("input_depth", pa.int32()),
        ("fronts", _AXIS),
        ("depths", _AXIS),
    ]
)


def write_parquet(result: Result, folder: Path) -> list[Path]:
    """Write the file and return it; a cell that was not computed is NULL. Raises ImageError where the disk refuses."""
    from pyarrow import parquet  # noqa: PLC0415

    path = folder / "heatmaps.parquet"
    schema = _SCHEMA.with_metadata({"obeql": as_json(of_run(result))})
    try:
        with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            heats = iter(result)
            while rows := [_row(heat, result.run_name) for heat in islice(heats, _GROUP)]:
                writer.write_table(pa.Table.from_pylist(rows, schema))
    except OSError as error:
        raise ImageError(f"cannot write '{path}': {error.strerror or error}") from None
    return [path]


def _row(heat: Heatmap, run_name: str | None) -> dict[str, Any]:
    shape, is_deep = heat.shape, heat.n_axes > 2
    heat = heat.with_row()  # a signal's planes have one row, as in the database
    cells, size = heat.cells, heat.placement.model_size
    exact = np.ones(heat.shape, bool) if cells.exact is None else cells.exact
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
        "patch_height": heat.patch[-2],
        "patch_width": heat.patch[-1],
        "stride_height": heat.stride[-2],
        "stride_width": heat.stride[-1],
        "input_height": size[-2],
        "input_width": size[-1],
        "fill": cells.key.fill,
        "precision": cells.key.precision,
        "clean_score": heat.clean_score,
        "clean_logit": cells.clean_logit,
        "clean_others": cells.clean_others,
        "scores": _plane(heat.scores),
        "importance": _plane(heat.importance),
        "logit": _plane(cells.logit),
        "others": _plane(cells.others.astype(np.float32)),
        "top_class": _lines(cells.top_class).tolist(),
        "exact": _lines(exact).tolist(),
        "tops": heat.tops.tolist(),
        "lefts": heat.lefts.tolist(),
        "heights": heat.heights.tolist(),
        "widths": heat.widths.tolist(),
        "quality": dump(cells.quality),
        "image_hash": cells.key.image_hash,
        "model_hash": cells.key.model_hash,
        "preprocessing_hash": cells.key.preprocessing_hash,
        "regions": None if cells.listed is None else list(cells.listed.names),
        "channel": heat.channel,
        "shape": list(shape),
        "patch_depth": heat.patch[0] if is_deep else None,
        "stride_depth": heat.stride[0] if is_deep else None,
        "input_depth": size[0] if is_deep else None,
        "fronts": cells.starts[0].tolist() if is_deep else None,
        "depths": cells.lengths[0].tolist() if is_deep else None,
    }


def _lines(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a plane (rows, columns); of a volume's map lines along the last axis, as in the database."""
    return values.reshape(-1, values.shape[-1])


def _plane(values: FloatPlane) -> list[list[float | None]]:
    """Return the rows of a plane, None where a cell was not computed."""
    return [[None if math.isnan(value) else value for value in row] for row in _lines(values).tolist()]
