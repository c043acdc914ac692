"""What a run did, at its end: `RunReport`.

Filled in by `executor` and the workers' coordinator, read by the session. Without torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from obeql.planner.catalog import ImageRecord

__all__ = ["RunReport"]


@dataclass(slots=True)
class RunReport:
    """What a run did: measured seconds by part, windows computed and taken from the store, images that failed.

    `n_skipped` of the windows computed hide nothing, so that the clean pass answered for them.
    """

    n_windows: int = 0
    n_skipped: int = 0
    n_stored: int = 0
    n_maps: int = 0
    failures: list[tuple[ImageRecord, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    #: with `analyze`, measured seconds by layer for each grid, over all images
    layers: list[dict[int, float]] = field(default_factory=list)
    #: by precision, and by where: estimated seconds of the windows computed, and those that they kept the device busy
    pace: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.add(part, time.perf_counter() - started)

    @classmethod
    def sum_of(cls, reports: Sequence[RunReport]) -> RunReport:
        """Return what several workers did, without their failures."""
        total = cls()
        for report in reports:
            total.n_windows += report.n_windows
            total.n_skipped += report.n_skipped
            total.n_stored += report.n_stored
            total.n_maps += report.n_maps
            for part, seconds in report.seconds.items():
                total.add(part, seconds)
            for precision, pace in report.pace.items():
                own = total.pace.setdefault(precision, {})
                for where, (expected, busy) in pace.items():
                    before = own.get(where, (0.0, 0.0))
                    own[where] = before[0] + expected, before[1] + busy
            total.layers += [{} for _ in report.layers[len(total.layers) :]]
            for layers, measured in zip(total.layers, report.layers, strict=False):
                for layer, seconds in measured.items():
                    layers[layer] = layers.get(layer, 0.0) + seconds
        return total

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
