"""Inference batch norm as one operator while a network is traced: x * scale + shift, a number a channel.

That is what it computes, and what lowering makes of it. PyTorch's own fake batch norm takes longer to trace than all
other operators of a DenseNet together, and its result would not carry `scale` and `shift` in float64.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode

__all__ = ["BatchNormAsScaleShift"]

_library = torch.library.Library("obeql", "DEF")  # type: ignore[no-untyped-call]
_library.define("scale_shift(Tensor x, Tensor scale, Tensor shift) -> Tensor")  # type: ignore[no-untyped-call]


def _scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    shape = (-1, *[1] * (x.dim() - 2))
    return x * scale.to(x.dtype).view(shape) + shift.to(x.dtype).view(shape)


def _like(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.empty_like(x)


_library.impl("scale_shift", _scale_shift, "CPU")  # type: ignore[no-untyped-call]
_library.impl("scale_shift", _scale_shift, "CUDA")  # type: ignore[no-untyped-call]
_library.impl("scale_shift", _like, "Meta")  # type: ignore[no-untyped-call]

#: types of tensors that hold numbers, not traces of them, and None
_STORED = (Tensor, torch.nn.Parameter, torch.nn.Buffer, type(None))

_BATCH_NORM, _INSTANCE_NORM = inspect.signature(F.batch_norm), inspect.signature(F.instance_norm)


class BatchNormAsScaleShift(TorchFunctionMode):
    """While active, `F.batch_norm` with running statistics is `obeql::scale_shift` with float64 numbers.

    An instance norm of an image's own statistics is a group norm with one channel a group.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            given = _BATCH_NORM.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            x, mean, variance = (given.arguments[name] for name in ("input", "running_mean", "running_var"))
            if not given.arguments["training"] and mean is not None and x.dim() >= 2:
                weight, bias = given.arguments["weight"], given.arguments["bias"]
                # Of a network's own tensors only the two results go into the trace, which is then much shorter.
                stored = all(type(each) in _STORED for each in (mean, variance, weight, bias))
                with disable_proxy_modes_tracing() if stored else nullcontext():
                    scale = (variance.double() + given.arguments["eps"]).rsqrt()
                    scale = scale if weight is None else scale * weight.double()
                    shift = -mean.double() * scale
                    shift = shift if bias is None else shift + bias.double()
                return torch.ops.obeql.scale_shift(x, scale, shift)
        if func is F.instance_norm:
            given = _INSTANCE_NORM.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            x, weight, bias = (given.arguments[name] for name in ("input", "weight", "bias"))
            if given.arguments["use_input_stats"] and given.arguments["running_mean"] is None and x.dim() >= 3:
                # The same numbers, where PyTorch's own makes the channels of all images those of one.
                return F.group_norm(x, x.shape[1], weight, bias, given.arguments["eps"])
        return func(*args, **(kwargs or {}))
