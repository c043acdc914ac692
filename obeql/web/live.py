"""What a browser is told of a statement that runs: `Progress` becomes a few facts, and the map so far becomes bytes.

Called by `worker` between batches, in its thread; `events` and `app` read what was made. Copying the cells costs the
run a little, so a map is taken at most ten times a second, and always when a level of refinement is done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.drawing.slices import plane_so_far
from obeql.planner.regions import RegionGrid
from obeql.results.pixel_map import mean_over_regions
from obeql.results.quality_text import quality_text
from obeql.web.map_frames import frame, pixel_axes

if TYPE_CHECKING:
    from obeql.executor.execution.progress import Progress

__all__ = ["LiveView"]

_EVERY_S = 0.1


@dataclass(slots=True)
class LiveView:
    """The latest of a statement; `facts` are JSON, `map` a frame of `map_frames`, or None before the first batch."""

    facts: dict[str, Any]
    map: bytes | None = None
    #: counts the maps taken, so that a browser fetches none twice
    map_version: int = 0
    #: the model's input of an image at work, which a map of a set lies over: its number, and RGB (H, W, 3) in 0..1
    picture: tuple[int, npt.NDArray[np.float32]] | None = None
    _taken_at: float = 0.0

    def take(self, progress: Progress) -> None:
        """Take over what a statement says of itself."""
        self.facts = {
            "done": progress.done,
            "total": progress.total,
            "unit": progress.unit,
            "reused": progress.reused,
            "image": progress.image,
            "n_images": progress.n_images,
            "shown": progress.shown,
            "phase": progress.phase,
            "seconds": round(progress.seconds, 3),
            "seconds_left": None if progress.phase else round(progress.eta_seconds, 2),
            "rate": round(progress.rate, 1),
            "level": progress.level,
            "bound": progress.bound if progress.bound is not None else self.facts.get("bound"),
            "stated": self.facts.get("stated", ""),
            "map_version": self.map_version,
        }
        now = time.perf_counter()
        at_level = bool(progress.partial)  # or a first picture, of guesses
        if progress.preview is None or not (at_level or now - self._taken_at >= _EVERY_S):
            return
        if self.facts["stated"] and not at_level:
            return  # between levels the last one stands, with its bound
        self._taken_at = now
        self._take_map(progress, at_level)

    def _take_map(self, progress: Progress, at_level: bool) -> None:
        preview = progress.preview
        assert preview is not None
        if preview.picture is not None and (self.picture is None or self.picture[0] != progress.image):
            self.picture = progress.image, preview.picture()
        importance, exact, quality = preview.importance(), None, None
        if at_level:
            cells = progress.partial[0]
            exact, quality = cells.exact, cells.quality
            self.facts["stated"] = quality_text(cells.quality, cells.logit.size)
            if (bound := cells.quality.get("bound")) is not None:
                self.facts["bound"] = bound
        importance, exact, grid = plane_so_far(importance, exact, preview.grid)
        rows, cols = grid.rows, grid.cols
        axes: dict[str, Any] = {
            "tops": rows.starts, "lefts": cols.starts, "heights": rows.lengths, "widths": cols.lengths
        }  # fmt: skip
        if isinstance(grid, RegionGrid):  # which lie on no grid: each pixel is a cell
            size = rows.size, cols.size
            placed = [(np.array(axis.starts, np.int32), np.array(axis.lengths, np.int32)) for axis in (rows, cols)]
            values = np.asarray(importance[0], np.float64)
            pixels = mean_over_regions(values, placed, grid.listed, size)
            importance, axes = pixels.astype(np.float32), pixel_axes(size)
            exact = None
        self.map_version += 1
        self.facts["map_version"] = self.map_version
        about = {
            "live": True,
            "version": self.map_version,
            "image": progress.shown,
            "class_name": preview.class_name,
            "score_kind": preview.score_kind,
            "model_size": [grid.rows.size, grid.cols.size],
            "patch": grid.patch,
            "stride": grid.stride,
            **axes,
            "quality": self.facts["stated"],
            "bound": None if quality is None else quality.get("bound"),
            "confidence": None if quality is None else quality.get("confidence"),
            "metric": None if quality is None else quality.get("metric"),
        }
        planes = {"importance": np.asarray(importance, np.float32)}
        if exact is not None:
            planes["exact"] = np.asarray(exact, np.uint8)
        self.map = frame(about, planes)
