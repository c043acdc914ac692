"""A map that fills in on the terminal while it is computed, with the most important windows so far beside it.

Called between batches, as a progress bar is; the session draws the whole map once the statement is done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from obeql.progress import named_image, pace

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from obeql.executor.run import Progress

__all__ = ["LiveMap"]

#: Seconds between two drawings; faster flickers and takes time from the run.
_EVERY_S = 0.25


class LiveMap:
    """Draws each state of a run that it is called with; `finish` clears it away."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._live: Any = None
        self._drawn_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Draw the state of a run, at most four times a second."""
        now = time.perf_counter()
        if self._live is not None and now - self._drawn_at < _EVERY_S:
            return
        self._drawn_at = now
        if self._live is None:
            from rich.console import Console  # noqa: PLC0415 - only a run needs it
            from rich.live import Live  # noqa: PLC0415

            self._console = self._console or Console(stderr=True)
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        self._live.update(self._picture(progress), refresh=True)

    def finish(self) -> None:
        """Clear the drawing; the next call begins another."""
        if self._live is not None:
            self._live.stop()
        self._live = None

    def _picture(self, progress: Progress) -> RenderableType:
        from rich.console import Group  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        from obeql.terminal import Canvas, draw_plane  # noqa: PLC0415

        assert self._console is not None
        line = Table.grid(padding=(0, 1))
        line.add_row(
            Text(f"{progress.done / max(1, progress.total):4.0%}"),
            ProgressBar(progress.total, progress.done, width=24),
            Text(f"{progress.done}/{progress.total} windows, {pace(progress)}"),
        )
        # What a run tells may grow; a map is drawn where there is one.
        preview = getattr(progress, "preview", None)
        title = f"image {progress.image + 1}/{progress.n_images} {named_image(progress)}"
        if preview is None:
            return Group(Text(title, style="bold"), line)
        importance = preview.importance()
        drawing = draw_plane(
            importance,
            preview.grid.patch,
            preview.score_kind,
            f"{title} · {preview.class_name}",
            Canvas.of(self._console),
        )
        return Group(drawing, line)
