"""Elementwise functions of one input, alone or fused behind a convolution or linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from obeql.executor.network.layers.base import Layer

__all__ = ["ELEMENTWISE", "Activation", "Elementwise", "can_make_nan"]

_aten = torch.ops.aten

#: ATen operators of one tensor that act on every element alone, by overload packet name.
ELEMENTWISE: dict[str, Any] = {
    name: getattr(_aten, name).default
    for name in (
        "relu",
        "hardtanh",
        "relu6",
        "hardswish",
        "hardsigmoid",
        "silu",
        "mish",
        "gelu",
        "sigmoid",
        "tanh",
        "elu",
        "leaky_relu",
        "softplus",
        "exp",
        "abs",
        "neg",
        "sqrt",
        "rsqrt",
        "erf",
        "clamp",
        "clamp_min",
        "clamp_max",
        "log",
        "reciprocal",
        "square",
    )
}
ELEMENTWISE["logit"] = _aten.logit.default
ELEMENTWISE["pow"] = _aten.pow.Tensor_Scalar
ELEMENTWISE["add"] = _aten.add.Scalar
ELEMENTWISE["mul"] = _aten.mul.Scalar
ELEMENTWISE["sub"] = _aten.sub.Scalar
ELEMENTWISE["rsub"] = _aten.rsub.Scalar
ELEMENTWISE["div"] = _aten.div.Scalar

#: those of them that are not finite everywhere
_MAKES_NAN = frozenset({"exp", "log", "sqrt", "rsqrt", "reciprocal", "logit", "pow", "div"})

_IN_PLACE: dict[str, Any] = {
    name: getattr(_aten, f"{name}_").default
    for name in ("relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "clamp", "leaky_relu")
}


@dataclass(frozen=True, slots=True)
class Elementwise:
    """An elementwise function by its ATen name, with the operands after the tensor."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = ELEMENTWISE[self.name](x, *self.args, **dict(self.kwargs))
        return result

    def in_place(self, x: Tensor) -> Tensor:
        """Apply to a tensor nobody else reads, without a second buffer where ATen can."""
        operator = _IN_PLACE.get(self.name)
        if operator is None or x.requires_grad:
            return self(x)
        result: Tensor = operator(x, *self.args, **dict(self.kwargs))
        return result

    def fused(self) -> tuple[str, list[Any], str] | None:
        """Return (attribute, scalars, algorithm) of oneDNN's fused convolution, or None if it has no such epilogue."""
        if self.name in {"relu", "hardswish", "sigmoid", "tanh"} and not self.args:
            return self.name, [], ""
        if self.name == "silu":
            return "swish", [], ""
        if self.name == "relu6":
            return "hardtanh", [0.0, 6.0], ""
        if self.name in {"hardtanh", "clamp"} and not self.kwargs:
            low, high = (*self.args, None, None)[:2] if self.args or self.name == "clamp" else (-1.0, 1.0)
            if low is not None and high is not None:
                return "hardtanh", [float(low), float(high)], ""
        if self.name == "leaky_relu":
            return "leaky_relu", [float(self.args[0]) if self.args else 0.01], ""
        if self.name == "gelu":
            return "gelu", [], dict(self.kwargs).get("approximate", "none")
        return None


def can_make_nan(function: Elementwise | None) -> bool:
    """Return whether the function, if there is any, is not finite for some finite numbers."""
    return function is not None and function.name in _MAKES_NAN


class Activation(Layer):
    """An elementwise function that could not be fused into the layer before it."""

    kind: ClassVar[str] = "activation"

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int], function: Elementwise) -> None:
        super().__init__(name, inputs, shape)
        self.function = function

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.function(inputs[0])

    def makes_nan(self) -> bool:
        return can_make_nan(self.function)
