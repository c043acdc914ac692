"""Workers as actors of Ray, on whatever nodes of a cluster; seen from the coordinator.

Each has one call under way, which ends when the worker has said something: the answers of all of them are what
`ready` waits for, and all that the object store holds beside the network.
"""

from __future__ import annotations

import hashlib
import pickle
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from obeql.errors import ExecutionError
from obeql.executor.workers.model_transfer import receive_graph
from obeql.executor.workers.pool import Worker, WorkerPool
from obeql.executor.workers.protocol import Order, Report
from obeql.executor.workers.ray.cluster import connected, holdings

__all__ = ["RayPool"]

#: Seconds for which a statement goes on without any worker, at its start or later.
PLACEMENT_SECONDS = 120.0


class RayWorker(Worker):
    """An actor."""

    def __init__(self, place: int, ray: Any, actor: Any) -> None:
        super().__init__(place)
        self.actor = actor
        #: whether it runs, not only waits for a node that has room for it
        self.placed = False
        self._ray = ray
        #: the call under way
        self.call: Any = actor.arrive.remote()
        #: what it has said, in order; None at the end: it is gone
        self.said: deque[Sequence[Report] | None] = deque()
        self._fate = "it is gone"

    def answer(self, message: Any) -> None:
        parcel = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if self.call is None:
            self.call = self.actor.exchange.remote(parcel)
        else:
            self.actor.tell.remote(parcel)

    def listen(self) -> Any:
        """Return the call that ends when it has said something."""
        if self.call is None:
            self.call = self.actor.exchange.remote(None)
        return self.call

    def take(self) -> None:
        """Take what the call has brought: of the first the versions, then messages."""
        try:
            found = self._ray.get(self.call)
        except self._ray.exceptions.RayError as error:
            self._fate = _fate(error)
            self.said.append(None)
            return
        self.call = None
        if not self.placed:
            self.placed = True
            _require_same_versions(found)
        elif not found:
            self.said.append(None)
        else:
            self.said += [pickle.loads(reports) for reports in found]

    def receive(self) -> Sequence[Report] | None:
        return self.said.popleft()

    @property
    def end(self) -> str:
        return self._fate


class RayPool(WorkerPool[RayWorker]):
    """Actors, each with as many CPUs as it has threads, and with a GPU where it computes on one."""

    def __init__(self, orders: Sequence[Order], address: str) -> None:
        super().__init__(orders)
        self._address = address
        self._needs = {"num_cpus": orders[0].threads, "num_gpus": int(orders[0].plan.device == "cuda")}
        self._connection = ExitStack()
        self._until = 0.0
        self._network: tuple[Any, str]

    def begin(self) -> None:
        """Connect, and put the network into the object store: once, whatever the number of workers."""
        order = self._orders[0]
        assert isinstance(order.network, str)
        if not order.trusted:
            receive_graph(order.network, trusted=False)  # refused here, where it is told at once
        n_cpus = len(self._orders) * order.threads + 1
        self._ray = self._connection.enter_context(connected(self._address, n_cpus))
        content = np.fromfile(Path(order.network), np.uint8)
        self._network = self._ray.put(content), hashlib.sha256(content.data).hexdigest()
        from obeql.executor.workers.ray.actor import Actor  # noqa: PLC0415

        options = {**self._needs, "max_concurrency": 3, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._actor = self._ray.remote(**options)(Actor)
        self._until = time.monotonic() + PLACEMENT_SECONDS

    def start(self, place: int) -> None:
        order = pickle.dumps(self._orders[place], pickle.HIGHEST_PROTOCOL)
        self.workers.append(RayWorker(place, self._ray, self._actor.remote(order, *self._network)))

    def ready(self, seconds: float) -> list[RayWorker]:
        calls = {worker.listen(): worker for worker in self.workers if not worker.said}
        if len(calls) < len(self.workers):
            seconds = 0.0
        if calls:
            ended, _ = self._ray.wait(list(calls), timeout=seconds)
            if ended and len(calls) > 1:  # the others that have ended meanwhile, too
                ended, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
            for call in ended:
                calls[call].take()
        self._require_a_worker()
        return [worker for worker in self.workers if worker.said]

    def remove(self, worker: RayWorker) -> None:
        self.workers.remove(worker)
        self._ray.kill(worker.actor)

    def end(self) -> None:
        workers, self.workers = self.workers, []
        with self._connection:  # let go of also where the cluster is gone
            for worker in workers:
                self._ray.kill(worker.actor)

    def _require_a_worker(self) -> None:
        """Raise ExecutionError where no worker has found a node for too long."""
        now = time.monotonic()
        if any(worker.placed for worker in self.workers):
            self._until = now + PLACEMENT_SECONDS
        elif now > self._until:
            gpu = f" and {self._needs['num_gpus']} GPU" if self._needs["num_gpus"] else ""
            raise ExecutionError(
                f"Ray has found no place for a worker within {PLACEMENT_SECONDS:g} s: asked were {len(self._orders)} "
                f"of {self._needs['num_cpus']} CPU{gpu} each; the cluster has {holdings(self._ray)}."
            )


def _require_same_versions(theirs: dict[str, str]) -> None:
    from obeql.executor.workers.ray.actor import versions  # noqa: PLC0415

    for package, ours in versions().items():
        if theirs.get(package) != ours:
            raise ExecutionError(
                f"A node of the Ray cluster has {package} {theirs.get(package)}, this process {ours}: the same "
                "statement would give other cells; install the same versions on every node."
            )


def _fate(error: Exception) -> str:
    """Return, of the lines of an error of Ray, the last that says what has happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit detail:" in line] or lines[-1:] or [type(error).__name__]
    return telling[0].partition("exit detail:")[2].strip().partition(". Some common causes")[0] or telling[0]
