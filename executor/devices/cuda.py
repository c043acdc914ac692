"""NVIDIA GPUs, through CUDA."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy.typing as npt
import torch
from torch import Tensor

from obeql.executor.devices.base import Device

__all__ = ["Cuda"]


class Cuda(Device):
    """One NVIDIA GPU."""

    kind: ClassVar[str] = "cuda"
    has_triton: ClassVar[bool] = True
    is_automatic: ClassVar[bool] = True

    @classmethod
    def names(cls) -> list[str]:
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []

    @property
    def hardware(self) -> str:
        return torch.cuda.get_device_name(self.torch_device)

    def _free_bytes(self) -> float:
        free, _ = torch.cuda.mem_get_info(self.torch_device)
        # What PyTorch has taken from the device and holds for later can be used too.
        held = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
        return float(free + held)

    @property
    def reduced_precision(self) -> str | None:
        """Return bfloat16 on cards since Ampere; its range is float32's."""
        return "bfloat16" if self.has_tf32 else None

    @property
    def has_tf32(self) -> bool:
        return torch.cuda.get_device_capability(self.torch_device) >= (8, 0)

    def upload(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).pin_memory().to(self.torch_device, non_blocking=True)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()
