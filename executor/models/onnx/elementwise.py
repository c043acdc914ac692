"""ONNX operators that compute every position from the same position: activations, arithmetic, comparisons.

One function an operator, (node, inputs) -> tensor; softmax, which couples classes, is here too.
Source of the semantics: the ONNX operator specification, opset 7 to 23. Listed in `ELEMENTWISE`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from obeql.executor.models.onnx.node import Array, Node, Operator
from obeql.executor.models.onnx.quantize import dequantize, quantize

__all__ = ["ELEMENTWISE"]


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    def run(node: Node, x: Tensor) -> Tensor:
        return function(x)

    return Operator(run)


def _binary(function: Callable[[Any, Any], Tensor]) -> Operator:
    def run(node: Node, a: Any, b: Any) -> Tensor:
        return function(a, b)

    return Operator(run, scalars=True)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(node: Node, *values: Tensor) -> Tensor:
        return functools.reduce(function, values)

    return Operator(run)


def _divide(a: Any, b: Any) -> Tensor:
    floating = any(isinstance(v, float) or (isinstance(v, Tensor) and v.is_floating_point()) for v in (a, b))
    return torch.true_divide(a, b) if floating else torch.div(a, b, rounding_mode="trunc")


def _power(a: Any, b: Any) -> Tensor:
    # A constant exponent as a number lets torch take x * x for the square.
    return torch.pow(a, b.item() if isinstance(b, Tensor) and b.numel() == 1 and not b.is_floating_point() else b)


def mean(node: Node, *values: Tensor) -> Tensor:
    return functools.reduce(torch.add, values) / len(values)


def leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.get("alpha", 0.01))


def p_relu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    per_channel = slope.ndim == x.ndim - 1 and slope.numel() == slope.shape[0] == x.shape[1]
    if slope.numel() == 1 or per_channel:
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


def elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.get("alpha", 1.0))


def celu(node: Node, x: Tensor) -> Tensor:
    return F.celu(x, node.get("alpha", 1.0))


def selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha"), node.get("gamma")
    if alpha is None and gamma is None:
        return F.selu(x)
    alpha = 1.67326319217681884765625 if alpha is None else alpha
    gamma = 1.05070102214813232421875 if gamma is None else gamma
    return gamma * F.elu(x, alpha)


def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return F.threshold(x, node.get("alpha", 1.0), 0.0)


def clip(node: Node, x: Tensor, low: Array | None = None, high: Array | None = None) -> Tensor:
    lowest = node.get("min") if low is None else low.item()  # attributes before opset 11
    highest = node.get("max") if high is None else high.item()
    if lowest is None and highest is None:
        return x
    if lowest is None or highest is None or lowest >= highest or not x.is_floating_point():
        return torch.clamp(x, lowest, highest)
    return F.hardtanh(x, lowest, highest)


def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


def swish(node: Node, x: Tensor) -> Tensor:
    alpha = node.get("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


def _normalized(function: Callable[..., Tensor]) -> Operator:
    def run(node: Node, x: Tensor) -> Tensor:
        if node.opset >= 13:
            return function(x, dim=node.get("axis", -1))
        # Before opset 13, all axes from `axis` on count as one.
        axis = node.get("axis", 1) % x.ndim
        if x.shape[axis:].numel() == x.shape[axis]:
            return function(x, dim=axis)
        return function(x.flatten(axis), dim=-1).reshape(x.shape)

    return Operator(run)


def where(node: Node, condition: Tensor, a: Any, b: Any) -> Tensor:
    return torch.where(condition.bool(), a, b)


ELEMENTWISE: Mapping[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Ceil": _unary(torch.ceil),
    "Celu": Operator(celu),
    "Clip": Operator(clip, host=(1, 2)),
    "Cos": _unary(torch.cos),
    "DequantizeLinear": Operator(dequantize, host=(2,)),
    "Div": _binary(_divide),
    "Elu": Operator(elu),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": Operator(gelu),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": Operator(hard_sigmoid),
    "HardSwish": _unary(F.hardswish),
    "LeakyRelu": Operator(leaky_relu),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _normalized(F.log_softmax),
    "Max": _variadic(torch.maximum),
    "Mean": Operator(mean),
    "Min": _variadic(torch.minimum),
    "Mish": _unary(F.mish),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": Operator(p_relu),
    "Pow": _binary(_power),
    "QuantizeLinear": Operator(quantize, host=(2,)),
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(F.relu),
    "Round": _unary(torch.round),
    "Selu": Operator(selu),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softmax": _normalized(F.softmax),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Swish": Operator(swish),
    "Tanh": _unary(torch.tanh),
    "ThresholdedRelu": Operator(thresholded_relu),
    "Where": Operator(where, scalars=True),
}
