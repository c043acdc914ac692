"""A heat map: how the score of one class changes with every window of one image hidden.

Comes after the executor has computed the cells or the store has read them back; `overlay` draws it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from obeql.errors import ImageError, QueryTypeError
from obeql.executor.images.decode import decode_file
from obeql.executor.images.source_image import SourceImage
from obeql.planner.cells import FloatPlane
from obeql.results import late
from obeql.results.cell import Cell
from obeql.results.map_numbers import MapNumbers, Picture, read_only_float32
from obeql.results.pixel_map import mean_over_regions, mean_over_windows, on_source
from obeql.results.quality_text import importance_text, n_asked
from obeql.results.written_file import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from obeql.drawing.colors import Sign

__all__ = ["Cell", "Heatmap", "Picture", "write_file"]

#: Most important cells that are listed of a map that asks for no number of them.
_N_LISTED = 5


@dataclass(frozen=True, eq=False, repr=False)
class Heatmap(MapNumbers):
    """The map of one image, class and patch size: its numbers, its pixels, its windows and its pictures.

    `image` is the image's name in titles, `class_name` the class asked about, `classes` the names of all classes
    (may be empty), `stride` (rows, cols) in pixels, `columns` what the SELECT that named the image passed along.
    `n_axes` counts the axes of the model's input: 1 of a signal, whose map has one number a window, 2 of an image and 3
    of a volume. `channels` are the names of the channels of what is no image, `hidden` of those that windows hide,
    where they do not hide all.
    """

    def to_pixels(self, size: Literal["model", "source"] = "model") -> FloatPlane:
        """Return float32 (H, W): for each pixel the plain mean of the importance of the windows that cover it.

        Of signals (length,), a number a sample; of volumes (depth, height, width).
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
        axes = tuple(zip(cells.starts, cells.lengths, strict=True))
        if cells.listed is not None:
            size = self.placement.model_size
            return read_only_float32(mean_over_regions(self._importance[0], axes, cells.listed, size))
        return read_only_float32(mean_over_windows(self._importance, axes, self.placement.model_size))

    def cell(self, *place: int) -> Cell:
        """Return the window at a place on the grid: row and column, of signals its number, of volumes a plane first."""
        if len(place) != self.n_axes:
            raise QueryTypeError(f"cell{place}: a window of this map has {self.n_axes} numbers")
        plane, row, col = (0, 0, *place)[-3:]
        at = (plane, row, col)[-self.cells.logit.ndim :]
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
            score=float(self._scores[at]),
            importance=float(self._importance[at]),
            top_class=int(self.top_class[place]),
            exact=cells.exact is None or bool(cells.exact[at]),
            name=None if listed is None else listed.names[col],
            mask=None if listed is None else listed.mask(col),
            n_axes=self.n_axes,
            plane=plane,
            front=int(cells.starts[0][plane]) if self.n_axes > 2 else 0,
            depth=int(cells.lengths[0][plane]) if self.n_axes > 2 else 1,
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
        view: Literal["slices", "montage"] = "slices",
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
        - `view`: of volumes, "slices" through the most important window across each axis, or a "montage" of planes.

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
            view=view,
        )

    def save(self, path: str | Path, **options: Any) -> None:
        """Write a picture (.png, .jpg, .pdf, .svg), a film (.gif, .apng), a report (.html), or numbers (.npy, .npz).

        Pictures take the options of `plot` and `dpi` (150), films those of `animate`, reports those of
        `Result.report`. `.npy` is the importance, `.npz` all numbers: float32 planes of the grid's shape, the int32
        axes of windows and the names; `np.load(path, allow_pickle=False)` reads them. Raises QueryTypeError for another
        suffix or option, ImageError where the file cannot be written.
        """
        late.save_map(self, path, options)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the importance, of the grid's shape, for `np.asarray(heat)`."""
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
            **({"fronts": cells.starts[0], "depths": cells.lengths[0]} if self.n_axes > 2 else {}),
            "clean_score": self.clean_score,
            "score_kind": self.score_kind,
            "class_id": self.class_id,
            "class_name": self.class_name,
            "image": self.image,
            "model": self.model,
            "patch": self.patch,
            "stride": self.stride,
            "channel": self.channel or "",
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
