"""A run as a dataset of FiftyOne: a sample an image, with a Heatmap label for each of its maps.

A format of `EXPORT RUN .. FORMAT`, named in the table of this package. The folder has the layout that
`fiftyone.Dataset.from_dir(.., dataset_type=fo.types.FiftyOneDataset)` reads: metadata.json, samples.json, a folder of
maps for each label under fields/, and under data/ the pictures that are no files which a browser shows. FiftyOne itself
is not needed to write it.
"""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from obeql.errors import ImageError
from obeql.export.provenance import as_json, of_map, of_run
from obeql.results.heatmap import Heatmap, write_file

if TYPE_CHECKING:
    from obeql.results.result import Result

__all__ = ["write_fiftyone"]

#: Files that are shown as they are; others are written as PNG.
_SHOWN = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
#: What a map's brightest pixel is stored as.
_FULL = 255


def write_fiftyone(result: Result, folder: Path) -> list[Path]:
    """Write the dataset; return the files. One that this wrote before is replaced.

    Raises ImageError where the folder holds another dataset, or an image's picture is gone.
    """
    info = {"obeql": of_run(result)}
    _require_own(folder)
    samples: dict[Any, dict[str, Any]] = {}
    numbers: dict[Any, int] = {}
    files: list[Path] = []
    for heat in result:
        key = (heat.path or heat.image, heat.cells.key.image_hash)
        number = numbers.setdefault(key, len(numbers))
        if key not in samples:
            samples[key] = _sample(heat, _picture(heat, folder, number, files))
        for field, sign in ((_field(heat), 1), (f"{_field(heat)}_against", -1)):
            values = np.nan_to_num(sign * heat.to_pixels("source"), nan=0.0).clip(min=0)
            if sign > 0 or values.any():
                path = folder / "fields" / field / f"{number:06d}.png"
                samples[key][field] = _label(heat, result, path.relative_to(folder), float(values.max()), sign)
                files.append(_write_gray(path, values))
    metadata = {"name": str(result.run_name or f"run {result.run_id}"), "media_type": "image", "info": info}
    for name, content in (("samples.json", {"samples": list(samples.values())}), ("metadata.json", metadata)):
        write_file(folder / name, json.dumps(content, ensure_ascii=False).encode())
        files.append(folder / name)
    return files


def _require_own(folder: Path) -> None:
    """Raise ImageError where a folder holds a dataset that is not of OBEQL."""
    if not any((folder / name).exists() for name in ("samples.json", "metadata.json")):
        return
    try:
        own = "obeql" in json.loads((folder / "metadata.json").read_bytes())["info"]
    except (OSError, ValueError, KeyError, TypeError):
        own = False
    if not own:
        raise ImageError(f"'{folder}' holds another dataset (samples.json, metadata.json): name a new folder.")


def _picture(heat: Heatmap, folder: Path, number: int, files: list[Path]) -> str:
    """Return where an image's picture is; written beside the maps where it is no file, or none that browsers show."""
    if heat.path is not None and Path(heat.path).suffix.lower() in _SHOWN and Path(heat.path).is_file():
        return str(Path(heat.path).resolve())
    pixels = heat.source().pixels
    bytes_ = pixels if pixels.dtype == np.uint8 else np.round(255 * pixels.clip(0, 1)).astype(np.uint8)
    path = folder / "data" / f"{number:06d}.png"
    files.append(_write_png(path, Image.fromarray(bytes_)))
    return path.relative_to(folder).as_posix()


def _sample(heat: Heatmap, picture: str) -> dict[str, Any]:
    sample: dict[str, Any] = {"filepath": picture, "tags": [], "image": heat.image}
    if heat.label is not None:
        sample["ground_truth"] = {"_cls": "Classification", "label": str(heat.label)}
    return sample


def _field(heat: Heatmap) -> str:
    """Return the name of a map's field: the same for all images, and of letters, digits and underscores."""
    words = f"class_{heat.class_id}_{heat.class_name}_{heat.patch_text}_{heat.channel or ''}"
    return re.sub(r"\W+", "_", words, flags=re.ASCII).strip("_")[:80]


def _label(heat: Heatmap, result: Result, path: Path, limit: float, sign: int) -> dict[str, Any]:
    """Return a Heatmap whose range is that of its file; `limit` is the importance that 255 stands for."""
    return {
        "_cls": "Heatmap",
        "tags": [],
        "map_path": path.as_posix(),
        "range": [0, _FULL],
        "limit": sign * limit,
        "class_name": heat.class_name,
        "score": heat.score_kind,
        "clean_score": heat.clean_score,
        "quality": heat.quality,
        "provenance": as_json(of_map(heat, result)),
    }


def _write_gray(path: Path, values: npt.NDArray[np.floating]) -> Path:
    """Write a map of importance from 0 on as 8-bit gray, its largest value white."""
    limit = float(values.max())
    scaled = np.round(_FULL * values / limit) if limit > 0 else np.zeros_like(values)
    return _write_png(path, Image.fromarray(scaled.astype(np.uint8)))


def _write_png(path: Path, image: Image.Image) -> Path:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot write into '{path.parent}': {error.strerror or error}") from None
    write_file(path, buffer.getvalue())
    return path
