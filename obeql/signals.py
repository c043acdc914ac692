"""Put Ctrl-C off while something is stored, so that it is stored as a whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["defer_sigint"]


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Hold Ctrl-C back inside the block, which should be short; it takes effect at its end, whatever it does.

    Only the main thread is interrupted by Ctrl-C, so that in any other this does nothing; nor where a program that
    embeds Python handles Ctrl-C itself, which could not be put back.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held and callable(before):
            before(*held[0])
        elif held:
            signal.raise_signal(signal.SIGINT)  # what the system does with it: end the process, or nothing
