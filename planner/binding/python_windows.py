"""Windows as Python gives them, `db.explain(.., windows=..)`, as the rows of a table: boxes, masks, data frames.

Part of binding; `windows` checks the rows as it does those of a SELECT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from obeql.errors import QueryTypeError
from obeql.planner.catalog import WindowTable

__all__ = ["table_of"]

_BOX = ("top", "left", "height", "width")
_TAKES = (
    "windows takes boxes (top, left, height, width), rows such as {'name': .., 'top': ..}, {name: mask or box}, a data "
    "frame of such columns, masks, or an array of labels"
)


def table_of(value: Any, size: tuple[int, int]) -> WindowTable:
    """Return the rows of windows; `size` (height, width) of the model's input tells labels and boxes apart.

    Raises QueryTypeError for what is none of these.
    """
    if hasattr(value, "fetchall") and hasattr(value, "columns"):  # a relation of DuckDB
        return WindowTable([str(name).lower() for name in value.columns], value.fetchall())
    if hasattr(value, "to_pylist"):  # a table of Arrow
        return _of_rows(value.to_pylist())
    if hasattr(value, "to_dicts"):  # a data frame of polars
        return _of_rows(value.to_dicts())
    if hasattr(value, "itertuples"):  # a data frame of pandas
        return WindowTable(
            [str(name).lower() for name in value.columns], list(value.itertuples(index=False, name=None))
        )
    if isinstance(value, Mapping):
        return _of_named(value)
    if hasattr(value, "shape"):
        return _of_array(np.asarray(value), size)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        if all(isinstance(item, Mapping) for item in value):
            return _of_rows(value)
        return _of_named({str(number): item for number, item in enumerate(value, start=1)})
    if isinstance(value, Sequence) and not isinstance(value, str):
        return WindowTable(list(_BOX), [])
    raise QueryTypeError(f"{_TAKES}; not {type(value).__name__}.")


def _of_rows(rows: Sequence[Mapping[str, Any]]) -> WindowTable:
    """Return rows that are mappings as a table of all their columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return WindowTable([str(name).lower() for name in columns], [tuple(row.get(c) for c in columns) for row in rows])


def _of_named(named: Mapping[str, Any]) -> WindowTable:
    """Return masks and boxes by their names as rows."""
    rows: list[tuple[Any, ...]] = []
    for name, item in named.items():
        if hasattr(item, "shape") and len(item.shape) == 2:
            rows.append((name, None, None, None, None, np.asarray(item)))
        elif isinstance(item, str):
            rows.append((name, None, None, None, None, item))
        elif isinstance(item, (tuple, list)) and len(item) == 5 and isinstance(item[4], str):
            rows.append((item[4], *item[:4], None))
        elif hasattr(item, "__len__") and len(item) == 4:
            rows.append((name, *item, None))
        else:
            raise QueryTypeError(f"{_TAKES}; {name!r} is {item!r:.40}.")
    masked = any(row[-1] is not None for row in rows)
    return WindowTable(["name", *_BOX, *(("mask",) if masked else ())], rows if masked else [row[:-1] for row in rows])


def _of_array(values: Any, size: tuple[int, int]) -> WindowTable:
    """Return the rows of labels (height, width), a mask each but 0; of boxes (n, 4); of masks (n, height, width)."""
    if values.ndim == 3:
        return _of_named({str(number): mask for number, mask in enumerate(values, start=1)})
    if values.ndim == 2 and values.shape[1] == 4 and values.shape != size:
        return _of_named({str(number): tuple(box) for number, box in enumerate(values.tolist(), start=1)})
    if values.ndim == 2 and values.dtype.kind in "biu":
        return WindowTable(["labels"], [(values,)])
    raise QueryTypeError(f"{_TAKES}; not an array of shape {tuple(values.shape)} and type {values.dtype}.")
