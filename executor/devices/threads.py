"""How many threads of the CPU the operators of one thread use, without a change for any other.

PyTorch keeps the number in the thread that sets it, and besides as what threads born later start with: for good, once
they compute. Lanes and statements set it for themselves alone.
"""

from __future__ import annotations

import threading

import torch

__all__ = ["set_own_threads"]

_SETTING = threading.Lock()


def set_own_threads(n_threads: int) -> None:
    """Compute with so many threads in the calling thread; what threads born later start with stays as it was."""
    with _SETTING:
        usual = _usual_threads()
        torch.get_num_threads()  # a thread that has not computed yet takes over what is usual when it first does
        if n_threads == usual:
            torch.set_num_threads(n_threads)
            return
        # What puts the usual number back is a thread that waits for it already: those born in between take over ours.
        is_set = threading.Event()

        def put_back() -> None:
            is_set.wait()
            torch.set_num_threads(usual)

        keeper = threading.Thread(target=put_back, name="obeql-threads")
        keeper.start()
        try:
            torch.set_num_threads(n_threads)
        finally:
            is_set.set()
            keeper.join()


def _usual_threads() -> int:
    """Return what a thread born now would compute with."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()), name="obeql-threads")
    thread.start()
    thread.join()
    return found[0]
