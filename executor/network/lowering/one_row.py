"""Values of three axes, (N, C, length), in the rules of maps: a signal is a map of one row.

Rules of operators on one axis look at their operand with `with_row`, do what the rule of two axes does, and give its
result back with `without_row`. Neither adds a layer.
"""

from __future__ import annotations

from obeql.executor.network.capture.trace import Traced

__all__ = ["is_signal", "with_row", "without_row"]


def is_signal(value: Traced) -> bool:
    """Return whether a traced value has the axes of a signal, (N, C, length)."""
    return value.axes is not None and len(value.axes) == 3


def with_row(value: Traced) -> Traced:
    """Return (N, C, length) looked at as (N, C, 1, length)."""
    assert value.axes is not None
    return Traced(value.layer, (*value.axes[:2], (), *value.axes[2:]))


def without_row(value: Traced) -> Traced:
    """Return (N, C, 1, length) looked at as (N, C, length)."""
    assert value.axes is not None
    return Traced(value.layer, (*value.axes[:2], *value.axes[3:]))
