"""A coarse histogram of each map: how many cells of each region reach each edge, for bounds without reading planes.

Before it: rows of the table `maps`. After it: the table `histogram_rows`, which the module of that name keeps
current, the view `coarse_maps`, and the macros of macros.sql that bound a count before they verify it. This is the
cumulative histogram index (CHI) of MaskSearch (He et al., ICDE 2024).

A region is 64 cells, 8 x 8 where the map has as many rows, so that a count fits into a byte and the histogram takes the
same share of every map: 17 bytes beside the 64 x 13 of planes. Edges are log-odds, the unit in which maps of whatever
network and score compare, at numbers that people ask for: there a count is known without a cell being read. What other
scores ask for lies between two edges, as does any other number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["EDGES", "REGION_CELLS", "REGION_ROWS", "histogram_batch", "histograms_of"]

#: Importances in log-odds, ascending. Of the first every cell that has a value counts. The last is above all others as
#: numpy and SQL order NaN: no number reaches it.
EDGES: Final = np.array(
    [-np.inf, -1, -0.2, 0, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 10, np.inf, np.nan], np.float32
)
#: A region has so many rows, or those of the map where it has fewer, ..
REGION_ROWS: Final = 8
#: .. and so many cells.
REGION_CELLS: Final = 64
_TYPE = pa.list_(pa.list_(pa.uint8()))


def histograms_of(maps: pa.Table) -> pa.Array:
    """Return the histogram of each map of a table that has clean_log_odds, n_rows, n_cols and log_odds."""
    found = [counts for batch in maps.to_batches() for counts in _of_batch(batch)]
    if not found:
        return pa.array([], _TYPE)
    flat = pa.array(np.concatenate([counts.ravel() for counts in found]))
    ends = np.cumsum([0, *(counts.shape[1] for counts in found for _ in EDGES)], dtype=np.int32)
    of_maps = np.arange(len(found) + 1, dtype=np.int32) * len(EDGES)
    return pa.ListArray.from_arrays(of_maps, pa.ListArray.from_arrays(ends, flat))


def histogram_batch(map_ids: Sequence[int], counts: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the rows of the table `histogram_rows`."""
    return pa.table({"map_id": pa.array(map_ids, pa.int64()), "counts": counts})


def _of_batch(batch: pa.RecordBatch) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield (edges, regions) counts of each map."""
    flat = batch["log_odds"].flatten().flatten()
    shapes = list(zip(batch["n_rows"].to_pylist(), batch["n_cols"].to_pylist(), strict=True))
    sizes = [rows * cols for rows, cols in shapes]
    clean = np.repeat(batch["clean_log_odds"].to_numpy(zero_copy_only=False).astype(np.float32), sizes)
    with np.errstate(invalid="ignore"):
        # As SQL has it, in float32. NaN of infinite outputs is above all numbers here and there.
        importance = clean - flat.to_numpy(zero_copy_only=False)
    bins = np.searchsorted(EDGES, importance, side="right") - 1
    missing = flat.is_null().to_numpy(zero_copy_only=False) if flat.null_count else None
    start = 0
    for shape, size in zip(shapes, sizes, strict=True):
        region, n_regions = _regions(*shape)
        place = region + bins[start : start + size]
        if missing is not None:
            place = place[~missing[start : start + size]]
        start += size
        found = np.bincount(place, minlength=n_regions * len(EDGES)).reshape(n_regions, len(EDGES))
        yield np.asarray(found[:, ::-1].cumsum(1)[:, ::-1].T, np.uint8)


@lru_cache(maxsize=64)
def _regions(n_rows: int, n_cols: int) -> tuple[npt.NDArray[np.int64], int]:
    """Return where the bins of each cell's region begin, row by row, and the number of regions."""
    height = max(1, min(REGION_ROWS, n_rows))
    width = REGION_CELLS // height
    across = -(-n_cols // width)
    region = (np.arange(n_rows) // height * across)[:, None] + np.arange(n_cols) // width
    return region.ravel() * len(EDGES), -(-n_rows // height) * across
