"""What an operator gives on meta tensors: a tensor of the right shape, strides and dtype, without values.

PyTorch's own kernels for that are right for every operator, but those of the most common ones are Python functions
whose first call imports its compiler, which takes a second. So the common cases of these are told here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from obeql.executor.kernels.memory_format import channels_last, has_channels_last
from obeql.executor.network.layers.activation import ELEMENTWISE

__all__ = ["on_meta"]

_aten = torch.ops.aten

#: what a scalar operand of an elementwise function may be, for its result to have the tensor's dtype
_SCALAR = (int, float, str, type(None))


def on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what the ATen operator `func` gives on meta tensors; one that writes returns what it was given."""
    rule = _RULES.get(func)
    if rule is None and str(func.overloadpacket.__name__).rstrip("_") in ELEMENTWISE:
        rule = _elementwise
    result = None if rule is None else rule(*args, **kwargs)
    if result is None:
        return func(*args, **kwargs)
    return args[0] if func._schema.is_mutable else result


def _elementwise(x: Tensor, *others: Any, **options: Any) -> Tensor | None:
    """Return what an operation of a floating-point tensor gives with scalars, or with a tensor that is no larger."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    for other in (*others, *options.values()):
        if isinstance(other, Tensor):
            if other.dtype != x.dtype or not _fits(other, x):
                return None
        elif not isinstance(other, _SCALAR):
            return None
    return torch.empty_like(x)


def _fits(other: Tensor, x: Tensor) -> bool:
    """Return whether a tensor is broadcast to the shape of x."""
    sizes = zip(reversed(other.shape), reversed(x.shape), strict=False)
    return other.dim() <= x.dim() and all(ours in (1, its) for ours, its in sizes)


def _addmm(bias: Tensor, left: Tensor, right: Tensor, **scales: Any) -> Tensor | None:
    if left.shape[1] != right.shape[0] or bias.shape not in ((right.shape[1],), (1, right.shape[1])):
        return None
    return left.new_empty((left.shape[0], right.shape[1])) if bias.dtype == left.dtype == right.dtype else None


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first, *others = tensors
    shape = list(first.shape)
    for other in others:
        same = [n for d, n in enumerate(other.shape) if d != dim % len(shape)]
        if other.dtype != first.dtype or same != [n for d, n in enumerate(shape) if d != dim % len(shape)]:
            return None
        shape[dim] += other.shape[dim]
    last = len(shape) in (4, 5) and all(has_channels_last(each) for each in tensors)
    plain = all(each.is_contiguous() for each in tensors)
    if not last and not plain:
        return None
    result = torch.empty(shape, dtype=first.dtype, device="meta")
    return result if plain else channels_last(result)


_RULES: dict[Any, Callable[..., Tensor | None]] = {
    _aten.mean.dim: _aten.sum.dim_IntList,
    _aten.addmm.default: _addmm,
    _aten.cat.default: _cat,
}
