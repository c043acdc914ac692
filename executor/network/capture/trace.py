"""Traced values while a network is being lowered: which layer holds them and how the trace looks at them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from obeql.executor.network.axes import Atom, Axes, axis_names, canonical, channel_order, group_size, joined
from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.channels import SelectChannels
from obeql.executor.network.layers.reduce import Flatten

__all__ = ["TRACE_BATCH", "CannotLowerError", "Traced", "TracedGraph"]

#: Number of images during tracing: a prime no network uses as a size, so that it marks the batch axis.
TRACE_BATCH = 97


class CannotLowerError(Exception):
    """The traced network has a form that layers cannot express; it will run whole."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced tensor: the output of `layer`, looked at as `axes`.

    `axes` None means that the layer's output has the traced layout itself; `shape` is then that layout, batch first.
    """

    layer: int
    axes: Axes | None
    shape: tuple[int, ...] = ()

    def size(self) -> tuple[int, ...]:
        """Return the traced tensor's shape, batch first."""
        return self.shape if self.axes is None else tuple(group_size(group) for group in self.axes)


class TracedGraph:
    """The layers made so far, and the ways to bring a traced value into the form a rule needs."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    def add(self, layer: Layer) -> int:
        self.layers.append(layer)
        return len(self.layers) - 1

    def shape(self, value: Traced) -> tuple[int, ...]:
        """Return the shape of the layer's own output without the batch axis."""
        return self.layers[value.layer].shape

    def is_map(self, value: Traced) -> bool:
        """Return whether the layer's output has spatial axes, as many as the image."""
        return len(self.shape(value)) == len(self.layers[0].shape)

    def map_of(self, value: Traced) -> Traced | None:
        """Return the value as a map whose axes read N, C, ..., with its channels in order; None if it is not one."""
        if value.axes is None or not self.is_map(value) or len(value.axes) != len(self.shape(value)) + 1:
            return None
        plain = canonical(TRACE_BATCH, self.shape(value))
        if value.axes == plain:
            return value
        for position, axis in enumerate("N" + axis_names(self.shape(value))):
            if any(atom.axis != axis for atom in value.axes[position]):
                return None
        order = channel_order(value.axes[1], self.shape(value)[0])
        if order is None:
            return None
        return Traced(self.select(value.layer, order), plain)

    def select(self, layer: int, order: list[int]) -> int:
        shape = (len(order), *self.layers[layer].shape[1:])
        return self.add(SelectChannels(f"{self.layers[layer].name}_channels", (layer,), shape, order))

    def as_vector(self, value: Traced) -> Traced | None:
        """Return the value as (N, K); a map that was viewed so becomes a Flatten layer. None if it has more axes."""
        if value.axes is None:
            return value if len(value.shape) == 2 else None
        if len(value.axes) != 2 or [atom.axis for atom in value.axes[0]] != ["N"]:
            return None
        return self.as_traced(value)

    def as_traced(self, value: Traced) -> Traced:
        """Return the value in the layout of the trace, by a Flatten layer where that differs from the layer's own."""
        if value.axes is None:
            return value
        shape = self.shape(value)
        size = value.size()
        if value.axes == canonical(TRACE_BATCH, shape) and len(size) == len(shape) + 1:
            return Traced(value.layer, None, size)
        atoms = [atom for group in value.axes for atom in group]
        if not atoms or atoms[0].axis != "N" or any(atom.axis == "N" for atom in atoms[1:]):
            raise CannotLowerError("the batch axis is not the first")
        seen = joined(atoms[1:])
        source = value.layer
        channels = tuple(atom for atom in seen if atom.axis == "C")
        order = channel_order(channels, shape[0])
        if order is not None and len(order) == shape[0]:
            # Channels that the trace runs through in another order, all in one place.
            place = seen.index(channels[0])
            if seen[place : place + len(channels)] == channels:
                source = self.select(source, order)
                seen = (*seen[:place], Atom("C", shape[0]), *seen[place + len(channels) :])
        axes_order = self._order("".join(atom.axis for atom in seen), shape)
        if axes_order is None:
            raise CannotLowerError("axes are interleaved in a way that is not a permute and a reshape")
        if math.prod(size[1:]) != math.prod(shape):
            raise CannotLowerError("a view changes the number of elements")
        layer = Flatten(f"{self.layers[source].name}_view", (source,), size[1:], axes_order)
        return Traced(self.add(layer), None, size)

    @staticmethod
    def _order(seen: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the permutation of (N, C, ...) or (N, K) in which the trace runs through the axes."""
        names = axis_names(shape)
        missing = [axis for axis in names if axis not in seen]
        if len(set(seen)) != len(seen) or any(shape[names.index(axis)] != 1 for axis in missing):
            return None
        return (0, *(1 + names.index(axis) for axis in (*seen, *missing)))
