"""The option `channel`: which channels of the model's input the windows hide.

Between the tables of options, whose parser is here, and `bind`, which gives every grid its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from obeql.errors import QueryTypeError, nearest
from obeql.grammar import syntax
from obeql.planner.binding.error_location import locate
from obeql.planner.binding.values import BadValue, shown
from obeql.planner.catalog import ModelRecord
from obeql.planner.grid import WindowGrid

__all__ = ["EACH", "channel_value", "hidden_channels_of", "in_channels"]

#: The word for a map of each channel.
EACH = "each"

#: Channels that a message names.
_NAMED = 12


def channel_value(name: str, value: Any) -> str | tuple[str | int, ...]:
    """Parse `each`, a channel by its number or name, or a list of these; a model knows which there are."""
    if isinstance(value, str) and value.lower() == EACH:
        return EACH
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise BadValue(f"{name} takes at least one channel, not an empty list.")
    for place, item in enumerate(items):
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise BadValue(f"{name} takes numbers or names of channels, or each, not {shown(item)}.", place)
    return tuple(items)


def hidden_channels_of(
    asked: str | tuple[str | int, ...] | None, model: ModelRecord, node: syntax.Node
) -> tuple[tuple[int, ...] | None, ...]:
    """Return the channels that the windows of each map hide, None all of them.

    Raises QueryTypeError, at `node`, for a channel that the model's input does not have.
    """
    if asked is None:
        return (None,)
    names = model.preprocessing.channel_names
    groups: Sequence[Sequence[int]]
    if asked == EACH:
        groups = [(number,) for number in range(len(names))]
    else:
        try:
            groups = [sorted({_number(channel, names, model) for channel in asked})]
        except QueryTypeError as wrong:
            raise locate(wrong, node) from None
    # Hiding every channel is what windows do anyway, so that stored cells answer both.
    return tuple(None if len(group) == len(names) else tuple(group) for group in groups)


def _number(channel: str | int, names: Sequence[str], model: ModelRecord) -> int:
    has = f"the input of model {model.name!r} has {len(names)}"
    if isinstance(channel, int):
        if not 0 <= channel < len(names):
            raise QueryTypeError(f"channel {channel} does not exist: {has}, counted from 0.")
        return channel
    found = [number for number, name in enumerate(names) if name == channel]
    found = found or [number for number, name in enumerate(names) if name.lower() == channel.lower()]
    if len(found) != 1:
        listed = ", ".join(names[:_NAMED]) + (", .." if len(names) > _NAMED else "")
        problem = "does not exist" if not found else "is the name of several"
        raise QueryTypeError(f"channel {channel!r} {problem}: {has}, {listed}.{nearest(channel, names)}")
    return found[0]


def in_channels(grids: Sequence[WindowGrid], channels: Sequence[tuple[int, ...] | None]) -> tuple[WindowGrid, ...]:
    """Return each grid with its windows in each of the groups of channels."""
    return tuple(replace(grid, channels=each) for grid in grids for each in channels)
