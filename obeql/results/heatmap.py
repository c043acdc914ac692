"""A heat map: how the score of one class changes with every window of one image hidden.

Comes after the executor has computed the cells or the store has read them back; `overlay` draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from obeql.errors import ImageError, QueryTypeError
from obeql.executor.images.decode import SourceImage, decode_file
from obeql.executor.images.placement import Placement
from obeql.planner.cells import FloatPlane, MapCells
from obeql.planner.grid import show_on, shown_axes
from obeql.planner.scores import ScoreKind, importance_of, is_constant, other_score, score_of
from obeql.results import late
from obeql.results.pixel_map import mean_over_regions, mean_over_windows, on_source
from obeql.results.quality_text import importance_text, n_asked, quality_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from obeql.drawing.colors import Sign

__all__ = ["Cell", "Heatmap", "Picture", "write_file"]

#: Most important cells that are listed of a map that asks for no number of them.
_N_LISTED = 5

#: Where the picture under a map comes from; it is opened only when the map is drawn.
Picture = SourceImage | str | Path | Callable[[], SourceImage] | None


@dataclass(frozen=True, slots=True)
class Cell:
    """One window: its place on the grid, its box in pixels of the model's input, and what hiding it does.

    Where it is not `exact`, the network did not compute it in the precision of the statement: it is estimated.
    A window of a signal lies in row 0, one pixel high: `left` is its first sample, `width` how many it has.
    """

    row: int
    col: int
    top: int
    left: int
    height: int
    width: int
    score: float
    importance: float
    top_class: int
    exact: bool
    #: of windows that a query listed, what it called this one, and which pixels of its box it hides; None: all of them
    name: str | None = None
    mask: npt.NDArray[np.bool_] | None = None
    #: axes of the model's input: 1 of signals, 2 of images
    n_axes: int = 2

    @property
    def place_text(self) -> str:
        """Return what lists call the window: its place on the grid, or the name that a query gave it."""
        place = f"{self.row}, {self.col}" if self.n_axes > 1 else str(self.col)
        return place if self.name is None else self.name

    @property
    def box_text(self) -> str:
        """Return the window's box as lists show it: top, left, height, width, or of signals start, length."""
        box = f"{self.left}, {self.width}"
        return box if self.n_axes == 1 else f"{self.top}, {self.left}, {self.height}, {self.width}"

    @property
    def importance_text(self) -> str:
        """Return the importance as lists show it, marked with `~` where it is estimated."""
        return importance_text(self.importance, self.exact)


@dataclass(frozen=True, eq=False, repr=False)
class Heatmap:
    """The map of one image, class and patch size.

    `image` is the image's name in titles, `class_name` the class asked about, `classes` the names of all classes
    (may be empty), `stride` (rows, cols) in pixels, `columns` what the SELECT that named the image passed along.
    `n_axes` counts the axes of the model's input: 1 of a signal, whose map has one number a window, and 2 of an image.
    `channels` are the names of a signal's channels.
    """

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

    # -- numbers ------------------------------------------------------------------------------------------------

    @cached_property
    def scores(self) -> FloatPlane:
        """float32 (rows, cols), of signals (windows,): the class's score with the window hidden; NaN: not computed."""
        return self._shaped(_fixed(self._scores))

    @cached_property
    def importance(self) -> FloatPlane:
        """float32 (rows, cols), of signals (windows,): clean score - score; positive is evidence for the class."""
        return self._shaped(_fixed(self._importance))

    def _shaped(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a plane of cells or pixels as users see it: that of a signal without its row."""
        return plane[0] if self.n_axes == 1 else plane

    def with_row(self) -> Heatmap:
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
        """(rows, cols) of the grid of windows, of signals (windows,)."""
        return tuple(self.cells.logit.shape[-self.n_axes :])

    def as_score(self, kind: str) -> Heatmap:
        """Return the same map seen as another score: probability, log_odds, log_probability or logit."""
        return replace(self, score_kind=other_score(self.score_kind, kind))

    # -- where the windows lie ----------------------------------------------------------------------------------

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
        if self.cells.listed is not None:
            return f"{self.shape[-1]} listed windows"
        size = self.placement.model_size
        stride = shown_axes(size, self.stride)
        step = "x".join(map(str, stride)) if len(set(stride)) > 1 else str(stride[0])
        return f"window {self.patch_text} {'px' if size[0] > 1 else 'samples'}, stride {step}"

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

    # -- views --------------------------------------------------------------------------------------------------

    def to_pixels(self, size: Literal["model", "source"] = "model") -> FloatPlane:
        """Return float32 (H, W): for each pixel the plain mean of the importance of the windows that cover it.

        Of signals (length,), a number a sample.
        `model` is the model's input; `source` repeats each of its pixels over the source pixels whose centres fall
        into it. NaN where no computed window covers a pixel, and outside the model's crop of the source.
        """
        if size not in ("model", "source"):
            raise QueryTypeError(f"size {size!r} is unknown; allowed are 'model' and 'source'")
        if size == "model":
            return self._shaped(self._pixels)
        return self._shaped(on_source(self._pixels, self.placement))

    @cached_property
    def _pixels(self) -> FloatPlane:
        cells = self.cells
        rows, cols = (cells.tops, cells.heights), (cells.lefts, cells.widths)
        if cells.listed is not None:
            size = self.placement.model_size
            return _fixed(mean_over_regions(self._importance[0], rows, cols, cells.listed, size))
        return _fixed(mean_over_windows(self._importance, rows, cols, self.placement.model_size))

    def cell(self, *place: int) -> Cell:
        """Return the window at a place on the grid: row and column, of signals its number alone."""
        if len(place) != self.n_axes:
            raise QueryTypeError(f"cell{place}: a window of this map has {self.n_axes} numbers")
        row, col = (0, *place)[-2:]
        cells = self.cells
        listed = cells.listed
        down = row if listed is None else col
        return Cell(
            row=row,
            col=col,
            top=int(cells.tops[down]),
            left=int(cells.lefts[col]),
            height=int(cells.heights[down]),
            width=int(cells.widths[col]),
            score=float(self._scores[row, col]),
            importance=float(self._importance[row, col]),
            top_class=int(self.top_class[place]),
            exact=cells.exact is None or bool(cells.exact[row, col]),
            name=None if listed is None else listed.names[col],
            mask=None if listed is None else listed.mask(col),
            n_axes=self.n_axes,
        )

    def _cell_number(self, index: int) -> Cell:
        """Return a window by its number in row-major order."""
        return self.cell(*(int(at) for at in np.unravel_index(index, self.shape)))

    @property
    def regions(self) -> tuple[Cell, ...]:
        """Return the windows that the statement listed (WINDOWS), in its order; none of a map on a grid."""
        return () if self.cells.listed is None else tuple(self._cell_number(col) for col in range(self.shape[-1]))

    @property
    def n_listed(self) -> int:
        """Most important cells that lists show: those that TOP k CELLS asked for, 5 otherwise."""
        return n_asked(self.cells.quality) or _N_LISTED

    def top(self, k: int | None = None) -> list[Cell]:
        """Return the `k` cells of largest importance, ties in row-major order; `n_listed` of them without a number.

        Of an approximate map some may be estimates (`Cell.exact` is False). Cells without a value never appear.
        """
        k = self.n_listed if k is None else k
        if k < 1:
            raise QueryTypeError(f"top({k}): ask for at least one cell")
        flat = self._importance.ravel()
        order = np.argsort(-flat, kind="stable")
        order = order[np.isfinite(flat[order])][:k]
        return [self._cell_number(int(index)) for index in order]

    # -- pictures -----------------------------------------------------------------------------------------------

    def source(self) -> SourceImage:
        """Open the picture; raises ImageError when it is gone or is no longer the image that was explained."""
        picture = self.picture if self.picture is not None else self.path
        if picture is None:
            raise ImageError(f"the picture of '{self.image}' was handed over from Python and is not stored")
        if isinstance(picture, (str, Path)):
            picture = decode_file(picture)
        elif not isinstance(picture, SourceImage):
            picture = picture()
        if picture.digest != self.cells.key.image_hash:
            raise ImageError(f"'{self.image}' is no longer the image that was explained: its pixels have changed")
        return picture

    def plot(
        self,
        ax: Axes | None = None,
        *,
        limit: float | None = None,
        alpha: float | None = None,
        cmap: Any = None,
        sign: Sign = "all",
        colorbar: bool = True,
        beside: bool = False,
        smooth: bool = True,
        outline: bool = True,
        title: str | None = None,
    ) -> Axes:
        """Draw the map over its image, in `ax` or a new figure (`.figure` of what is returned), and return the axes.

        Axes are pixels of the source image. Red is evidence for the class, blue against it; what no computed window
        covers is hatched. Notebooks show a new figure at the end of the cell.

        - `limit`: where the scale ends, in the map's score; default the largest |importance| of a window. Give one
          number to compare maps.
        - `alpha`: opacity at the ends of the scale, in 0..1, default 0.75; it grows with |importance|.
        - `cmap`: a colormap of matplotlib, by name or itself, in place of blue to red.
        - `sign`: "all", or only "positive" evidence for the class, only "negative", or "absolute", |importance|. The
          scale then begins or ends at zero.
        - `colorbar`: whether the scale stands beside the map.
        - `beside`: adds the bare image to the left, in new figures.
        - `smooth`: interpolates between windows.
        - `outline`: frames the most important window, dashed where it is estimated, and draws one window to scale.
        - `title`: in place of image and class.

        Raises QueryTypeError for a value that none of these takes.
        """
        return late.draw_map(
            self,
            ax,
            limit=limit,
            alpha=alpha,
            cmap=cmap,
            sign=sign,
            colorbar=colorbar,
            beside=beside,
            smooth=smooth,
            outline=outline,
            title=title,
        )

    def save(self, path: str | Path, **options: Any) -> None:
        """Write a picture (.png, .jpg, .pdf, .svg), a film (.gif, .apng), a report (.html), or numbers (.npy, .npz).

        Pictures take the options of `plot` and `dpi` (150), films those of `animate`, reports those of
        `Result.report`. `.npy` is the importance, `.npz` all numbers: float32 (rows, cols) planes, the int32 axes of
        windows and the names; `np.load(path, allow_pickle=False)` reads them. Raises QueryTypeError for another suffix
        or option, ImageError where the file cannot be written.
        """
        late.save_map(self, path, options)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the importance (rows, cols), for `np.asarray(heat)`."""
        return np.array(self.importance, dtype, copy=copy)

    def compare(self, other: Heatmap, **options: Any) -> Figure:
        """Draw this map and another on one scale, with their difference, and return the figure.

        `limit`, `alpha`, `cmap` and `sign` are those of `plot`. Raises QueryTypeError for two different scores.
        """
        return late.draw_two(self, other, **options)

    def animate(self, path: str | Path, **options: Any) -> None:
        """Write a film of the sliding window (.gif, .apng), for teaching.

        `seconds` (8) is how long it takes, `n_frames` (80) how many windows it shows, `panel_px` (300) the longer side
        of a panel; `limit`, `alpha`, `cmap` and `sign` are those of `plot`.
        """
        path = Path(path)
        write_file(path, late.film_bytes(self, path.suffix.lower(), **options))

    def arrays(self) -> dict[str, Any]:
        """Return all numbers and names of the map as arrays, as `.npz` files hold them."""
        cells = self.cells
        arrays: dict[str, Any] = {
            "scores": self.scores,
            "importance": self.importance,
            "logit": self._shaped(cells.logit),
            "others": self._shaped(cells.others),
            "top_class": self.top_class,
            "exact": np.ones(self.shape, bool) if cells.exact is None else self._shaped(cells.exact),
            "tops": cells.tops,
            "lefts": cells.lefts,
            "heights": cells.heights,
            "widths": cells.widths,
            "clean_score": self.clean_score,
            "score_kind": self.score_kind,
            "class_id": self.class_id,
            "class_name": self.class_name,
            "image": self.image,
            "model": self.model,
            "patch": self.patch,
            "stride": self.stride,
        }
        return {name: np.asarray(value) for name, value in arrays.items()}

    def _repr_png_(self) -> bytes:
        return late.map_png(self, 100)

    def __repr__(self) -> str:
        cells = f"{' x '.join(map(str, self.shape))} cells"
        ends = [self._end(np.argmin), self._end(np.argmax)]
        span = f"importance {ends[0]} .. {ends[1]}" if all(ends) else "no cell computed"
        quality = f", {self.quality}" if self.approx else ""
        return (
            f"<Heatmap {Path(self.image).name}, {self.class_name}: {cells}, "
            f"clean {self.score_kind} {self.clean_score:.4g}, {span}{quality}>"
        )

    def _end(self, which: Callable[[Any], np.intp]) -> str:
        """Return the least or largest importance, marked where it is estimated; empty where there is none."""
        known = np.isfinite(self._importance)
        if not known.any():
            return ""
        index = np.flatnonzero(known)[which(self._importance[known])]
        cell = self._cell_number(int(index))
        return importance_text(cell.importance, cell.exact, 3)


def write_file(path: Path, content: bytes) -> None:
    """Write a finished file; raises ImageError when the folder does not exist or may not be written."""
    if not path.parent.is_dir():
        raise ImageError(f"cannot write '{path}': there is no folder '{path.parent}'")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ImageError(f"cannot write '{path}': {error.strerror or error}") from None


def _fixed(values: npt.NDArray[np.float64]) -> FloatPlane:
    """float32, read-only: a map is shared by its views."""
    with np.errstate(over="ignore"):
        plane = values.astype(np.float32)
    plane.flags.writeable = False
    return plane


def _ptp(values: npt.NDArray[np.float64]) -> float:
    return float(np.ptp(values[np.isfinite(values)]))
