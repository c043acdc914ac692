"""Make the C library give freed memory back to the system, so that a process takes what its tensors take.

glibc keeps freed blocks for later: it starts by giving back blocks of 128 kB and more, and raises that bound to the
largest block freed so far, up to 32 MB. Taking blocks from the system anew costs time; what is kept in pieces of the
wrong size can be several times what is in use. So a run whose memory is limited to little more than it needs keeps the
bound low, and returns after every batch, and every few layers, what smaller blocks have left behind.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from obeql.planner.physical.plan import ExplainPlan

__all__ = ["give_back", "memory_given_back"]

#: numbers of glibc's mallopt; what it starts with, and what its bounds grow to in a process that has used much memory
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_FIRST_BYTES, _GROWN_BYTES = 128 << 10, 32 << 20
#: Where kept blocks matter: they were measured to take up to four times what is in use.
_KEPT_TIMES = 4
#: layers of a batch after which memory is given back
_LAYERS = 16

#: runs at work, in whatever thread, that give memory back; the C library's settings are the process's too
_giving: list[ExplainPlan] = []


@contextmanager
def memory_given_back(plan: ExplainPlan) -> Iterator[None]:
    """Run with freed memory given back at once where the plan's memory was limited to little more than it needs.

    Without effect on other C libraries than glibc. Runs at the same time share the setting, until the last has ended.
    """
    library = _glibc()
    tight = plan.limited and _KEPT_TIMES * max(engine.cost.memory for engine in plan.engines) > (plan.memory_bytes or 0)
    if library is None or not tight:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _FIRST_BYTES)
    library.mallopt(_TRIM_THRESHOLD, _FIRST_BYTES)
    _giving.append(plan)
    try:
        give_back()
        yield
    finally:
        give_back()
        _giving.pop()
        if not _giving:
            library.mallopt(_MMAP_THRESHOLD, _GROWN_BYTES)
            library.mallopt(_TRIM_THRESHOLD, 2 * _GROWN_BYTES)


def give_back(n_layers: int = _LAYERS) -> None:
    """Return to the system what is free, if a run at work is to.

    Called after every batch, and within one after every layer, with the number of its layers that are done.
    """
    if _giving and n_layers % _LAYERS == 0 and (library := _glibc()) is not None:
        library.malloc_trim(0)  # about a millisecond; other threads go on meanwhile


@cache
def _glibc() -> Any | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        library = ctypes.CDLL(None)
        _ = library.mallopt, library.malloc_trim
    except (AttributeError, OSError):
        return None
    return library
