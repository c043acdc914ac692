"""The CPU: lanes of cores, memory as the system and the container allow."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import ClassVar

import torch

from obeql.executor.devices.base import Device
from obeql.executor.devices.processor import processor_facts

__all__ = ["Cpu"]

#: More lanes than this want more memory than they save time; further cores work inside the operators.
_MOST_LANES = 8


class Cpu(Device):
    """All cores that PyTorch uses."""

    kind: ClassVar[str] = "cpu"
    is_asynchronous: ClassVar[bool] = False
    fuses_reads: ClassVar[bool] = False  # copies of whole rows are as fast as memory is

    @classmethod
    def names(cls) -> list[str]:
        return ["cpu"]

    @property
    def hardware(self) -> str:
        model = processor_facts().get("model name") or platform.processor() or "CPU"
        n_threads = torch.get_num_threads()
        return f"{model}, {n_threads} thread{'s' if n_threads != 1 else ''}"

    def _free_bytes(self) -> float:
        try:
            for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
                if line.startswith("MemAvailable:"):
                    return min(float(line.split()[1]) * 1024, _container_limit())
        except OSError:
            pass
        try:
            return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2
        except (ValueError, OSError, AttributeError):
            return 2e9

    @property
    def n_lanes(self) -> int:
        """Return one lane a core where there are few of them."""
        return min(torch.get_num_threads(), _MOST_LANES)

    @property
    def reduced_precision(self) -> str | None:
        """Return bfloat16 where the processor has instructions for its products."""
        asked = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
        return "bfloat16" if any(ask is not None and ask() for ask in asked) else None

    def synchronize(self) -> None:
        pass  # a call returns when its work is done

    def empty_cache(self) -> None:
        pass  # PyTorch keeps no memory of it


def _container_limit() -> float:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        return float("inf") if text == "max" else float(text)
    except (OSError, ValueError):
        return float("inf")
