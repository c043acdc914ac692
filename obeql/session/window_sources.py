"""What windows are read from beside Python: the rows of a SELECT, and pictures of masks and labels.

The part of the catalog that lists windows; binding checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from obeql.errors import ImageError, QueryTypeError, UnsupportedError, install
from obeql.planner.catalog import WindowTable
from obeql.session.sql_errors import said_and_offset

if TYPE_CHECKING:
    import numpy.typing as npt

    from obeql.executor.images import SourceImage
    from obeql.planner.catalog import Preprocessing
    from obeql.session.image_registry import ImageRegistry
    from obeql.store import Store

__all__ = ["label_picture", "segments_of", "windows_selected"]


def windows_selected(
    store: Store, image_registry: ImageRegistry, sql: str, parameters: Mapping[str, Any]
) -> WindowTable:
    """Return the rows of a SELECT. Raises QueryTypeError, with the offset into it, where DuckDB refuses it."""

    try:
        return WindowTable(*image_registry.rows(sql, parameters))
    except duckdb.Error as error:
        said, offset = said_and_offset(error, sql, store.ask)
        raise QueryTypeError(f"The SELECT that lists the windows fails: {said}", offset=offset) from error


def label_picture(path: str) -> npt.NDArray[Any]:
    """Return the values of a picture of labels or of a mask (height, width); colors as numbers 0xRRGGBB.

    Raises ImageError where it cannot be read.
    """
    from PIL import Image  # noqa: PLC0415

    if Path(path).suffix.lower() == ".npy":
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise ImageError(f"'{path}' cannot be read as a mask: {error}") from None
    try:
        with Image.open(path) as picture:
            plain = picture if picture.mode in ("1", "L", "P", "I", "I;16", "F") else picture.convert("RGB")
            values = np.array(plain)
    except FileNotFoundError:
        raise ImageError(f"there is no mask '{path}'") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"'{path}' cannot be read as a mask: {str(error).splitlines()[0]}") from None
    if values.ndim == 3:
        return np.asarray(values.astype(np.int64) @ np.array([65536, 256, 1]))
    return values


def segments_of(image: SourceImage, call: str, how: Preprocessing) -> npt.NDArray[Any]:
    """Return the segments of an image as the model sees it, (height, width): labels from 1 on.

    `call` is `slic(n)`: SLIC of scikit-image with about n segments (Achanta et al., PAMI 2012). Raises UnsupportedError
    where scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic  # noqa: PLC0415
    except ImportError:
        raise UnsupportedError(f"segments={call} needs scikit-image; {install('segments')}") from None
    from obeql.executor.images.preprocess import preprocess  # noqa: PLC0415

    n_segments = int(call.removeprefix("slic(").removesuffix(")"))
    seen = preprocess(image, how).pixels
    return np.asarray(slic(seen, n_segments=n_segments, start_label=1, channel_axis=-1))
