"""A map that fills in on the terminal while it is computed, with the most important windows so far beside it.

Called between batches, as a progress bar is; the session draws the whole map once the statement is done. A map that is
refined shows each level as soon as it is there, with its bound, and keeps it while the next one is computed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from obeql.cli.keyboard import Keyboard
from obeql.progress_bar import pace, where
from obeql.results.quality_text import quality_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console, RenderableType

    from obeql.executor.execution.preview import Preview
    from obeql.executor.execution.progress import Progress
    from obeql.planner.grid import WindowGrid

__all__ = ["LiveMap"]

#: Seconds between two drawings; faster flickers and takes time from the run.
_EVERY_S = 0.25


class LiveMap:
    """Draws each state of a run that it is called with; `finish` clears it away, `leave` lets it stand."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._live: Any = None
        self._status: Any = None
        self._drawn_at = 0.0
        self._level: _Level | None = None
        self._under: tuple[int, npt.NDArray[np.float32]] | None = None
        self._keyboard = Keyboard()

    def __call__(self, progress: Progress) -> None:
        """Draw the state of a run, at most four times a second; a level of refinement and a phase always.

        Until `finish` or `leave`, the terminal does not echo what is typed.
        """
        self._keyboard.silence()
        if progress.phase:
            self._say(progress.phase)
            return
        self._be_quiet()
        now = time.perf_counter()
        if (progress.level or progress.partial) and progress.preview is not None:
            self._level = _Level.of(progress, progress.preview)
        elif self._live is not None and now - self._drawn_at < _EVERY_S:
            return
        self._drawn_at = now
        if self._live is None:
            from rich.live import Live  # noqa: PLC0415 - only a run needs it

            self._live = Live(
                console=self._screen(), auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        self._live.update(self._picture(progress), refresh=True)

    def leave(self) -> None:
        """Let the drawing stand as it is; the next call begins another."""
        if self._live is not None:
            self._live.transient = False
        self.finish()

    def finish(self) -> None:
        """Clear the drawing; the next call begins another."""
        try:
            self._be_quiet()
            if self._live is not None:
                self._live.stop()
        finally:
            self._keyboard.restore()
        self._live = None
        self._level = None
        self._under = None

    def _screen(self) -> Console:
        from rich.console import Console  # noqa: PLC0415

        self._console = self._console or Console(stderr=True)
        return self._console

    def _say(self, phase: str) -> None:
        """Show what is done before the first window, beside something that turns: these seconds have no steps."""
        from rich.live import Live  # noqa: PLC0415
        from rich.spinner import Spinner  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        screen = self._screen()
        spinner = Spinner("dots" if screen.encoding.startswith("utf") else "line", Text(f"{phase} ..."))
        if self._status is None:
            self._status = Live(
                console=screen, refresh_per_second=10, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._status.start()
        self._status.update(spinner, refresh=True)

    def _be_quiet(self) -> None:
        if self._status is not None:
            self._status.stop()
        self._status = None

    def _picture(self, progress: Progress) -> RenderableType:
        from rich.console import Group  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        from obeql.drawing.terminal import Canvas, draw_plane  # noqa: PLC0415

        assert self._console is not None
        line = Table.grid(padding=(0, 1))
        line.add_row(
            Text(f"{progress.done / max(1, progress.total):4.0%}"),
            ProgressBar(progress.total, progress.done, width=24),
            Text(
                ", ".join(
                    part for part in (f"{progress.done}/{progress.total} {progress.unit}", pace(progress)) if part
                )
            ),
        )
        preview = progress.preview
        title = where(progress)
        if preview is None:
            return Group(Text(title, style="bold"), line)
        canvas = Canvas.of(self._console)
        title = f"{title} · {preview.class_name}"
        level = self._level if self._level is not None and self._level.is_of(progress, preview) else None
        drawing = draw_plane(
            preview.importance() if level is None else level.importance,
            preview.grid,
            preview.score_kind,
            title,
            canvas,
            picture=self._picture_under(progress, preview),
            exact=None if level is None else level.exact,
            stated=None if level is None else level.stated,
        )
        return Group(drawing, line)

    def _picture_under(self, progress: Progress, preview: Preview) -> npt.NDArray[np.float32] | None:
        """Return the image at work as the model sees it, made once."""
        if preview.picture is None:
            return None
        if self._under is None or self._under[0] != progress.image:
            self._under = progress.image, preview.picture()
        return self._under[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """The last level of a map that is refined: its importance (rows, cols), estimates included, and what it states.

    Before the first one, the map as a proxy guesses it.
    """

    image: int
    grid: WindowGrid
    importance: npt.NDArray[np.float32]
    exact: npt.NDArray[np.bool_] | None
    stated: str

    @classmethod
    def of(cls, progress: Progress, preview: Preview) -> _Level:
        stated, exact = f"level {progress.level}", None
        if progress.partial:  # the bound of the map that is drawn; progress.bound is the worst of all maps
            cells = progress.partial[0]
            exact, words = cells.exact, quality_text(cells.quality, cells.logit.size)
            stated = f"{stated}: {words}" if progress.level else words
        return cls(progress.image, preview.grid, preview.importance(), exact, stated)

    def is_of(self, progress: Progress, preview: Preview) -> bool:
        """Return whether the run is still at the map that the level is of."""
        return (self.image, self.grid) == (progress.image, preview.grid)
