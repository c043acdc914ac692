"""Tests side by side (`make test` starts two processes): those marked `alone` wait until no other test runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

try:
    import fcntl
except ImportError:  # Windows, where tests run one after the other
    fcntl = None  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Hold a lock while a test runs, shared with other processes unless the test is marked `alone`."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None or fcntl is None:
        return (yield)
    with _held(Path(tempfile.gettempdir()) / f"obeql-tests-{run}", item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _held(path: Path, alone: bool) -> Iterator[None]:
    """Hold the lock at `path`. Whoever waits for it keeps the door shut, so that others do not run past."""
    with path.with_suffix(".door").open("w") as door, path.open("w") as lock:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield
