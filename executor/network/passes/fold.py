"""Make a lowered graph smaller without changing what it computes.

Batch norms go into the convolution before them, activations into the layer that feeds them, zero padding into the
convolution behind it; layers nobody reads go away. Each only where the value in between has no other reader. Before
that, layer norms and GELUs that are written out become one layer each; after it, positions that nobody reads are left
out, scaled activations become clamps, and concatenations that repeat each other are chained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.activation import Activation
from obeql.executor.network.layers.channels import Pad
from obeql.executor.network.layers.conv import Conv
from obeql.executor.network.layers.linear import Linear
from obeql.executor.network.layers.pointwise import Affine, ChannelNorm, Combine
from obeql.executor.network.passes.channel_norms import written_out_norms
from obeql.executor.network.passes.clamp import clamp_before_convolutions
from obeql.executor.network.passes.gelu import written_out_gelu
from obeql.executor.network.passes.prefixes import share_prefixes
from obeql.executor.network.passes.prune_positions import prune_positions

__all__ = ["fold"]


def fold(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the folded graph; the last layer stays last."""
    work: list[Layer | None] = list(_renumbered(written_out_gelu(written_out_norms(layers))))
    for i in range(1, len(work)):
        layer = work[i]
        if layer is None or len(layer.inputs) != 1:
            continue
        j = layer.inputs[0]
        before = work[j]
        if before is None or _n_readers(work, j) != 1:
            continue
        merged = _merged(before, layer)
        if merged is not None:
            merged.inputs = before.inputs
            merged.shape = layer.shape
            work[i] = merged
            work[j] = None
    return share_prefixes(clamp_before_convolutions(prune_positions(_renumbered(work))))


def _merged(before: Layer, layer: Layer) -> Layer | None:
    """Return one layer that does what `before` then `layer` do, or None."""
    if isinstance(layer, Affine) and isinstance(before, (Conv, Linear, Affine)) and before.activation is None:
        folded = before.scaled(layer.scale, layer.shift)
        if layer.activation is None:
            return folded
        if isinstance(folded, Conv | Linear):
            return folded.replaced(folded.weight, folded.bias, layer.activation)
        return folded.replaced(folded.scale, folded.shift, layer.activation)
    if isinstance(layer, Affine) and isinstance(before, ChannelNorm) and layer.activation is None:
        return before.scaled(layer.scale, layer.shift)
    if isinstance(layer, Activation):
        if isinstance(before, Conv | Linear) and before.activation is None:
            return before.replaced(before.weight, before.bias, layer.function)
        if isinstance(before, Affine) and before.activation is None:
            return before.replaced(before.scale, before.shift, layer.function)
        if isinstance(before, Combine) and before.activation is None:
            return before.replaced(layer.function)
    if isinstance(layer, Conv) and isinstance(before, Pad) and before.outside == 0.0 and min(before.pads) >= 0:
        pads = tuple(a + b for a, b in zip(before.pads, layer.pads, strict=True))
        return Conv(
            layer.name,
            before.inputs,
            layer.shape,
            layer.weight,
            layer.bias,
            layer.stride,
            layer.dilation,
            layer.groups,
            pads,
            layer.activation,
        )
    return None


def _n_readers(layers: Sequence[Layer | None], index: int) -> int:
    readers = sum(layer.inputs.count(index) for layer in layers if layer is not None)
    return readers + (index == len(layers) - 1)


def _renumbered(layers: Sequence[Layer | None]) -> tuple[Layer, ...]:
    """Drop merged and unread layers and number the rest anew."""
    needed = {0, len(layers) - 1}
    for i in range(len(layers) - 1, -1, -1):
        layer = layers[i]
        if i in needed and layer is not None:
            needed.update(layer.inputs)
    numbers: dict[int, int] = {}
    kept: list[Layer] = []
    for i, layer in enumerate(layers):
        if layer is None or i not in needed:
            continue
        numbers[i] = len(kept)
        twin = copy.copy(layer)
        twin.inputs = tuple(numbers[j] for j in layer.inputs)
        kept.append(twin)
    return tuple(kept)
