"""The numbers of a heat map: scores and importance of its windows, where these lie, and how good they are.

Before: the executor has computed the cells or the store has read them back. After: `heatmap` is what users hold: these
numbers, seen as pixels, lists and pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from obeql.executor.images.placement import Placement
from obeql.executor.images.source_image import SourceImage
from obeql.planner.cells import FloatPlane, MapCells
from obeql.planner.grid import show_on, shown_axes
from obeql.planner.input_kinds import InputKind, kind_of
from obeql.planner.scores import ScoreKind, importance_of, is_constant, other_score, score_of
from obeql.results.quality_text import quality_text

__all__ = ["MapNumbers", "Picture", "read_only_float32"]

#: Where the picture under a map comes from; it is opened only when the map is drawn.
Picture = SourceImage | str | Path | Callable[[], SourceImage] | None


@dataclass(frozen=True, eq=False, repr=False)
class MapNumbers:
    """The numbers of the map of one image, class and patch size, and what they mean; `Heatmap` tells of the fields."""

    cells: MapCells
    score_kind: ScoreKind
    image: str
    class_name: str
    model: str
    stride: tuple[int, ...]
    placement: Placement
    path: str | None = None
    label: str | None = None
    image_id: int | None = None
    run_id: Any = None
    classes: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    picture: Picture = None
    n_axes: int = 2
    channels: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    # -- numbers ------------------------------------------------------------------------------------------------

    @cached_property
    def scores(self) -> FloatPlane:
        """float32 of the grid's `shape`: the class's score with the window hidden; NaN where it was not computed."""
        return self._shaped(read_only_float32(self._scores))

    @cached_property
    def importance(self) -> FloatPlane:
        """float32 of the grid's `shape`: clean score - score; positive is evidence for the class."""
        return self._shaped(read_only_float32(self._importance))

    def _shaped(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a plane of cells or pixels as users see it: that of a signal without its row."""
        return plane[0] if self.n_axes == 1 else plane

    def with_row(self) -> Self:
        """Return the map with planes (rows, cols) in any case, a signal's with one row, as the store has them."""
        return self if self.n_axes > 1 else replace(self, n_axes=2)

    @cached_property
    def _scores(self) -> npt.NDArray[np.float64]:
        return score_of(self.score_kind, self.cells.logit, self.cells.others)

    @cached_property
    def _importance(self) -> npt.NDArray[np.float64]:
        clean = (self.cells.clean_logit, self.cells.clean_others)
        return importance_of(self.score_kind, clean, self.cells.logit, self.cells.others)

    @property
    def clean_score(self) -> float:
        """Return the class's score on the unoccluded image."""
        return float(score_of(self.score_kind, *self._clean))

    @property
    def clean_probability(self) -> float:
        """Return the class's probability on the unoccluded image."""
        return float(score_of("probability", *self._clean))

    @property
    def _clean(self) -> tuple[np.float32, float]:
        """(logit, others) of the unoccluded image, in the precision of the cells."""
        return np.float32(self.cells.clean_logit), self.cells.clean_others

    @property
    def top_class(self) -> npt.NDArray[np.int32]:
        """int32 (rows, cols): the class the model would name with the window hidden; -1 where there is none."""
        if self.score_kind == "value":
            return np.full(self.shape, -1, np.int32)
        return self._shaped(self.cells.top_class)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, cols) of the grid of windows, of signals (windows,), of volumes (planes, rows, cols)."""
        return tuple(self.cells.logit.shape[-self.n_axes :])

    def as_score(self, kind: str) -> Self:
        """Return the same map seen as another score: probability, log_odds, log_probability or logit."""
        return replace(self, score_kind=other_score(self.score_kind, kind))

    # -- where the windows lie ----------------------------------------------------------------------------------

    @property
    def kind(self) -> InputKind:
        """Return what the map is of: a signal, an image or a volume."""
        return kind_of(self.n_axes)

    @property
    def tops(self) -> npt.NDArray[np.int32]:
        """int32 (rows,): first row of each window, in pixels of the model's input."""
        return self.cells.tops

    @property
    def lefts(self) -> npt.NDArray[np.int32]:
        """int32 (cols,): first column of each window."""
        return self.cells.lefts

    @property
    def heights(self) -> npt.NDArray[np.int32]:
        """int32 (rows,): heights of the windows."""
        return self.cells.heights

    @property
    def widths(self) -> npt.NDArray[np.int32]:
        """int32 (cols,): widths of the windows."""
        return self.cells.widths

    @property
    def patch(self) -> tuple[int, ...]:
        """(height, width) of a whole window, of signals (length,); zeros where a query lists windows."""
        return self.cells.key.patch[-self.n_axes :]

    @property
    def patch_text(self) -> str:
        """Return the size of the windows as it is written, `16x16`; `listed` where a query lists them."""
        return show_on(self.placement.model_size, self.cells.key.patch) if self.cells.listed is None else "listed"

    @property
    def windows_text(self) -> str:
        """Return size and stride of the windows, in words; or how many a query lists."""
        channel = f" of {self.channel}" if self.hidden else ""
        if self.cells.listed is not None:
            return f"{self.shape[-1]} listed windows{channel}"
        size = self.placement.model_size
        stride = shown_axes(size, self.stride)
        step = "x".join(map(str, stride)) if len(set(stride)) > 1 else str(stride[0])
        return f"window {self.patch_text} {self.kind.short_unit}{channel}, stride {step}"

    @property
    def channel(self) -> str | None:
        """Return the name of the channel that windows hide, or the names of several; None where they hide all."""
        return ", ".join(self.hidden) if self.hidden else None

    def hides(self, channel: int) -> bool:
        """Return whether windows hide a channel of the model's input, by its number."""
        return self.cells.key.channels is None or channel in self.cells.key.channels

    @property
    def class_id(self) -> int:
        """Index of the class among the model's outputs."""
        return self.cells.class_id

    # -- quality ------------------------------------------------------------------------------------------------

    @property
    def approx(self) -> bool:
        """True when some cells were reconstructed rather than computed."""
        return bool(self.cells.quality.get("approx", False))

    @property
    def metric(self) -> str | None:
        """Return what `bound` bounds: ssim, top10pct, pearson or maxerr; None for an exact map."""
        return self.cells.quality.get("metric")

    @property
    def target(self) -> float | None:
        """Return the quality asked for."""
        return self.cells.quality.get("target")

    @property
    def confidence(self) -> float | None:
        """Return the confidence at which `bound` holds."""
        return self.cells.quality.get("confidence")

    @property
    def bound(self) -> float | None:
        """Lower bound on the quality against the exact map; None for an exact map."""
        return self.cells.quality.get("bound")

    @property
    def n_audit(self) -> int | None:
        """Cells drawn at random to measure the quality."""
        return self.cells.quality.get("n_audit")

    @property
    def seed(self) -> int | None:
        """Seed of every random choice made for this map."""
        return self.cells.quality.get("seed")

    @property
    def share_exact(self) -> float:
        """Share of cells in 0..1 that the network computed in the precision of the statement."""
        return 1.0 if self.cells.exact is None else float(np.mean(self.cells.exact))

    @property
    def share_reduced(self) -> float:
        """Share of cells in 0..1 that the network computed in `reduced_precision`; the others were estimated."""
        return float(self.cells.quality.get("n_reduced", 0)) / self.cells.logit.size

    @property
    def reduced_precision(self) -> str | None:
        """The precision of cells that were computed in a faster one, such as bfloat16; None where there are none."""
        return self.cells.quality.get("reduced_precision") if self.share_reduced else None

    @property
    def quality(self) -> str:
        """Return what is stated of the map, in words: exact, or its bound and how its cells were found."""
        return quality_text(self.cells.quality, self.cells.logit.size, self.n_known)

    @property
    def n_known(self) -> int:
        """Cells that have a value, computed or estimated."""
        return int(np.isfinite(self.cells.logit).sum())

    @property
    def _planes(self) -> tuple[FloatPlane, npt.NDArray[np.float64]]:
        return self.cells.logit, self.cells.others

    @cached_property
    def warning(self) -> str:
        """Return what to know before trusting the map's contrast; empty when there is nothing."""
        scores = self._scores
        if not np.isfinite(scores).any():
            return "no cell was computed"
        if not is_constant(scores):
            return ""
        shown = self.score_kind.replace("_", "-")
        odds = scores if self.score_kind in ("log_odds", "value") else score_of("log_odds", *self._planes)
        if is_constant(odds):
            drop = float(np.nanmean(self._importance))
            if abs(drop) < 1e-6 * max(1.0, abs(self.clean_score)):
                return f"no window changes the {shown}: the map is constant up to rounding"
            return f"every window changes the {shown} by the same {-drop:+.3g}: the map says nothing about places"
        return (
            f"{shown} varies by only {_ptp(scores):.1e} over the map, less than float32 can carry (the network is "
            f"saturated); log_odds varies by {_ptp(odds):.3g}: use score=log_odds"
        )


def read_only_float32(values: npt.NDArray[np.float64]) -> FloatPlane:
    """Return the numbers in float32, read-only: a map is shared by its views."""
    with np.errstate(over="ignore"):
        plane = values.astype(np.float32)
    plane.flags.writeable = False
    return plane


def _ptp(values: npt.NDArray[np.float64]) -> float:
    return float(np.ptp(values[np.isfinite(values)]))
