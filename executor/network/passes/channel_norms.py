"""Find layer norms that are written out as means, differences and a root, as ONNX files have them, and make them one.

Before `fold`, which takes the scale and shift behind them in.
"""

from __future__ import annotations

from collections.abc import Sequence

from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.activation import Activation
from obeql.executor.network.layers.pointwise import Affine, ChannelMean, ChannelNorm, Combine

__all__ = ["written_out_norms"]


def written_out_norms(layers: Sequence[Layer]) -> list[Layer]:
    """Return the graph with (x - mean) / sqrt(mean((x - mean)^2) + epsilon) over channels as `ChannelNorm`.

    The layers that it was made of stay, for those that read them; `fold` leaves out what nobody reads.
    """
    return [_norm(layers, layer) or layer for layer in layers]


def _norm(layers: Sequence[Layer], layer: Layer) -> ChannelNorm | None:
    if not isinstance(layer, Combine) or layer.function not in ("div", "mul") or layer.activation is not None:
        return None
    left, right = layer.inputs
    for centered, root in ((left, right),) if layer.function == "div" else ((left, right), (right, left)):
        source = _centered(layers, layers[centered])
        under = _under_root(layers, layers[root], layer.function == "mul")
        epsilon = None if source is None or under is None else _epsilon(layers, layers[under], centered)
        if source is not None and epsilon is not None:
            return ChannelNorm(layer.name, (source,), layer.shape, None, None, epsilon)
    return None


def _under_root(layers: Sequence[Layer], layer: Layer, inverse: bool) -> int | None:
    """Return what a layer is the square root of, or with `inverse` one over it; None if it is something else."""
    if not isinstance(layer, Activation):
        return None
    if inverse and layer.function.name == "reciprocal":
        return _under_root(layers, layers[layer.inputs[0]], inverse=False)
    return layer.inputs[0] if layer.function.name == ("rsqrt" if inverse else "sqrt") else None


def _centered(layers: Sequence[Layer], layer: Layer) -> int | None:
    """Return what a layer is less its mean over channels; None if it is something else."""
    if not isinstance(layer, Combine) or layer.function != "sub" or layer.activation is not None:
        return None
    source, mean = layer.inputs
    return source if isinstance(layers[mean], ChannelMean) and layers[mean].inputs == (source,) else None


def _epsilon(layers: Sequence[Layer], layer: Layer, centered: int) -> float | None:
    """Return what is added to the mean of the squares of layer `centered`; None if that is not what a layer is."""
    epsilon = 0.0
    if isinstance(layer, Activation) and layer.function.name == "add" and len(layer.function.args) == 1:
        epsilon, layer = float(layer.function.args[0]), layers[layer.inputs[0]]
    elif isinstance(layer, Affine) and bool((layer.scale == 1).all()) and layer.shift.numel() == 1:
        epsilon, layer = float(layer.shift), layers[layer.inputs[0]]
    if not isinstance(layer, ChannelMean):
        return None
    squares = layers[layer.inputs[0]]
    if squares.inputs not in ((centered,), (centered, centered)):
        return None
    if isinstance(squares, Combine):
        return epsilon if squares.function == "mul" else None
    if not isinstance(squares, Activation):
        return None
    is_square = squares.function.name == "square" or (
        squares.function.name == "pow" and [float(a) for a in squares.function.args] == [2.0]
    )
    return epsilon if is_square else None
