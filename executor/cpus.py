"""How many CPUs this process may use: of the machine's, those that the system and the container leave it."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["available_cpus", "cpu_quota"]

_CGROUPS = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """Count the CPUs that this process may use, at least one: its affinity, and the quota of its container."""
    n_cpus = os.cpu_count() or 1
    with suppress(AttributeError):  # not on macOS
        n_cpus = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return n_cpus if quota is None else max(1, min(n_cpus, math.ceil(quota)))


def cpu_quota(root: Path = _CGROUPS) -> float | None:
    """Return the CPU seconds a second that the container grants, None without a limit (cgroup v2, then v1)."""
    with suppress(OSError, ValueError):
        granted, period = (root / "cpu.max").read_text("ascii").split()
        return None if granted == "max" else float(granted) / float(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        granted_us = float((root / "cpu" / "cpu.cfs_quota_us").read_text("ascii"))
        period_us = float((root / "cpu" / "cpu.cfs_period_us").read_text("ascii"))
        return granted_us / period_us if granted_us > 0 else None
    return None
