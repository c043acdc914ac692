"""What kind of processor the machine has, as far as the system says."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["host_facts", "processor_facts"]

#: Lines of /proc/cpuinfo that name the kind of processor, on x86 and on ARM; not its clock, which varies.
_NAMES = frozenset(
    {"model name", "cpu family", "model", "stepping", "cache size", "flags"}
    | {"Features", "CPU implementer", "CPU part", "CPU variant"}
)


@cache
def processor_facts() -> dict[str, str]:
    """Return what the system says of the first processor; nothing where it does not say."""
    facts: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = (part.strip() for part in line.partition(":"))
            if name in _NAMES:
                facts.setdefault(name, value)
    return facts


def host_facts() -> list[str]:
    """Return what tells machines of different speed apart: architecture, kind of processor, number of cores."""
    named = [f"{name}: {value}" for name, value in sorted(processor_facts().items())]
    return [platform.system(), platform.machine(), platform.processor(), str(os.cpu_count()), *named]
