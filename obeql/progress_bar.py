"""A progress bar for long statements: windows done, rate, time left, image k of n.

Comes beside a run: `Session.execute(..., on_progress=bar)` calls it between batches. The command line shows one on
a terminal; a program may use it too:

    with ProgressBar() as bar:
        db.execute("EXPLAIN OCCLUDE scans USING tumour", on_progress=bar)
"""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from obeql.executor.execution.progress import Progress

__all__ = ["ProgressBar", "pace", "shown_seconds", "where"]

_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {unit}{postfix}"
#: With WITHIN the bar fills with the time; the windows stand beside it.
_TIMED_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {unit}{postfix}"
#: While nothing is counted yet: what is being done instead.
_PHASE_FORMAT = "{desc} ..."
#: Characters of an image's name that are shown; what tells two files of a folder apart is mostly at the end.
_NAME_WIDTH = 24


class ProgressBar:
    """Draws what it is called with on `stream` (standard error); one bar a statement, closed by `finish`.

    Before the first window it says what is being done instead, which is cleared away where nothing is counted later.
    `kind` is the class of bar, tqdm's own unless another of its family is given, such as `tqdm.notebook.tqdm`.
    """

    def __init__(self, stream: TextIO | None = None, kind: Any = None) -> None:
        self._stream = stream
        self._kind = kind
        self._bar: Any = None
        self._done: float = 0
        self._counts = False  # whether the bar has counted anything, rather than told a phase

    def __call__(self, progress: Progress) -> None:
        """Draw the state of a run. A run of another size, or one that starts over, gets a bar of its own."""
        total, done = _measure(progress)
        if self._bar is not None and (self._bar.total != total or done < self._done):
            self.finish()
        if self._bar is None:
            from tqdm import tqdm  # noqa: PLC0415 - only a run needs it

            stream = sys.stderr if self._stream is None else self._stream
            self._bar = (self._kind or tqdm)(
                desc=progress.phase or where(progress),
                total=total,
                file=stream,
                bar_format=_format(progress),
                dynamic_ncols=True,
                leave=True,
                mininterval=0.1,
                unit=progress.unit,
            )
        self._counts = self._counts or not progress.phase
        self._bar.bar_format = _format(progress)
        self._bar.set_description_str(progress.phase or where(progress), False)
        if progress.within_s is not None:
            self._bar.unit = f"{progress.done}/{progress.total} {progress.unit}"
        self._bar.set_postfix_str("" if progress.phase else pace(progress), False)
        step = done - self._done
        self._done = done
        if step == 0:
            self._bar.refresh()
        else:
            self._bar.update(step)

    def finish(self) -> None:
        """Leave the bar on the screen as it stands; the next call starts another."""
        if self._bar is not None:
            self._bar.leave = self._counts
            self._bar.refresh()
            self._bar.close()
        self._bar = None
        self._done = 0
        self._counts = False

    def leave(self) -> None:
        """Finish: a bar stays on the screen anyway."""
        self.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()


def _measure(progress: Progress) -> tuple[float, float]:
    """Return what a bar is of, and how far: windows, or the seconds of WITHIN."""
    if progress.within_s is None:
        return progress.total, progress.done
    return progress.within_s, progress.within_s - progress.left_s


def _format(progress: Progress) -> str:
    if progress.phase:
        return _PHASE_FORMAT
    return _FORMAT if progress.within_s is None else _TIMED_FORMAT


def shown_seconds(seconds: float) -> str:
    """Return a duration for people: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def where(progress: Progress) -> str:
    """Return the image at work: its number and its file name, of which a long one keeps its end."""
    name = PurePath(progress.shown).name
    name = name if len(name) <= _NAME_WIDTH else "…" + name[1 - _NAME_WIDTH :]
    return f"{'map' if progress.unit == 'maps' else 'image'} {progress.image + 1}/{progress.n_images} {name}"


def pace(progress: Progress) -> str:
    """Rate and time left, or the time taken once all is done; before the first batch, the plan's estimate, if any."""
    if progress.done <= progress.reused and not progress.estimated_seconds:
        return ""
    if progress.within_s is not None and progress.done < progress.total:
        return f"{progress.rate:.1f}/s, {shown_seconds(progress.left_s)} of {progress.within_s:g} s left"
    if progress.done >= progress.total:
        return f"{progress.rate:.1f}/s, took {shown_seconds(progress.seconds)}"
    if progress.done <= progress.reused:
        return f"about {shown_seconds(progress.eta_seconds)}"
    return f"{progress.rate:.1f}/s, {shown_seconds(progress.eta_seconds)} left"
