"""How many threads of the CPU the operators of one thread use, without a change for any other.

PyTorch keeps the number in the thread that sets it, and besides as what threads born later start with: for good, once
they compute. Lanes and statements set it for themselves alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["set_own_threads"]

T = TypeVar("T")

_SETTING = threading.Lock()


def set_own_threads(n_threads: int) -> None:
    """Compute with so many threads in the calling thread; what threads born later start with stays as it was."""
    with _SETTING:
        usual = _in_new_thread(torch.get_num_threads)
        torch.get_num_threads()  # a thread that has not computed yet takes over what is usual when it first does
        torch.set_num_threads(n_threads)
        if n_threads != usual:
            _in_new_thread(lambda: torch.set_num_threads(usual))


def _in_new_thread(call: Callable[[], T]) -> T:
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(call()), name="obeql-threads")
    thread.start()
    thread.join()
    return found[0]
