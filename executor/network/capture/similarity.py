"""Tell a similarity from a logit: whether the one output of a network is a product with features of length 1.

Used by `reading` on the layers as traced. The similarity of an image to one text, as CLIP gives it, says nothing about
yes or no: its sign and its size depend on the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.activation import Activation as Pointwise
from obeql.executor.network.layers.linear import Linear
from obeql.executor.network.layers.pointwise import Affine, Combine
from obeql.executor.network.layers.reduce import AtenCall, Flatten

__all__ = ["is_similarity"]

#: Operators between a length and the output that is a product with what was divided by it.
_BETWEEN = frozenset(
    [
        *(
            "add",
            "sub",
            "mul",
            "div",
            "sum",
            "maximum",
            "clamp",
            "clamp_min",
            "reciprocal",
            "clone",
            "alias",
            "_to_copy",
        ),
        *("view", "_unsafe_view", "reshape", "expand", "squeeze", "unsqueeze", "select", "slice"),
        *("t", "transpose", "permute"),
    ]
)
#: Products that no rule has made a linear layer, such as those of a stack of matrices for each image.
_PRODUCTS = frozenset(("mm", "bmm", "matmul", "mv", "dot", "linear", "addmm", "baddbmm"))
_LENGTHS = frozenset(("linalg_vector_norm", "norm", "linalg_norm"))


def is_similarity(layers: Sequence[Layer]) -> bool:
    """Return whether at most one linear layer lies between the last of some layers and a division by a length."""
    seen: set[tuple[int, int]] = set()
    to_see = [(len(layers) - 1, 0)]
    while to_see:
        number, n_linear = to_see.pop()
        layer = layers[number]
        if _name(layer) in _LENGTHS or _is_root_of_squares(layers, number):
            return True
        is_product = isinstance(layer, Linear) or _name(layer) in _PRODUCTS
        n_linear += is_product
        if (number, n_linear) in seen or n_linear > 1:
            continue
        seen.add((number, n_linear))
        if is_product or isinstance(layer, (Affine, Combine, Flatten)) or _name(layer) in _BETWEEN:
            to_see += [(before, n_linear) for before in layer.inputs]
    return False


def _is_root_of_squares(layers: Sequence[Layer], number: int) -> bool:
    """Return whether a layer is the root of a sum of squares, or one over it."""
    if _name(layers[number]) not in ("rsqrt", "sqrt"):
        return False
    (summed,) = layers[number].inputs
    while isinstance(layers[summed], Affine) or _name(layers[summed]) == "add":  # of something small
        summed = layers[summed].inputs[0]
    if _name(layers[summed]) != "sum":
        return False
    (squared,) = layers[summed].inputs
    layer = layers[squared]
    return _name(layer) in ("pow", "square") or (_name(layer) == "mul" and len(set(layer.inputs)) == 1)


def _name(layer: Layer) -> str:
    if isinstance(layer, Pointwise):
        return layer.function.name
    if isinstance(layer, Combine):
        return str(layer.function)
    if isinstance(layer, AtenCall):
        return str(getattr(getattr(layer.operator, "overloadpacket", None), "__name__", "")).rstrip("_")
    return ""
