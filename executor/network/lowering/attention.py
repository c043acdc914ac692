"""Rules of attention, fused or written out as two products with a softmax between them.

Products of two values of the image are followed here: queries with keys give `Scores`, which may be scaled, shifted by
a constant and put through softmax; with values they become one layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from obeql.executor.network.axes import Atom, Axes, channel_order, group_size, positions
from obeql.executor.network.capture.trace import TRACE_BATCH, CannotLowerError, Traced, TracedGraph
from obeql.executor.network.layers.attention import Attention
from obeql.executor.network.lowering.registry import Args, Kwargs, argument, rule

__all__ = ["Scores", "Unfollowed", "scores_step", "times"]


@dataclass(frozen=True, slots=True, eq=False)
class _Heads:
    """A map seen as (images, heads, tokens, channels of a head): its layer, with channels head by head."""

    layer: int
    n_heads: int
    tokens: tuple[Atom, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How well every query fits every key, (images, heads, queries, keys), seen in the shape `shape`.

    `scale` and `bias` (1 or heads, queries, keys) are what was done to them since, `is_weights` whether softmax was.
    """

    queries: _Heads
    keys: _Heads
    shape: tuple[int, ...]
    scale: float = 1.0
    bias: Tensor | None = None
    is_weights: bool = False

    def size(self) -> tuple[int, ...]:
        return self.shape


@dataclass(frozen=True, slots=True)
class Unfollowed:
    """A value that no layer gives; it matters if the output depends on it."""

    reason: str


def _heads(graph: TracedGraph, value: Any, tokens_at: int = -2) -> _Heads | None:
    """Return a value as heads of tokens; its last two axes are tokens and channels, or the other way round."""
    if not isinstance(value, Traced) or value.axes is None or not graph.is_map(value) or len(value.axes) < 3:
        return None
    n_channels = graph.shape(value)[0]
    inner = value.axes[-1 if tokens_at == -2 else -2]
    tokens = value.axes[tokens_at]
    lead = [atom for group in value.axes[:-2] for atom in group]
    if tokens != positions(graph.shape(value)) or not lead or lead[0] != Atom("N", TRACE_BATCH):
        return None
    heads = lead[1:]
    if {atom.axis for atom in (*heads, *inner)} - {"C"}:
        return None
    n_heads = group_size(tuple(heads))
    if n_heads * group_size(inner) != n_channels:
        return None
    order = channel_order((*heads, *inner), n_channels)
    layer = value.layer if order is None else graph.select(value.layer, order)
    return _Heads(layer, n_heads, tokens)


def _attention(graph: TracedGraph, name: str, scores: Scores, values: _Heads, lead: Axes) -> Traced:
    """Add the layer; the result is seen as (*lead, queries, channels of a head)."""
    q, k = scores.queries, scores.keys
    n_out, n_in = (graph.layers[each.layer].shape[0] for each in (values, k))
    size = graph.layers[q.layer].shape[1:]
    n_keys = group_size(k.tokens)
    inputs = (q.layer, k.layer, values.layer)
    layer = Attention(name, inputs, (n_out, *size), q.n_heads, scores.scale, n_keys, n_in, scores.bias)
    width_of_head = n_out // q.n_heads
    heads = (Atom("C", q.n_heads, width_of_head),) if q.n_heads > 1 else ()
    inner = (Atom("C", width_of_head),) if width_of_head > 1 else ()
    # The leading axes as they were: images, then heads, perhaps as one.
    found = []
    for group in lead:
        own = tuple(atom for atom in group if atom.axis == "N")
        if any(atom.axis == "C" for atom in group):
            own, heads = (*own, *heads), ()
        found.append(own)
    return Traced(graph.add(layer), (*found, q.tokens, inner))


def _fit(q: _Heads | None, k: _Heads | None, v: _Heads | None) -> bool:
    return (
        q is not None
        and k is not None
        and v is not None
        and q.n_heads == k.n_heads == v.n_heads
        and group_size(k.tokens) == group_size(v.tokens)
    )


def _fused(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs, mask_at: int, causal_at: int) -> Traced | None:
    q, k, v = (_heads(graph, value) for value in args[:3])
    mask = kwargs.get("attn_mask", kwargs.get("attn_bias", args[mask_at] if 0 <= mask_at < len(args) else None))
    dropout = argument(args, kwargs, mask_at + 1 if mask_at >= 0 else 3, "dropout_p", 0.0)
    if not _fit(q, k, v) or argument(args, kwargs, causal_at, "is_causal", False) or dropout:
        return None
    assert q is not None and k is not None and v is not None
    width = graph.layers[q.layer].shape[0] // q.n_heads
    scale = kwargs.get("scale")
    bias = None if mask is None else _bias(mask, q.n_heads, group_size(q.tokens), group_size(k.tokens))
    if mask is not None and bias is None:
        return None
    lead = args[0].axes[:-2]
    scores = Scores(q, k, (), width**-0.5 if scale is None else float(scale), bias)
    return _attention(graph, name, scores, v, lead)


@rule("scaled_dot_product_attention")
def attention(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    return _fused(graph, name, args, kwargs, 3, 5)


@rule("_scaled_dot_product_attention_math", "_scaled_dot_product_attention_math_for_mps")
def attention_math(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    found = _fused(graph, name, args, kwargs, 3, 5)
    return None if found is None else [found, None]


@rule("_scaled_dot_product_flash_attention_for_cpu")
def attention_for_cpu(graph: TracedGraph, name: str, args: Args, kwargs: Kwargs) -> Any:
    found = _fused(graph, name, args, kwargs, -1, 4)
    return None if found is None else [found, None]


def _bias(constant: Any, n_heads: int, n_queries: int, n_keys: int) -> Tensor | None:
    """Return what a constant adds to scores as (1 or heads, queries, keys), None if it is not of that kind."""
    if not isinstance(constant, Tensor) or not constant.is_floating_point() or constant.dim() > 4:
        return None
    full = constant.reshape((1,) * (4 - constant.dim()) + tuple(constant.shape))
    if full.shape[0] != 1 or full.shape[1] not in (1, n_heads):
        return None
    if full.shape[2] not in (1, n_queries) or full.shape[3] not in (1, n_keys):
        return None
    return full[0].expand(-1, n_queries, n_keys)


def times(graph: TracedGraph, name: str, left: Any, right: Any) -> Any:
    """Return the product of two values of the image over their last axes, where it is a step of attention; or None."""
    if isinstance(left, Scores):
        values = _heads(graph, right)
        if not left.is_weights or values is None or not _fit(left.queries, left.keys, values):
            raise CannotLowerError("a product of two values of the image that is no attention")
        return _attention(graph, name, left, values, right.axes[:-2])
    q, k = _heads(graph, left), _heads(graph, right, tokens_at=-1)
    if q is None or k is None or q.n_heads != k.n_heads:
        return None
    if graph.layers[q.layer].shape[0] != graph.layers[k.layer].shape[0]:
        return None
    shape = (*left.size()[:-1], right.size()[-1])
    return Scores(q, k, shape)


_SAME = frozenset(("clone", "contiguous", "detach", "alias", "_to_copy", "to", "dropout"))
_SOFTMAX = frozenset(("_softmax", "softmax", "_safe_softmax"))
_VIEWS = frozenset(("view", "_unsafe_view", "reshape"))


def scores_step(graph: TracedGraph, name: str, operator: str, args: Args, kwargs: Kwargs) -> Any:
    """Return what an operator makes of scores; `Unfollowed` where that is no part of attention."""
    lost = next((value for value in args if isinstance(value, Unfollowed)), None)
    if lost is not None:
        return lost
    found: Any = None
    scores = args[0]
    if not isinstance(scores, Scores):
        other = args[1] if len(args) > 1 else None
        if isinstance(other, Scores) and operator in ("add", "mul"):
            found = _changed(other, operator, scores, kwargs)
    elif operator in ("bmm", "matmul"):
        found = times(graph, name, *args[:2])
    elif operator in _SAME and not (len(args) > 2 and args[2]):
        found = scores
    elif operator == "expand":
        same = all(want in (-1, have) for want, have in zip(args[1], scores.shape, strict=False))
        found = scores if same and len(args[1]) == len(scores.shape) else None
    elif operator in _VIEWS:
        found = _viewed(scores, list(args[1]))
    elif operator in _SOFTMAX:
        found = _softmax(scores, int(args[1]))
    elif len(args) > 1:
        found = _changed(scores, operator, args[1], kwargs)
    # Some return their weights as well, which nobody reads.
    return Unfollowed(f"attention in a form that is not followed: {operator} of its scores") if found is None else found


def _softmax(scores: Scores, dim: int) -> Scores | None:
    # The safe softmax differs where a query fits no key at all.
    is_plain = scores.bias is None or bool(scores.bias.isfinite().all())
    if scores.is_weights or dim % len(scores.shape) != len(scores.shape) - 1 or not is_plain:
        return None
    return replace(scores, is_weights=True)


def _changed(scores: Scores, operator: str, other: Any, kwargs: Kwargs) -> Scores | None:
    """Return scores times or over a number, or plus a constant for each head, query and key."""
    if scores.is_weights or kwargs.get("alpha", 1) != 1 or kwargs.get("rounding_mode") is not None:
        return None
    is_number = isinstance(other, (int, float)) or (isinstance(other, Tensor) and other.numel() == 1)
    if operator in ("mul", "div") and is_number:
        factor = float(other) if operator == "mul" else 1.0 / float(other)
        bias = None if scores.bias is None else scores.bias * factor
        return replace(scores, scale=scores.scale * factor, bias=bias)
    if operator == "add" and len(scores.shape) == 4:
        n_queries, n_keys = group_size(scores.queries.tokens), group_size(scores.keys.tokens)
        bias = _bias(other, scores.queries.n_heads, n_queries, n_keys)
        if bias is not None:
            return replace(scores, bias=bias if scores.bias is None else scores.bias + bias)
    return None


def _viewed(scores: Scores, shape: list[int]) -> Scores | None:
    """Return scores with images and heads as one axis or as two."""
    n = scores.queries.n_heads
    if -1 in shape:
        known = -math.prod(shape)
        shape[shape.index(-1)] = math.prod(scores.shape) // max(1, known)
    lead = tuple(shape[:-2])
    if tuple(shape[-2:]) != scores.shape[-2:] or lead not in ((n * TRACE_BATCH,), (TRACE_BATCH, n)):
        return None
    return replace(scores, shape=tuple(shape))
