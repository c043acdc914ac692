"""How an operator uses cores and memory: batches side by side or in turn, channels-last or plain memory.

Part of `schedule`. The executor measures each way once, as a ratio to the usual one: boxes in lanes of cores, whole
maps in turn with all cores, channels-last memory. Another way is taken where it is clearly faster.
"""

from __future__ import annotations

from dataclasses import dataclass

from obeql.planner.physical.cost import Rates

__all__ = ["ExecutionLayout", "for_boxes", "for_whole_maps"]

#: From run to run the measured ratios of a CPU differ by a tenth.
_CLEARLY = 0.85


@dataclass(frozen=True, slots=True)
class ExecutionLayout:
    """Lanes that batches run in side by side, memory layout of maps, and seconds over those of the usual way."""

    n_lanes: int = 1
    channels_last: bool = True
    ratio: float = 1.0


def for_boxes(rates: Rates, disabled: frozenset[str]) -> ExecutionLayout:
    """Return lanes, unless one batch after the other is faster.

    Memory is always channels-last, as the rows that boxes come from.
    """
    if "choose_threads" not in disabled and 0.0 < rates.boxes_in_turn < _CLEARLY:
        return ExecutionLayout(ratio=rates.boxes_in_turn)
    return ExecutionLayout(rates.n_lanes)


def for_whole_maps(rates: Rates, disabled: frozenset[str], most_lanes: float) -> ExecutionLayout:
    """Return all cores in turn and channels-last, unless another way is faster.

    No more than `most_lanes` fit in memory.
    """
    n_lanes, channels_last, ratio = 1, True, 1.0
    if "choose_threads" not in disabled and 0.0 < rates.maps_in_lanes < _CLEARLY and rates.n_lanes <= most_lanes:
        n_lanes, ratio = rates.n_lanes, rates.maps_in_lanes
    if "choose_layout" not in disabled and 0.0 < rates.plain_memory < _CLEARLY:
        channels_last, ratio = False, ratio * rates.plain_memory
    return ExecutionLayout(n_lanes, channels_last, ratio)
