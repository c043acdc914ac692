"""Several batches side by side on a CPU, each on its own cores.

A convolution over a few small boxes has too little work to share: with all cores inside one operator, waiting at its
end costs more than the arithmetic saves. So cores are divided into lanes, and a lane computes whole pieces of work by
itself. What belongs to a piece is fixed beforehand, so the numbers do not depend on which lane took it. Lanes are
kept for the next call: starting them costs as much as a small network takes for an image.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

from obeql.executor.devices.threads import set_own_threads

__all__ = ["StoppedError", "run_in_a_lane", "run_in_lanes"]

T = TypeVar("T")

#: Sets of lanes that are kept while nobody uses them.
_MOST_KEPT = 4

#: lanes that nobody uses now, by their number and the threads of each; the ones used last come last
_idle: list[tuple[tuple[int, int], ThreadPoolExecutor]] = []
_lending = threading.Lock()


class StoppedError(Exception):
    """Raised inside a piece of work that is not wanted any more."""


def run_in_lanes(
    pieces: Iterable[Callable[[threading.Event], T]],
    n_lanes: int,
    take: Callable[[T], None],
    spent: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Run pieces of work and hand each result to `take`, in order and in this thread.

    A piece is called with an event that is set when its result is not wanted any more; it may then raise
    StoppedError. What a piece or `take` raises stops the others and is raised here. `spent` is told, before `take`, for
    how long a piece computed, in seconds of all lanes.
    """
    stop = threading.Event()
    if n_lanes <= 1:
        for piece in pieces:
            started = time.thread_time()
            result = piece(stop)
            spent(time.thread_time() - started)
            take(result)
        return

    def work(piece: Callable[[threading.Event], T]) -> tuple[T, float]:
        started = time.thread_time()
        with torch.inference_mode():  # a mode belongs to the thread it was entered in
            return piece(stop), time.thread_time() - started

    def taken(future: Future[tuple[T, float]]) -> None:
        result, seconds = future.result()
        spent(seconds / n_lanes)
        take(result)

    waiting: deque[Future[tuple[T, float]]] = deque()
    with _lanes(n_lanes, max(1, torch.get_num_threads() // n_lanes)) as lanes:
        try:
            for piece in pieces:
                waiting.append(lanes.submit(work, piece))
                if len(waiting) > 2 * n_lanes:
                    taken(waiting.popleft())
            while waiting:
                taken(waiting.popleft())
        finally:
            stop.set()
            wait([future for future in waiting if not future.cancel()])


def run_in_a_lane(work: Callable[[], T], n_lanes: int) -> T:
    """Return what `work` does, on the cores of one of so many lanes.

    Where work is little, threads that share it wait for each other longer than they compute: for a slice of the
    system's time where another thread has one of their cores.
    """

    def in_mode() -> T:
        with torch.inference_mode():
            return work()

    with _lanes(n_lanes, max(1, torch.get_num_threads() // n_lanes)) as lanes:
        return lanes.submit(in_mode).result()


def _started(n_lanes: int, n_threads: int) -> ThreadPoolExecutor:
    """Return new lanes, all of which have set their number of threads: others that are born then keep their own."""
    lanes = ThreadPoolExecutor(n_lanes, "obeql-lane", initializer=set_own_threads, initargs=(n_threads,))
    all_there = threading.Barrier(n_lanes)
    try:
        wait([lanes.submit(all_there.wait) for _ in range(n_lanes)])
    except BaseException:  # such as Ctrl-C
        all_there.abort()
        lanes.shutdown(wait=False)
        raise
    return lanes


@contextmanager
def _lanes(n_lanes: int, n_threads: int) -> Iterator[ThreadPoolExecutor]:
    """Yield lanes for the caller alone; kept afterwards, unless a second Ctrl-C has ended the waiting for them."""
    key = n_lanes, n_threads
    with _lending:
        found = next((each for each in reversed(_idle) if each[0] == key), None)
        if found is not None:
            _idle.remove(found)
    if found is None:
        found = key, _started(n_lanes, n_threads)
    at_rest = True
    try:
        yield found[1]
    except KeyboardInterrupt:
        at_rest = False  # pieces may still be at work
        raise
    finally:
        with _lending:
            if at_rest:
                _idle.append(found)
            gone = [_idle.pop(0) for _ in range(len(_idle) - _MOST_KEPT)]
        for _, lanes in gone if at_rest else [*gone, found]:
            lanes.shutdown(wait=False)


if hasattr(os, "register_at_fork"):  # a child has none of these threads
    os.register_at_fork(after_in_child=_idle.clear)
