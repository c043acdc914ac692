"""What a network's outputs mean: logits, probabilities or values, one yes or no or a number of classes.

Comes last in `capture`: the layers that give what the module returns get layers behind them that make logits of it.
Where nobody has said what the outputs are, they are looked at: rows that lie in 0..1 and sum to 1 are probabilities.
Rows that only lie in 0..1 may be logits that happen to, so that there the last layers have a say as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from obeql.errors import ModelError
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.activation import Activation as Pointwise
from obeql.executor.network.layers.channels import Concat, SelectChannels
from obeql.executor.network.layers.conv import Conv
from obeql.executor.network.layers.head import Probabilities, YesNo, slack
from obeql.executor.network.layers.image import Image
from obeql.executor.network.layers.linear import Linear
from obeql.executor.network.layers.pointwise import Affine, ChannelNorm, Combine
from obeql.executor.network.layers.pool import AveragePool, MaxPool
from obeql.executor.network.layers.reduce import AdaptivePool, AtenCall, Flatten, GlobalMean
from obeql.planner.catalog import Activation, RawOutputs

__all__ = ["Reach", "no_probability", "reach_of", "require_fitting", "sum_to_one", "sums_to_one", "with_head"]

#: Where values lie, as far as the layers that give them tell.
Reach = Literal["0 to 1", "any", "unknown"]

#: Least spread of outputs that shows that a network answers at all.
_SPREAD = 1e-6
#: Outputs further from a sum of 1 than this, and than rounding explains, are judged one by one.
_SUM = 2e-6

_PASSES_ON = (Flatten, GlobalMean, AveragePool, MaxPool, AdaptivePool, Concat, SelectChannels, Combine, Affine)
_ANY = (Image, Conv, Linear, ChannelNorm)
#: Functions whose values lie in 0..1, those that keep what lies there near it, and those of weights.
_NAMES: dict[Reach | Literal["kept"], str] = {
    "0 to 1": "sigmoid hardsigmoid _softmax softmax",
    "kept": "add sub rsub mul div neg relu relu6 leaky_relu softplus gelu silu elu hardswish mish abs exp square pow "
    "sqrt clamp_min mean sum cat stack view _unsafe_view reshape permute transpose t expand squeeze unsqueeze select "
    "slice clone _to_copy alias detach flatten amax amin max min maximum minimum",
    "any": "mm bmm addmm baddbmm matmul linear convolution conv2d conv3d native_layer_norm layer_norm "
    "native_batch_norm _native_batch_norm_legit_no_training native_group_norm",
}
_KIND_OF = {name: kind for kind, names in _NAMES.items() for name in names.split()}


def with_head(
    layers: Sequence[Layer],
    outputs: RawOutputs | None,
    activation: Activation | None,
    found: Activation | None,
    reach: Reach,
    probed: Tensor,
    more: Callable[[], Tensor],
    reason: str = "",
    similarity: bool = False,
) -> LayerGraph:
    """Return the layers as a graph, with those behind them that give one logit a class.

    `outputs` and `activation` are what was said, `found` is a final activation that was left out of `layers`. `probed`
    (n, K) is what the network returns for some images, `more` gives that for images beyond what it is meant for, on
    which logits do not stay in 0..1 by chance. `reach` is what `reach_of` says, `similarity` what `is_similarity` does.

    Raises ModelError where what was said does not fit the outputs, or where nothing was said of one similarity.
    """
    layers = tuple(layers)
    last, n_outputs = len(layers) - 1, layers[-1].shape[0]
    if outputs == "value":
        if activation is not None:
            raise ModelError(f"activation={activation} is for the outputs of classifiers, not for outputs=value.")
        return LayerGraph(layers, "none", reason)
    require_fitting(n_outputs, activation, found)
    exclusive: bool | None = None  # None: the outputs are logits
    if outputs == "probabilities" and found is None:
        exclusive = _require_probabilities(probed, activation)
    elif outputs is None and found is None:
        exclusive = _seen_as_probabilities(reach, probed, more)
    if exclusive is not None:
        exclusive = n_outputs > 1 and (exclusive if activation is None else activation == "softmax")
        least = torch.finfo(probed.dtype).eps / 2 if _is_complement(probed) else None
        layers = (*layers, Probabilities("probabilities", (last,), (n_outputs,), exclusive, least))
        activation = "softmax" if exclusive else "sigmoid"
    if n_outputs == 1:
        if similarity and outputs is None and activation is None and found is None:
            raise ModelError(
                "The network's one output is a product with features of length 1, as the similarity of an image to one "
                "text is, and no logit of yes or no by itself; say outputs=value for a similarity, or outputs=logits."
            )
        layers = (*layers, YesNo("yes_no", (len(layers) - 1,), (2,)))
        return LayerGraph(layers, "sigmoid", reason)
    by_looks = outputs is None and found is None and exclusive is None and activation != "sigmoid"
    return LayerGraph(layers, activation or found or "softmax", reason, by_looks=by_looks)


def reach_of(layers: Sequence[Layer]) -> Reach:
    """Return where the values of the last of some layers, before any are fused, lie."""
    seen: list[Reach] = []
    for layer in layers:
        seen.append(_reach(layer, [seen[j] for j in layer.inputs]))
    return seen[-1]


def sums_to_one(rows: Tensor) -> bool:
    """Return whether each of rows (n, K), K > 1, lies in 0..1 and sums to 1, up to rounding in their format."""
    return bool(sum_to_one(rows).all())


def sum_to_one(rows: Tensor) -> Tensor:
    """Return for each of rows (n, K) whether it lies in 0..1 and sums to 1, up to rounding in its format, bool (n,)."""
    if rows.shape[1] < 2:
        return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    off = max(_SUM, 4 * torch.finfo(rows.dtype).eps)
    inside = (rows >= -slack(rows.dtype)) & (rows <= 1 + slack(rows.dtype))  # NaN is not
    return inside.all(dim=1) & ((rows.double().sum(dim=1) - 1).abs() <= off)


def no_probability(rows: Tensor) -> tuple[int, float] | None:
    """Return the first value of rows (n, K) that is a number but no probability, as (output, value)."""
    off = slack(rows.dtype)
    outside = rows.isfinite() & ((rows < -off) | (rows > 1 + off))
    if not bool(outside.any()):
        return None
    row, column = outside.nonzero()[0].tolist()
    return column, float(rows[row, column])


def _in_unit(rows: Tensor) -> bool:
    return bool(rows.isfinite().all()) and no_probability(rows) is None


def require_fitting(n_outputs: int, said: Activation | None, found: Activation | None) -> None:
    """Raise where the activation that was said is not that of the network."""
    if n_outputs == 1 and "softmax" in (said, found):
        raise ModelError(
            "softmax over one class is always 1; a network with one output ends in a sigmoid or in its logit, "
            "so activation=sigmoid."
        )
    if said is not None and found is not None and said != found:
        raise ModelError(
            f"The network ends in a {found}, which activation={said} contradicts; leave the option out, "
            "or say outputs=logits where what it returns is to be taken as logits."
        )


def _require_probabilities(probed: Tensor, said: Activation | None) -> bool:
    """Return whether outputs that were said to be probabilities exclude each other. Raises where they are none."""
    if (outside := no_probability(probed)) is not None:
        raise ModelError(
            f"outputs=probabilities, but output {outside[0]} is {outside[1]:.6g} for a random image, outside 0..1; "
            "say outputs=logits, or outputs=value for what is no classifier."
        )
    exclusive = sums_to_one(probed)
    if said == "softmax" and not exclusive:
        total = float(probed[0].double().sum())
        raise ModelError(
            f"activation=softmax means probabilities that sum to 1, but those of a random image sum to {total:.6g}; "
            "say activation=sigmoid for classes that are judged one by one."
        )
    return exclusive


def _seen_as_probabilities(reach: Reach, probed: Tensor, more: Callable[[], Tensor]) -> bool | None:
    """Return None for logits; for probabilities, whether they exclude each other."""
    if not _in_unit(probed):
        return None
    exclusive = sums_to_one(probed)
    if not exclusive and reach == "any":
        return None
    if not exclusive and reach == "0 to 1":
        return False
    seen = torch.cat((probed, more()))
    seen = seen[seen.isfinite().all(dim=1)]
    if exclusive and sums_to_one(seen):
        return True
    varies = bool(((seen.amax(dim=0) - seen.amin(dim=0)) > _SPREAD).any())
    return False if varies and _in_unit(seen) else None


def _reach(layer: Layer, before: Sequence[Reach]) -> Reach:
    name = ""
    if isinstance(layer, _ANY):
        return "any"
    if isinstance(layer, Pointwise):
        name, args = layer.function.name, layer.function.args
        if name in ("clamp", "hardtanh") and len(args) > 1 and None not in args and 0 <= args[0] <= args[1] <= 1:
            return "0 to 1"
    elif isinstance(layer, AtenCall):
        name = str(getattr(getattr(layer.operator, "overloadpacket", None), "__name__", "")).rstrip("_")
    kind = "kept" if isinstance(layer, _PASSES_ON) else _KIND_OF.get(name, "unknown")
    if kind != "kept":
        return kind
    if "any" in before:
        return "any"
    return "0 to 1" if set(before) == {"0 to 1"} else "unknown"


def _is_complement(rows: Tensor) -> bool:
    """Return whether two outputs are 1 - p and p: there a 0 says no more than that the other rounds to 1."""
    if rows.shape[1] != 2:
        return False
    low, high = rows.amin(dim=1), rows.amax(dim=1)
    return bool((low == 1 - high).all())
