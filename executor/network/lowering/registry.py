"""The rules by ATen operator, and what they all read arguments with.

A rule takes (graph, node name, args, kwargs) with traced values in the arguments and returns a traced value, a list
of them for operators with several outputs, or None where it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from obeql.executor.network.axes import canonical
from obeql.executor.network.capture.trace import TRACE_BATCH, Traced, TracedGraph

__all__ = ["RULES", "Args", "Kwargs", "Rule", "argument", "each_axis", "plain_map", "rule"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Rule = Callable[[TracedGraph, str, Args, Kwargs], Any]

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operators by packet name (a trailing underscore does not count)."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def argument(args: Args, kwargs: Kwargs, position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def each_axis(value: Any, n_axes: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return a number for each axis; ATen gives one for all, one for each, or an empty list for the default."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    if not numbers and default is not None:
        return default
    return numbers * n_axes if len(numbers) == 1 else numbers


def plain_map(graph: TracedGraph, layer: int) -> Traced:
    return Traced(layer, canonical(TRACE_BATCH, graph.layers[layer].shape))
