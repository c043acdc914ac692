"""What a step is given, and what every row says of the machine."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.networks import SIZES, network
from obeql.executor.devices import device_of
from obeql.executor.network.capture.capture import capture
from obeql.executor.network.graph import LayerGraph

__all__ = ["Setting", "captured"]


@dataclass(frozen=True)
class Setting:
    """Where a step runs, whether it is to be short, and the file that takes its rows."""

    step: str
    device: torch.device
    quick: bool
    out: Path

    def write(self, **row: Any) -> None:
        """Append a row at once, so that a crash afterwards loses none."""
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **row}) + "\n")

    def seconds(self, work: Any) -> float:
        """Time some work, the device's part of it too."""
        device_of(self.device).synchronize()
        started = time.perf_counter()
        work()
        device_of(self.device).synchronize()
        return time.perf_counter() - started

    def size(self, name: str) -> int:
        """Return height and width of a network's input."""
        return 64 if self.quick else SIZES.get(name, 224)


def captured(name: str, size: int) -> tuple[torch.nn.Module, LayerGraph]:
    """Return a network with random weights, and the same captured, both on the CPU."""
    module = network(name)
    return module, capture(module, (3, size, size))
