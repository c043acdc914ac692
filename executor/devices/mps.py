"""Apple's GPUs, through Metal. Written from PyTorch's documentation; not run on such hardware."""

from __future__ import annotations

import platform
from typing import ClassVar

import torch

from obeql.executor.devices.base import Device

__all__ = ["Mps"]


class Mps(Device):
    """The GPU of an Apple computer. It has no float64: sums over maps and logits stay float32."""

    kind: ClassVar[str] = "mps"
    wide_dtype: ClassVar[torch.dtype] = torch.float32

    @classmethod
    def names(cls) -> list[str]:
        return ["mps"] if torch.backends.mps.is_available() else []

    @property
    def hardware(self) -> str:
        return f"Apple GPU ({platform.processor() or platform.machine()})"

    def _free_bytes(self) -> float:
        return float(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())

    def synchronize(self) -> None:
        torch.mps.synchronize()

    def empty_cache(self) -> None:
        torch.mps.empty_cache()
