"""Compute only the positions that are read: where a head reads a class token, the last block needs no other queries.

The choice of positions is moved up through the layers that act on every position alone, and through attention, whose
keys and values still need all of them. After `fold`, so that few layers are in the way.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.activation import Activation
from obeql.executor.network.layers.attention import Attention
from obeql.executor.network.layers.channels import SelectChannels
from obeql.executor.network.layers.conv import Conv
from obeql.executor.network.layers.pointwise import Affine, ChannelNorm, Clamp, Combine
from obeql.executor.network.layers.tokens import AddMap, SelectPositions

__all__ = ["prune_positions"]

_BY_POSITION = (Activation, Affine, AddMap, ChannelNorm, Clamp, Combine, Conv, SelectChannels)


def prune_positions(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the graph with choices of positions as early as they can be made, and what nobody reads left out."""
    work = list(layers)
    found: list[Layer] | None = work
    while found is not None:
        work = found
        found = next(filter(None, (_moved(work, i) for i in range(len(work)))), None)
    return tuple(_without_unread_channels(work))


def _moved(layers: list[Layer], i: int) -> list[Layer] | None:
    """Return the graph with choice of positions `i` made before the layer that it reads; None if it cannot be."""
    chosen = layers[i]
    if not isinstance(chosen, SelectPositions):
        return None
    (j,) = chosen.inputs
    before = layers[j]
    if _readers(layers, j) != [i] or not _can_choose_first(before, layers):
        return None
    source = before
    inputs = before.inputs
    if isinstance(before, SelectChannels) and _is_product(layers[inputs[0]]):
        # Only these channels of a product with weights: queries, without keys and values.
        product = layers[inputs[0]]
        assert isinstance(product, Conv)
        rows = list(before.order)
        source = product.replaced(
            product.weight[rows], None if product.bias is None else product.bias[rows], product.activation
        )
        inputs = product.inputs
    n = len(chosen.positions)
    n_first = 1 if isinstance(source, Attention) else len(inputs)
    work: list[Layer] = list(layers[:i])
    read = list(inputs)
    for k in range(n_first):
        shape = _positions_shape(layers[inputs[k]], n)
        work.append(SelectPositions(chosen.name, (inputs[k],), shape, chosen.positions))
        read[k] = len(work) - 1
    work.append(_of_positions(source, read, n, chosen.positions))
    # The choice itself gives way to the layers put here; what nobody reads goes.
    shift = len(work) - i - 1
    numbers = [*range(i), *(k + shift for k in range(i, len(layers)))]
    for layer in layers[i + 1 :]:
        later = copy.copy(layer)
        later.inputs = tuple(numbers[k] for k in layer.inputs)
        work.append(later)
    return _read_layers(work)


def _can_choose_first(layer: Layer, layers: Sequence[Layer]) -> bool:
    if isinstance(layer, Attention):
        return True
    if not isinstance(layer, _BY_POSITION) or layer.reach != "pointwise":
        return False
    return all(layers[k].shape[1:] == layer.shape[1:] for k in layer.inputs)


def _is_product(layer: Layer) -> bool:
    return isinstance(layer, Conv) and layer.pointwise and layer.groups == 1


def _of_positions(layer: Layer, inputs: Sequence[int], n: int, positions: Sequence[int]) -> Layer:
    """Return a layer for some positions only, reading `inputs`."""
    channels = layer.shape[0]
    if isinstance(layer, Attention):
        bias = None if layer.bias is None else layer.bias[:, list(positions)]
        return layer.of_positions(inputs, n, bias)
    if isinstance(layer, AddMap):
        values = layer.values.reshape(channels, -1)[:, list(positions)]
        return AddMap(layer.name, inputs, _positions_shape(layer, n), values.reshape(_positions_shape(layer, n)))
    if isinstance(layer, Conv):
        channels = layer.weight.shape[0]
    moved = copy.copy(layer)
    moved.inputs, moved.shape = tuple(inputs), (channels, *_positions_shape(layer, n)[1:])
    return moved


def _positions_shape(layer: Layer, n: int) -> tuple[int, ...]:
    """Return the shape of so many positions of a layer's map, (C, n, 1, ...)."""
    return (layer.shape[0], n, *(1,) * (len(layer.shape) - 2))


def _readers(layers: Sequence[Layer], j: int) -> list[int]:
    return [k for k, layer in enumerate(layers) if j in layer.inputs]


def _read_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers that the last one depends on, and the image, with new numbers; equal choices become one."""
    first: dict[tuple[int, tuple[int, ...]], int] = {}
    same = list(range(len(layers)))
    inputs: list[tuple[int, ...]] = []
    for k, layer in enumerate(layers):
        inputs.append(tuple(same[j] for j in layer.inputs))
        if isinstance(layer, SelectPositions):
            same[k] = first.setdefault((inputs[k][0], layer.positions), k)
    needed = {0, len(layers) - 1}
    for k in range(len(layers) - 1, -1, -1):
        if k in needed:
            needed.update(inputs[k])
    numbers = {k: number for number, k in enumerate(sorted(needed))}
    kept = []
    for k in sorted(needed):
        layer = copy.copy(layers[k])
        layer.inputs = tuple(numbers[j] for j in inputs[k])
        kept.append(layer)
    return kept


def _without_unread_channels(layers: Sequence[Layer]) -> list[Layer]:
    """Return the graph without the outputs of products that no choice of channels behind them takes."""
    work = list(layers)
    for j, layer in enumerate(layers):
        readers = [work[k] for k in _readers(work, j)]
        choices = [reader for reader in readers if isinstance(reader, SelectChannels)]
        if not isinstance(layer, Conv) or not _is_product(layer) or not readers or len(choices) != len(readers):
            continue
        rows = sorted({channel for reader in choices for channel in reader.order})
        if len(rows) == layer.shape[0]:
            continue
        bias = None if layer.bias is None else layer.bias[rows]
        fewer = layer.replaced(layer.weight[torch.tensor(rows)], bias, layer.activation)
        fewer.shape = (len(rows), *layer.shape[1:])
        work[j] = fewer
        place = {channel: k for k, channel in enumerate(rows)}
        for k in _readers(work, j):
            reader = work[k]
            assert isinstance(reader, SelectChannels)
            order = [place[channel] for channel in reader.order]
            work[k] = SelectChannels(reader.name, reader.inputs, reader.shape, order)
    return work
