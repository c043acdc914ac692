"""Measured rates and how far they may be believed: the one place that keeps, corrects, doubts and forgets them.

Between `model_registry`, which has a device measured, and the store, which keeps the result for later sessions. After
every run `learn` compares what it took with what was estimated. A little more or less corrects the rates. More than
twice as much, or less than half, makes the next plan measure again, once: what differs after that is the run's to say.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from obeql.planner import Rates

if TYPE_CHECKING:
    from obeql.planner.geometry import Network
    from obeql.store import Store

__all__ = ["KnownRates", "Pace", "RateBook", "shown_age"]

#: Seconds that work was estimated to keep a device busy and those it did, by where: on "boxes" or on whole "maps".
Pace = Mapping[str, tuple[float, float]]

# The numbers count changes of the form, and of what decides a key.
_MEASURED, _RUNS, _LIMITS = "rates 4", "rates 4 runs", "rates 4 limits"
#: A run that differs by more than this is doubted, in either direction.
_DOUBTFUL = 2.0
#: Work estimated and measured below this tells nothing: first calls take longer.
_LEAST_S = 0.5
#: Corrections go by steps, so that runs alike leave plans alike; and at most so far.
_STEP, _MOST = 1.05, 16.0
#: How much faster than a product of matrices a layer may be: where a device is known to do convolutions with fewer
#: multiplications (Winograd), and elsewhere.
_MARGIN_GPU, _MARGIN = 4.0, 1.5


@dataclass(frozen=True, slots=True)
class KnownRates:
    """Rates as measured at a time (seconds since 1970), and what runs said of them since.

    `boxes` and `maps` are corrections, how many times as long as measured work takes there, by `n_runs` runs. `doubt`
    is how many times as long as estimated a run took that is not explained; 1 for none. `again` says that the rates
    were measured because of a doubt.
    """

    rates: Rates
    measured_at: float
    boxes: float = 1.0
    maps: float = 1.0
    n_runs: int = 0
    doubt: float = 1.0
    again: bool = False

    @property
    def is_doubted(self) -> bool:
        return self.doubt != 1.0

    def now(self) -> Rates:
        """Return the rates as corrected, which say where they come from."""
        origin = f"{shown_age(time.time() - self.measured_at)} ago"
        if self.again:
            origin += ", again because a run differed from the estimate"
        if self.n_runs:
            origin += f", corrected by {self.n_runs} run{'s' if self.n_runs != 1 else ''}"
        return replace(self.rates.corrected(self.boxes, self.maps), origin=origin)


class RateBook:
    """The rates of a database, by key: model, hardware, precision, threads and PyTorch's version.

    What is measured is stored by `save`, so that a statement that fails later leaves no trace; in a read-only database
    it lasts as long as the session.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, KnownRates] = {}
        self._unsaved: set[str] = set()
        self._limits: dict[str, float] = {}
        self._unsaved_limits: set[str] = set()

    def find(self, key: str, n_layers: int) -> KnownRates | None:
        """Return the rates of a key that has so many layers; None where there are none, of this session or stored."""
        if key not in self._known:
            measured, said = self._store.fact(_MEASURED, key), self._store.fact(_RUNS, key)
            if measured is None:
                return None
            self._known[key] = _loaded(measured, said)
        known = self._known[key]
        return known if len(known.rates.layer_s) == n_layers else None

    def put(self, key: str, rates: Rates, network: Network, limit: float) -> KnownRates:
        """Take rates that were measured just now, within what the device can do: `limit` as of `limit_of`."""
        before = self._known.get(key)
        bounded = rates.bounded(network, limit * (_MARGIN if rates.on_cpu else _MARGIN_GPU))
        again = before is not None and before.is_doubted
        self._known[key] = KnownRates(bounded, time.time(), again=again)
        self._unsaved.add(key)
        return self._known[key]

    def limit_of(self, key: str) -> float | None:
        """Return the multiply-accumulates a second that a device can do at all, as `put_limit` was told.

        Return None where it was not.
        """
        if key not in self._limits and (stored := self._store.fact(_LIMITS, key)) is not None:
            self._limits[key] = float(stored)
        return self._limits.get(key)

    def put_limit(self, key: str, macs_per_s: float) -> None:
        self._limits[key] = macs_per_s
        self._unsaved_limits.add(key)

    def learn(self, key: str, pace: Pace) -> None:
        """Correct the rates that a run was planned with by what it took, or doubt them."""
        known = self._known.get(key)
        if known is None or known.is_doubted:
            return
        told = {
            where: busy / expected
            for where, (expected, busy) in pace.items()
            if expected > 0.0 and busy > 0.0 and max(expected, busy) >= _LEAST_S
        }
        if not told:
            return
        furthest = max(told.values(), key=lambda ratio: abs(math.log(ratio)))
        if not 1 / _DOUBTFUL <= furthest <= _DOUBTFUL:
            if not known.again:
                self._changed(key, replace(known, doubt=furthest))
                return
            # Measured again already: then the run is right, and not the measurement.
            share, again = 1.0, True
        else:
            share, again = 0.5, False
        boxes, maps = (
            _in_steps(before * told.get(where, 1.0) ** share)
            for where, before in (("boxes", known.boxes), ("maps", known.maps))
        )
        self._changed(key, replace(known, boxes=boxes, maps=maps, n_runs=known.n_runs + 1, again=again))

    def forget(self) -> int:
        """Forget all rates of the database; returns how many there were."""
        stored = {topic: self._store.recalled(topic) for topic in (_MEASURED, _RUNS, _LIMITS)}
        n_known = len(self._known.keys() | stored[_MEASURED].keys())
        if not self._store.read_only:
            for topic, facts in stored.items():
                for key in facts:
                    self._store.remember(topic, key, None)
        self._known.clear()
        self._limits.clear()
        self._unsaved.clear()
        self._unsaved_limits.clear()
        return n_known

    def save(self) -> None:
        """Store what was measured, and what runs said, since the last time."""
        if self._store.read_only:
            return
        for key in sorted(self._unsaved_limits):
            self._store.remember(_LIMITS, key, self._limits[key])
        for key in sorted(self._unsaved):
            known = self._known[key]
            if (self._store.fact(_MEASURED, key) or {}).get("at") != known.measured_at:
                self._store.remember(
                    _MEASURED, key, {"at": known.measured_at, "rates": json.loads(known.rates.to_json())}
                )
            self._store.remember(_RUNS, key, _said(known))
        self._unsaved.clear()
        self._unsaved_limits.clear()

    def _changed(self, key: str, known: KnownRates) -> None:
        before = self._known[key]
        self._known[key] = known
        # One run more that changes nothing is not worth a row.
        if replace(before, n_runs=known.n_runs) != known or known.n_runs <= 1:
            self._unsaved.add(key)


def _said(known: KnownRates) -> dict[str, float]:
    """Return what runs said of rates, and of which."""
    names = ("measured_at", "boxes", "maps", "n_runs", "doubt", "again")
    return {name: getattr(known, name) for name in names}


def _loaded(measured: Mapping[str, object], said: Mapping[str, float] | None) -> KnownRates:
    rates, at = Rates.from_json(json.dumps(measured["rates"])), float(str(measured["at"]))
    if said is None or said["measured_at"] != at:
        return KnownRates(rates, at)
    return KnownRates(
        rates, at, said["boxes"], said["maps"], int(said["n_runs"]), said["doubt"], again=bool(said["again"])
    )


def _in_steps(correction: float) -> float:
    bounded = min(_MOST, max(1 / _MOST, correction))
    return _STEP ** round(math.log(bounded) / math.log(_STEP))


def shown_age(seconds: float) -> str:
    """Return an age in the largest unit that fits: `12 seconds`, `1 hour`, `3 days`."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{max(1, round(seconds))} second{'s' if round(seconds) > 1 else ''}"
