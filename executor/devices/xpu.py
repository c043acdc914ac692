"""Intel GPUs, through PyTorch's `xpu`. Written from PyTorch's documentation; not run on such hardware."""

from __future__ import annotations

from typing import ClassVar

import torch

from obeql.executor.devices.base import Device

__all__ = ["Xpu"]


class Xpu(Device):
    """One Intel GPU."""

    kind: ClassVar[str] = "xpu"
    has_triton: ClassVar[bool] = True

    @classmethod
    def names(cls) -> list[str]:
        return [f"xpu:{i}" for i in range(torch.xpu.device_count())] if torch.xpu.is_available() else []

    @property
    def hardware(self) -> str:
        return torch.xpu.get_device_name(self.torch_device)

    def _free_bytes(self) -> float:
        total = torch.xpu.get_device_properties(self.torch_device).total_memory
        return float(total - torch.xpu.memory_allocated(self.torch_device))

    def synchronize(self) -> None:
        torch.xpu.synchronize(self.torch_device)

    def empty_cache(self) -> None:
        torch.xpu.empty_cache()
