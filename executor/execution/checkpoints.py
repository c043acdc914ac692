"""Keep the cells of a map that takes long, so that a process that dies, or Ctrl-C, does not lose them.

Beside `executor`: between batches it hands the map as it stands to the sink. How often grows with the time
the map has taken, so that keeping costs little and at most a twentieth of the work is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from obeql.errors import ImageError
from obeql.executor.execution.context import CellSink, ExplainedImage
from obeql.executor.operators.grid_scan import Planes

__all__ = ["Checkpoints", "kept_at_end"]

#: A map that takes less than this is not worth keeping before it is done.
_FIRST_SECONDS = 10.0
_SHARE = 0.05
#: What stopping keeps, because nobody waits for the next time.
_LAST_SECONDS = 5.0


class Checkpoints:
    """The unfinished map of one grid of an image, number `place` of its grids.

    `computed` gives its cells so far, `explained` what the sink is given of the image with them.
    """

    def __init__(
        self,
        sink: CellSink,
        place: int,
        computed: Callable[[], Planes | None],
        explained: Callable[[Planes], ExplainedImage],
    ) -> None:
        self._sink = sink
        self._place = place
        self._computed = computed
        self._explained = explained
        self._began = self._kept_at = time.monotonic()

    def after_batch(self) -> None:
        """Keep what the operator has computed of the map so far, if it is time to."""
        if self._due():
            self._keep(self._computed())

    def at_end(self) -> None:
        """Keep a map that is done while its image is not, or one that is stopped."""
        if time.monotonic() - self._kept_at >= _LAST_SECONDS:
            self._keep(self._computed())

    def _due(self) -> bool:
        now = time.monotonic()
        return now - self._kept_at >= max(_FIRST_SECONDS, _SHARE * (now - self._began))

    def _keep(self, planes: Planes | None) -> None:
        if planes is not None:
            with suppress(ImageError):  # values that are not numbers, which the end of the map reports
                self._sink.keep(self._explained(planes), self._place)
        self._kept_at = time.monotonic()


@contextmanager
def kept_at_end(pieces: Sequence[Checkpoints], last: bool) -> Iterator[None]:
    """Keep the pieces of a grid where the block that computes it is stopped, and after it unless it is the `last`."""
    stopped = True
    try:
        yield
        stopped = False
    finally:
        if stopped or not last:
            for each in pieces:
                each.at_end()
