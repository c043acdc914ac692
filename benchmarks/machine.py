"""What a benchmark ran on, for its results file."""

from __future__ import annotations

import platform
from typing import Any

import duckdb
import torch

__all__ = ["machine"]


def machine() -> dict[str, Any]:
    """Machine, cores, and the versions that figures depend on."""
    return {
        "machine": platform.machine(),
        "cores": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "duckdb": duckdb.__version__,
    }
