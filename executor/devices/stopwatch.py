"""How long work keeps a device busy: seconds of a machine without other work.

On a CPU that is the time for which the calling thread computed: what other processes take meanwhile does not count.
Operators share work evenly among threads, so that the calling thread computes for as long as all of them do. On other
devices, and for code that is the user's own and may compute elsewhere, it is wall-clock time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from obeql.executor.devices import device_of

__all__ = ["Stopwatch"]

T = TypeVar("T")

#: Clocks that tick more seldom cannot time a layer.
_FINEST_S = 1e-5


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Times work on `device`; `own_code` says that it is the user's, of which nobody knows where it computes."""

    device: torch.device
    own_code: bool = False

    @property
    def is_of_thread(self) -> bool:
        """Return whether only what the calling thread computes counts."""
        fine = time.get_clock_info("thread_time").resolution <= _FINEST_S
        return not device_of(self.device).is_asynchronous and not self.own_code and fine

    def now(self) -> float:
        """Return the seconds since some moment; on GPUs with all work done that they were given."""
        device_of(self.device).synchronize()
        return time.thread_time() if self.is_of_thread else time.perf_counter()

    def timed(self, work: Callable[[], T]) -> tuple[float, T]:
        """Do some work; returns its seconds and result."""
        started = self.now()
        result = work()
        return self.now() - started, result

    def least(self, work: Callable[[], object], n: int = 2, enough_s: float = float("inf")) -> float:
        """Return the least seconds of `n` times, or of fewer once all have taken `enough_s`."""
        best, total = float("inf"), 0.0
        for _ in range(n):
            seconds, _ = self.timed(work)
            best, total = min(best, seconds), total + seconds
            if total >= enough_s:
                break
        return best
