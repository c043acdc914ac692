"""A run as a file a map, and maps.csv that says which file shows which map.

Two formats of `EXPORT RUN .. FORMAT`, and what other formats of a file a map are written with.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from obeql.export.registry import save_map
from obeql.planner.binding.image_paths import image_name
from obeql.results.heatmap import Heatmap, write_file

if TYPE_CHECKING:
    from obeql.results.result import Result

__all__ = ["write_arrays", "write_map_files", "write_pictures"]

_LISTED = (
    "file",
    "image",
    "label",
    "class_id",
    "class_name",
    "patch",
    "channel",
    "stride",
    "score",
    "clean_score",
    "max_importance",
    "max_is_exact",
    "quality",
)


def write_arrays(result: Result, folder: Path) -> list[Path]:
    """Write all numbers of each map for numpy, and the list; return the files."""
    return write_map_files(result, folder, "npz", lambda heat, path: save_map(heat, path, {}, result))


def write_pictures(result: Result, folder: Path) -> list[Path]:
    """Draw each map over its image, and write the list; return the files."""
    return write_map_files(result, folder, "png", lambda heat, path: save_map(heat, path, {}, result))


def write_map_files(result: Result, folder: Path, suffix: str, write: Callable[[Heatmap, Path], None]) -> list[Path]:
    """Write each map by `write` into a file of this suffix, named by number, image, class and patch; then the list."""
    listing = StringIO()
    writer = csv.writer(listing, lineterminator="\n")
    writer.writerow(_LISTED)
    files = []
    for heat, name in zip(result, _names(len(result)), strict=False):
        channel = f"_{_word(heat.channel)}" if heat.channel else ""
        path = (
            folder
            / f"{name}_{_word(image_name(heat.image))}_{_word(heat.class_name)}_{heat.patch_text}{channel}.{suffix}"
        )
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
                heat.channel,
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
    """Return the numbers of one length, so that files sort as the maps do."""
    width = len(str(max(0, count - 1)))
    return (f"{number:0{width}d}" for number in range(count))


def _word(text: str) -> str:
    """Return a name as a part of a file's name."""
    return re.sub(r"[^\w-]+", "_", text)[:60] or "_"


def _pair(pair: tuple[int, ...]) -> str:
    return "x".join(map(str, pair))
