"""Several batches side by side on a CPU, each on its own cores.

A convolution over a few small boxes has too little work to share: with all cores inside one operator, waiting at its
end costs more than the arithmetic saves. So cores are divided into lanes, and a lane computes whole pieces of work by
itself. What belongs to a piece is fixed beforehand, so the numbers do not depend on which lane took it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["StoppedError", "lane_count", "run_in_lanes"]

T = TypeVar("T")

#: More lanes than this want more memory than they save time; further cores work inside the operators.
_MOST_LANES = 8


class StoppedError(Exception):
    """Raised inside a piece of work that is not wanted any more."""


def lane_count(device: torch.device) -> int:
    """How many lanes a device's work is divided into: one a core on CPUs with few, one on GPUs."""
    return min(torch.get_num_threads(), _MOST_LANES) if device.type == "cpu" else 1


def run_in_lanes(pieces: Iterable[Callable[[threading.Event], T]], n_lanes: int, take: Callable[[T], None]) -> None:
    """Run pieces of work and hand each result to `take`, in order and in this thread.

    A piece is called with an event that is set when its result is not wanted any more; it may then raise
    StoppedError. What a piece or `take` raises stops the others and is raised here.
    """
    stop = threading.Event()
    if n_lanes <= 1:
        for piece in pieces:
            take(piece(stop))
        return
    n_threads = torch.get_num_threads()

    def start() -> None:
        torch.set_num_threads(max(1, n_threads // n_lanes))

    def work(piece: Callable[[threading.Event], T]) -> T:
        with torch.inference_mode():  # a mode belongs to the thread it was entered in
            return piece(stop)

    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(n_lanes, "obeql-lane", initializer=start)
    try:
        for piece in pieces:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > 2 * n_lanes:
                take(waiting.popleft().result())
        while waiting:
            take(waiting.popleft().result())
    finally:
        stop.set()
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        finally:  # a second Ctrl-C ends the waiting
            torch.set_num_threads(n_threads)  # the setting is the thread's own, but also what new threads start with
