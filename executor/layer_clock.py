"""Measured seconds by layer, for PLAN ANALYZE."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

__all__ = ["LayerClock"]

T = TypeVar("T")


@dataclass(slots=True)
class LayerClock:
    """Runs layers and adds up what each one takes; on a GPU it waits for every layer, which slows the run."""

    device: torch.device
    seconds: dict[int, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, layer: int, work: Callable[[], T], n_lanes: int = 1) -> T:
        """Run the work of a layer and note its share of the wall-clock time, of which `n_lanes` lanes have one each."""
        started = time.perf_counter()
        result = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elapsed = (time.perf_counter() - started) / n_lanes
        with self._lock:
            self.seconds[layer] = self.seconds.get(layer, 0.0) + elapsed
        return result
