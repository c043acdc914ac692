"""How a statement is spread over threads, processes and machines, before it is planned and while it runs.

Planning comes after: the plan rests on the threads and the memory that one worker has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from obeql.executor.cpus import available_cpus
from obeql.planner import BoundExplain, ExplainPlan
from obeql.planner.binding.settings import ALL_GPUS

__all__ = ["resolve_workers", "sharing_a_device", "threads_set"]


def resolve_workers(bound: BoundExplain, threads: int | None) -> BoundExplain:
    """Return the statement with as many workers as there is room for, where it does not say how many.

    `threads` is the setting of that name. Asks the Ray cluster what it has free; raises ExecutionError where none
    answers, UnsupportedError without Ray, DeviceError where the device is missing.
    """
    if bound.options["workers"] or len(bound.images) == 1 or (bound.cluster is None and bound.device != ALL_GPUS):
        return bound
    if bound.cluster is not None:
        from obeql.executor.workers.ray.cluster import free_workers  # noqa: PLC0415

        n_workers = free_workers(bound.cluster, threads or 1, not _on_cpu(bound.device))
    else:
        from obeql.executor.devices import devices_of  # noqa: PLC0415

        n_gpus = len(devices_of(bound.device))
        n_workers = n_gpus if n_gpus > 1 else 0
    return replace(bound, options={**bound.options, "workers": n_workers})


def sharing_a_device(bound: BoundExplain, threads: int | None) -> int:
    """Return how many workers share the memory of one device; nodes of a cluster are taken to be like this machine."""
    from obeql.executor.devices import devices_of  # noqa: PLC0415

    if bound.cluster is None:
        return max(1, -(-bound.workers // len(devices_of(bound.device))))
    return min(max(1, bound.workers), max(1, available_cpus() // (threads or 1))) if _on_cpu(bound.device) else 1


@contextmanager
def threads_set(threads: int | None, plan: BoundExplain | ExplainPlan | None = None) -> Iterator[None]:
    """Compute with so many threads, those of obeql.threads, and leave this thread as it was, and others alone.

    Where that setting is None, processes share the threads of this machine's CPU, and workers of Ray have one each.
    PyTorch counts the CPUs of the whole machine: where a container grants fewer, so many threads are enough.
    """
    n_workers = 0 if plan is None else plan.workers
    n_cpus = available_cpus()
    if threads is None and not n_workers and n_cpus >= (os.cpu_count() or 1):
        yield
        return
    import torch  # noqa: PLC0415

    from obeql.executor.devices.threads import set_own_threads  # noqa: PLC0415

    before = torch.get_num_threads()
    if threads is None:
        threads = min(before, n_cpus)
        if plan is not None and n_workers:
            shared = max(1, threads // n_workers) if _on_cpu(plan.device) else threads
            threads = shared if plan.cluster is None else 1
    set_own_threads(threads)
    try:
        yield
    finally:
        set_own_threads(before)


def _on_cpu(device: str) -> bool:
    from obeql.executor.devices import resolve_device  # noqa: PLC0415

    return resolve_device(device).type == "cpu"
