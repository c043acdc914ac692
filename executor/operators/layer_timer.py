"""How operators run a layer: timed for PLAN ANALYZE, and not at all once its result is not wanted any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from obeql.executor.devices import device_of
from obeql.executor.devices.lanes import StoppedError
from obeql.executor.devices.stopwatch import Stopwatch

__all__ = ["Clock", "LayerTimer", "layer_runner"]

T = TypeVar("T")
#: runs the work of a layer, whose number it is given
Clock = Callable[[int, Callable[[], Tensor]], Tensor]


@dataclass(slots=True)
class LayerTimer:
    """Runs layers and adds up what each one takes; on a GPU it waits for every layer, which slows the run.

    Wall-clock time, unless a `stopwatch` says what counts.
    """

    device: torch.device
    stopwatch: Stopwatch | None = None
    seconds: dict[int, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, layer: int, work: Callable[[], T], n_lanes: int = 1) -> T:
        """Run the work of a layer and note its share of the time, of which `n_lanes` lanes have one each."""
        started = time.perf_counter() if self.stopwatch is None else self.stopwatch.now()
        result = work()
        device_of(self.device).synchronize()
        ended = time.perf_counter() if self.stopwatch is None else self.stopwatch.now()
        with self._lock:
            self.seconds[layer] = self.seconds.get(layer, 0.0) + (ended - started) / n_lanes
        return result


def layer_runner(clock: Clock | None, stop: threading.Event | None = None) -> Clock:
    """Return what runs the work of a layer while it is wanted: a batch may take seconds, a layer does not.

    It raises StoppedError once `stop` is set.
    """

    def run_layer(layer: int, work: Callable[[], Tensor]) -> Tensor:
        if stop is not None and stop.is_set():
            raise StoppedError
        return work() if clock is None else clock(layer, work)

    return run_layer
