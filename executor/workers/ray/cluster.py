"""The connection with a Ray cluster: found or started, asked what it has, let go of. Ray is imported here only.

An address is `local` for a cluster of this machine alone, which is started for the statement and ended with it; else
what Ray takes: `host:port`, or `auto` for the cluster that this machine belongs to. A program that has called
`ray.init` itself keeps its connection, whatever the address.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from obeql.errors import ExecutionError, UnsupportedError, install
from obeql.executor.cpus import available_cpus
from obeql.executor.devices import available_devices

__all__ = ["LOCAL", "connected", "free_workers", "holdings", "ray_module"]

LOCAL = "local"

#: While Ray is imported and started: no usage statistics for the cluster of a statement, and no lines of its own
#: about workers that die, which the coordinator deals with.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": ".*"}


def ray_module() -> Any:
    """Return Ray. Raises UnsupportedError where it is not installed."""
    try:
        with _environment(_QUIET):
            import ray  # noqa: PLC0415
    except ImportError as error:
        raise UnsupportedError(
            f"ON ray needs the package ray ({error}); {install('ray')}, here and on every node."
        ) from error
    return ray


@contextmanager
def connected(address: str, n_cpus: int) -> Iterator[Any]:
    """Connect Ray with a cluster while the block runs. A `local` one is started with so many CPUs, as Ray counts.

    Raises UnsupportedError without Ray, or for an address of Ray's client; ExecutionError where nobody answers.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield ray
        return
    if address.startswith("ray://"):
        raise UnsupportedError(
            f"{address!r} is an address of Ray's client, which workers cannot be steered through: run the session on "
            "a machine of the cluster, and give 'host:port', or RAY_ADDRESS=auto in the environment."
        )
    settings: dict[str, Any] = {"num_cpus": n_cpus, "include_dashboard": False} if address == LOCAL else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _environment(_QUIET):
            ray.init(address, namespace="obeql", log_to_driver=False, logging_level="ERROR", **settings)
    except Exception as error:  # of many kinds, none of them ours
        ray.shutdown()
        raise ExecutionError(f"There is no Ray cluster at {address!r}: {_first(error)}") from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray sets its own
        yield ray
    finally:
        ray.shutdown()


def holdings(ray: Any) -> str:
    """Return what a cluster has, in words."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    has, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{has.get(kind, 0):g} {kind}s ({free.get(kind, 0):g} free)" for kind in ("CPU", "GPU")]
    return f"{len(nodes)} node{'s' if len(nodes) != 1 else ''} with {' and '.join(parts)}"


def free_workers(address: str, threads: int, on_gpu: bool) -> int:
    """Return how many workers of so many threads, with a GPU each or none, a cluster has room for beside one free CPU.

    At least 1. Raises as `connected` does.
    """
    if address == LOCAL and not ray_module().is_initialized():
        free = {"CPU": available_cpus(), "GPU": len(available_devices()) - 1}
    else:
        with connected(address, 0) as ray:
            free = ray.available_resources()
    n_workers = int(free.get("CPU", 0) - 1) // threads
    return max(1, min(n_workers, int(free.get("GPU", 0))) if on_gpu else n_workers)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables that are not set while the block runs."""
    ours = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
