"""What the engine asks of a device: its memory, whether work on it has ended, in which number formats it is fast."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy.typing as npt
import torch
from torch import Tensor

from obeql.executor.devices.processor import host_facts

__all__ = ["Device"]

#: share of the free memory that one statement takes unless told otherwise
_SAFE_SHARE = 0.5


class Device(ABC):
    """One device of this machine. A kind of device is a subclass, in a module of its own, and a row of `KINDS`."""

    #: PyTorch's name of the kind, which is also the language's
    kind: ClassVar[str]
    #: whether a call returns before its work is done, so that only `synchronize` tells when that is
    is_asynchronous: ClassVar[bool] = True
    #: whether one kernel reads a region with its box at once (`kernels.fused_read`), instead of copies in turn
    fuses_reads: ClassVar[bool] = True
    #: whether Triton compiles for it
    has_triton: ClassVar[bool] = False
    #: whether `auto` may choose it; a kind that nobody has run yet wants to be named
    is_automatic: ClassVar[bool] = False
    #: the number format of sums, and of what logits become: float32 where the device has none with more digits
    wide_dtype: ClassVar[torch.dtype] = torch.float64

    def __init__(self, torch_device: torch.device) -> None:
        self.torch_device = torch_device

    @classmethod
    @abstractmethod
    def names(cls) -> list[str]:
        """List the devices of this kind that the process can compute on, as the language calls them."""

    @property
    @abstractmethod
    def hardware(self) -> str:
        """Return the hardware's own name, for provenance."""

    @property
    def fingerprint(self) -> str:
        """Return the hardware's name with a digest of all that is known of it and of its host.

        What is measured on one holds for no other.
        """
        digest = hashlib.sha256("\n".join([self.hardware, *host_facts()]).encode()).hexdigest()
        return f"{self.hardware} ({digest[:8]})"

    @abstractmethod
    def _free_bytes(self) -> float:
        """Return the bytes that are free now."""

    @property
    def free_bytes(self) -> float:
        """Return the bytes a statement may use beyond the weights by default: half of what is free now."""
        return self._free_bytes() * _SAFE_SHARE

    @property
    def n_lanes(self) -> int:
        """Return how many lanes the device's work is divided into: batches that run side by side."""
        return 1

    @property
    def reduced_precision(self) -> str | None:
        """Return the precision in which it multiplies several times faster than in float32, or None."""
        return None

    @property
    def has_tf32(self) -> bool:
        """Tell whether the device has the number format tf32."""
        return False

    def upload(self, values: npt.NDArray[Any]) -> Tensor:
        """Copy numbers to the device, in the background where it can."""
        return torch.from_numpy(values).to(self.torch_device)

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work handed to the device is done."""

    @abstractmethod
    def empty_cache(self) -> None:
        """Give memory that PyTorch keeps for later back to the device."""
