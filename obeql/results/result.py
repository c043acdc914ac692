"""What EXPLAIN OCCLUDE returns: heat maps in order, failures, and how the run went.

Comes after the executor; each map is a `Heatmap` (in `obeql.results.heatmap`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from obeql.errors import QueryTypeError
from obeql.planner.cells import FailedImage
from obeql.results import late
from obeql.results.heatmap import Cell, Heatmap, write_file
from obeql.results.lazy_maps import HeatmapList
from obeql.results.messages import preformatted
from obeql.results.quality_text import ESTIMATED, estimated_note, importance_text, top_class_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from obeql.drawing.colors import Sign

__all__ = ["Cell", "Heatmap", "Result"]

#: Rows that `str` shows before it stops, and maps that a notebook draws.
_SHOWN = 10
_DRAWN = 9


@dataclass(frozen=True, eq=False, repr=False)
class Result(Sequence[Heatmap]):
    """The maps of one statement: images, then patches, then classes, each as written.

    `failures` are the images that could not be explained, with the error of each; `plan` is what was executed
    (print it), `query` the statement, `seconds` the wall-clock time it took, `notes` what to know of how the images
    were read.
    A slice is a Result of fewer maps and the same run.

    The planes of the first 256 MB of maps are held (32 MB where maps stay in Parquet files); those of later ones are
    read from the database whenever a map is asked for, so that a result of 10,000 images takes little memory. Reading
    one raises StoreError once its run was dropped or the database is closed.
    """

    maps: Sequence[Heatmap]
    failures: tuple[FailedImage, ...] = ()
    run_id: Any = None
    run_name: str | None = None
    plan: Any = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    query: str = ""

    def __len__(self) -> int:
        return len(self.maps)

    def __iter__(self) -> Iterator[Heatmap]:
        return iter(self.maps)

    @overload
    def __getitem__(self, index: int) -> Heatmap: ...
    @overload
    def __getitem__(self, index: slice) -> Result: ...
    def __getitem__(self, index: int | slice) -> Heatmap | Result:
        if isinstance(index, slice):
            return replace(self, maps=self.maps[index])
        try:
            return self.maps[index]
        except IndexError:
            # IndexError ends iteration and is what a sequence raises; the text says how many maps there are.
            raise IndexError(f"result[{index}]: the result has {_count(len(self.maps), 'heat map')}") from None

    def as_score(self, kind: str) -> Result:
        """Return the same maps seen as another score: probability, log_odds, log_probability or logit."""
        if isinstance(self.maps, HeatmapList):
            return replace(self, maps=self.maps.as_score(kind))
        return replace(self, maps=tuple(heat.as_score(kind) for heat in self.maps))

    def table(self, k: int | None = None) -> str:
        """Return a text: for each map its `k` most important cells, with boxes in pixels of the model's input.

        Without `k`, those that TOP k CELLS asked for, else 5. A `~` marks cells that were estimated, not computed.
        """
        blocks = []
        for heat in self.maps:
            cells = heat.top(k)
            rows = [
                (
                    str(rank),
                    f"({cell.place_text})" if cell.name is None else cell.name,
                    f"({cell.box_text})",
                    cell.importance_text,
                    f"{cell.score:.4g}",
                    _class_name(heat, cell.top_class),
                )
                for rank, cell in enumerate(cells, start=1)
            ]
            what = "cell" if heat.cells.listed is None else "region"
            box = ", ".join(heat.kind.box_names)
            head = ("#", what, box, "importance", heat.score_kind, "top class")
            channel = f" · {heat.channel}" if heat.channel else ""
            line = f"{heat.image} · {heat.class_name}{channel} · clean {heat.score_kind} {heat.clean_score:.4g}"
            note = "" if all(cell.exact for cell in cells) else f"\n  {ESTIMATED} {estimated_note(heat.cells.quality)}"
            blocks.append(f"{line}\n{_aligned(head, rows)}{note}" if rows else f"{line}\n(no cell computed)")
        return "\n\n".join(blocks)

    @property
    def importances(self) -> npt.NDArray[np.float32]:
        """float32 (maps, rows, cols): the importance of every map, in order.

        Raises QueryTypeError where maps have grids of different sizes, as with several patch sizes.
        """
        shapes = sorted({heat.shape for heat in self.maps})
        if len(shapes) > 1:
            raise QueryTypeError(
                f"maps of {' and '.join('x'.join(map(str, shape)) for shape in shapes)} cells make no one array; "
                "take them apart: [heat.importance for heat in result]"
            )
        return np.stack([heat.importance for heat in self.maps]) if self.maps else np.empty((0, 0, 0), np.float32)

    def plot(
        self,
        *,
        columns: int | None = None,
        shared: bool = True,
        limit: float | None = None,
        alpha: float | None = None,
        cmap: Any = None,
        sign: Sign = "all",
        colorbar: bool = True,
        smooth: bool = True,
        outline: bool = True,
    ) -> Figure:
        """Draw all maps on one figure and return it: several classes as a matrix, a row an image, which comes first.

        Notebooks show the figure at the end of the cell.

        - `columns`: draws the maps one after the other, so many in a row, in place of the matrix.
        - `shared`: gives all maps of one score the same scale, the largest of theirs; maps on one scale have one color
          bar. Without it each map has its own.
        - `limit`, `alpha`, `cmap`, `sign`, `colorbar`, `smooth`, `outline`: as in `Heatmap.plot`.

        Raises QueryTypeError for no map, for more than 64, and for a value that none of these takes.
        """
        return late.draw_maps(
            self.maps,
            columns=columns,
            shared=shared,
            limit=limit,
            alpha=alpha,
            cmap=cmap,
            sign=sign,
            colorbar=colorbar,
            smooth=smooth,
            outline=outline,
        )

    def report(
        self,
        path: str | Path,
        *,
        limit: float | None = None,
        alpha: float | None = None,
        cmap: Any = None,
        sign: Sign = "all",
        shared: bool = True,
    ) -> None:
        """Write an HTML file that holds all maps, with the numbers of each window under the pointer.

        The options are those of `plot`; `alpha` is the opacity that the page begins with.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise QueryTypeError(f"'{path.name}' needs the suffix .html for a report")
        text = late.report_text(self, limit=limit, alpha=alpha, cmap=cmap, sign=sign, shared=shared)
        write_file(path, text.encode("utf-8"))

    def widget(
        self,
        *,
        limit: float | None = None,
        alpha: float | None = None,
        cmap: Any = None,
        sign: Sign = "all",
        shared: bool = True,
    ) -> Any:
        """Return what `report` writes as a widget of a notebook: the last value of a cell is shown.

        A slice of the result shows some of the maps. Raises UnsupportedError without the extra `notebook`.
        """
        return late.report_widget(self, limit=limit, alpha=alpha, cmap=cmap, sign=sign, shared=shared)

    def save(self, path: str | Path, **options: Any) -> list[Path]:
        """Write all maps and return the files: a sheet of pictures (.png, .jpg, .pdf, .svg), a report (.html), numbers.

        Those of several maps are called `0/importance` and so on in one file (.npz). Films (.gif, .apng) and .npy hold
        one map each: of several, as many files are written, `run_0.gif` on. Pictures take the options of `plot` and
        `dpi`, the other files those of `report` and `Heatmap.animate`. Raises QueryTypeError for no map, too many for a
        sheet, and a suffix or an option that is none of these.
        """
        return late.save_maps(self, path, options)

    def export(self, folder: str | Path, format: str | None = None) -> list[Path]:
        """Write all maps into a folder and return the files; `format` is one of `obeql.export.folders`, or parquet.

        Without a format, a name that ends as a picture, film, report or numpy file is written as `save` does.
        """
        return late.export_maps(self, folder, format)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the text, and a sheet of the first maps."""
        text = preformatted(str(self))
        if not self.maps:
            return text
        picture = base64.b64encode(late.maps_png(self.maps[:_DRAWN], 72)).decode()
        return f'{text}<img src="data:image/png;base64,{picture}" alt="heat maps">'

    def __repr__(self) -> str:
        return f"<Result {self._summary}>"

    @property
    def _summary(self) -> str:
        """Return how many maps of which run there are, and how long it took, in one line."""
        parts = [_count(len(self.maps), "heat map")]
        if self.failures:
            parts.append(f"{_count(len(self.failures), 'image')} failed")
        if self.run_name is not None or self.run_id is not None:
            parts.append(f"run {self.run_name if self.run_name is not None else self.run_id}")
        if self.seconds is not None:
            parts.append(f"{self.seconds:.3g} s")
        return ", ".join(parts)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Return what IPython shows on a terminal: all that `print` does."""
        printer.text(str(self))

    def __str__(self) -> str:
        """Return the summary, a line a map and the failures, ten of each."""
        return self.overview(_SHOWN)

    def overview(self, most: int | None = None) -> str:
        """Return a text: what was run, a line for each map, and the images that failed; at most `most` of both."""
        shown = slice(most)
        n_more = [0 if most is None else len(found) - most for found in (self.maps, self.failures)]
        lines = [self._summary]
        if self.maps:
            heats = self.maps[shown]
            head = ["", "image", "class", "patch", "cells", "score", "clean", "max importance", "quality"]
            rows = [list(_row(i, heat)) for i, heat in enumerate(heats)]
            if any(heat.channel for heat in heats):
                for line, channel in zip(
                    [head, *rows], ["channel", *(heat.channel or "all" for heat in heats)], strict=True
                ):
                    line.insert(4, channel)
            lines.append(_aligned(head, rows))
            if n_more[0] > 0:
                lines.append(f"... {n_more[0]} more")
        lines += [f"failed: {failure.shown}: {failure.error}" for failure in self.failures[shown]]
        if n_more[1] > 0:
            lines.append(f"... {n_more[1]} more failed")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _row(index: int, heat: Heatmap) -> tuple[str, ...]:
    best = heat.top(1)
    return (
        str(index),
        Path(heat.image).name,
        heat.class_name,
        heat.patch_text,
        "x".join(map(str, heat.shape)),
        heat.score_kind,
        f"{heat.clean_score:.4g}",
        importance_text(best[0].importance, best[0].exact, 3) if best else "-",
        heat.quality + (" (!)" if heat.warning else ""),
    )


def _class_name(heat: Heatmap, class_id: int) -> str:
    if class_id == heat.class_id:
        return heat.class_name
    return top_class_text(class_id, heat.classes)


def _aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return the columns of equal width: text to the left, numbers to the right."""
    rows = list(rows)
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    signs = f"+-0123456789{ESTIMATED}"
    numeric = [all(cell[-1:].isdigit() and cell[:1] in signs for cell in column[1:]) for column in columns]
    lines = []
    for line in (head, *rows):
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
