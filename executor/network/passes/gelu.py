"""Find the GELU written out with an error function, as ONNX files have it, and make it one function.

Before `fold`, which puts it behind the product with weights that comes before it.

Source: Hendrycks and Gimpel, Gaussian Error Linear Units (2016): x / 2 * (1 + erf(x / sqrt 2)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.activation import Activation, Elementwise
from obeql.executor.network.layers.pointwise import Affine, Combine

__all__ = ["written_out_gelu"]

_TOLERANCE = 1e-6


def written_out_gelu(layers: Sequence[Layer]) -> list[Layer]:
    """Return the graph with x / 2 * (1 + erf(x / sqrt 2)) as one activation, whichever factor the half is with."""
    work = list(layers)
    for i, layer in enumerate(work):
        found = _source(work, i)
        if found is not None:
            work[i] = Activation(layer.name, (found,), layer.shape, Elementwise("gelu"))
    return work


def _source(layers: Sequence[Layer], i: int) -> int | None:
    """Return what layer `i` is the GELU of; None if it is something else."""
    below, factor = _scaled(layers, i)
    product = layers[below]
    if not isinstance(product, Combine) or product.function != "mul" or product.activation is not None:
        return None
    left, right = product.inputs
    for plain, curve in ((left, right), (right, left)):
        of_curve = _curve(layers, curve)
        source, of_plain = _scaled(layers, plain)
        if of_curve is not None and of_curve[0] == source and _near(factor * of_plain * of_curve[1], 0.5):
            return source
    return None


def _curve(layers: Sequence[Layer], i: int) -> tuple[int, float] | None:
    """Return (x, factor) where layer `i` is factor * (1 + erf(x / sqrt 2))."""
    below, factor = _scaled(layers, i)
    one = _shift(layers[below])
    if one is None or not _near(one, 1.0):
        return None
    (curve,) = layers[below].inputs
    error = layers[curve]
    if not isinstance(error, Activation) or error.function.name != "erf":
        return None
    source, scale = _scaled(layers, error.inputs[0])
    return (source, factor) if _near(scale, math.sqrt(0.5)) else None


def _scaled(layers: Sequence[Layer], i: int) -> tuple[int, float]:
    """Return (x, factor) where layer `i` is x times a number; itself and 1 if it is anything else."""
    layer = layers[i]
    if isinstance(layer, Activation) and layer.function.name in ("mul", "div") and len(layer.function.args) == 1:
        number = float(layer.function.args[0])
        return layer.inputs[0], number if layer.function.name == "mul" else 1.0 / number
    if isinstance(layer, Affine) and layer.activation is None and not bool(layer.shift.any()):
        first = float(layer.scale[0])
        if bool((layer.scale == first).all()):
            return layer.inputs[0], first
    return i, 1.0


def _shift(layer: Layer) -> float | None:
    """Return the number that a layer adds to its input; None if it does anything else."""
    if isinstance(layer, Activation) and layer.function.name == "add" and len(layer.function.args) == 1:
        return float(layer.function.args[0])
    if isinstance(layer, Affine) and layer.activation is None and bool((layer.scale == 1).all()):
        first = float(layer.shift[0])
        return first if bool((layer.shift == first).all()) else None
    return None


def _near(number: float, wanted: float) -> bool:
    return abs(number - wanted) <= _TOLERANCE * abs(wanted)
