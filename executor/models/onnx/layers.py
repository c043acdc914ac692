"""ONNX operators with weights or windows: convolution, pooling, normalization, matrix products.

One function an operator, (node, inputs) -> tensor, each as the torch function that capture recognizes.
Source of the semantics: the ONNX operator specification, opset 7 to 23. Listed in `LAYERS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from obeql.executor.models.onnx.node import Function, Node, Operator

__all__ = ["LAYERS"]

_Pads = tuple[int, int, int, int]  # top, left, bottom, right

#: Attributes that hold a number an axis, and what stands for a row that is alone; `pads` have two an axis.
_OF_A_ROW: Mapping[str, int] = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0}


def _on_rows(function: Function) -> Function:
    """Return an operator on maps that takes signals, (N, C, length), too: as maps of one row."""

    def run(node: Node, x: Tensor, *weights: Tensor | None) -> Tensor:
        if x.ndim != 3:
            return function(node, x, *weights)  # type: ignore[no-any-return]
        attributes = dict(node.attributes)
        for name, value in _OF_A_ROW.items():
            if name in attributes:
                attributes[name] = (value, *attributes[name])
        if "pads" in attributes:
            before, after = attributes["pads"]
            attributes["pads"] = (0, before, 0, after)
        if "output_shape" in attributes:
            attributes["output_shape"] = (*attributes["output_shape"][:-1], 1, attributes["output_shape"][-1])
        rows = [each[:, :, None] if each is not None and each.ndim == 3 else each for each in weights]
        return function(replace(node, attributes=attributes), x[:, :, None], *rows)[:, :, 0]  # type: ignore[no-any-return]

    return run


def _pair(node: Node, key: str, default: Sequence[int] | None = None) -> tuple[int, int]:
    values = node.get(key, default)
    if values is None or len(values) != 2:
        raise node.refuse(f"has {key}={values}; only two-dimensional windows are supported")
    return int(values[0]), int(values[1])


def _pads(node: Node, x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> _Pads:
    """Padding in pixels, from `pads` or by the SAME rules of `auto_pad` from the size of `x`."""
    mode = node.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        top, left, bottom, right = node.get("pads", (0, 0, 0, 0))
        return top, left, bottom, right
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.refuse(f"has the unknown auto_pad {mode!r}")
    before, after = [], []
    for axis in range(2):
        n = x.shape[2 + axis]
        reach = (-(-n // stride[axis]) - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        total = max(reach - n, 0)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before[0], before[1], after[0], after[1]


def _pad(x: Tensor, pads: _Pads, value: float = 0.0) -> Tensor:
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def _maps(node: Node, x: Tensor) -> None:
    if x.ndim != 4:
        raise node.refuse(
            f"reads a value of shape {tuple(x.shape)}; only (N, C, H, W) maps and (N, C, length) signals are supported"
        )


def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _maps(node, x)
    kernel = (weight.shape[2], weight.shape[3])
    stride, dilation = _pair(node, "strides", (1, 1)), _pair(node, "dilations", (1, 1))
    pads = _pads(node, x, kernel, stride, dilation)
    top, left, bottom, right = pads
    padding = (top, left)
    if padding != (bottom, right) or min(pads) < 0:
        x, padding = _pad(x, pads), (0, 0)
    return F.conv2d(x, weight, bias, stride, padding, dilation, node.get("group", 1))


def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _maps(node, x)
    stride, dilation = _pair(node, "strides", (1, 1)), _pair(node, "dilations", (1, 1))
    more = _pair(node, "output_padding", (0, 0))
    whole = F.conv_transpose2d(x, weight, None, stride, 0, 0, node.get("group", 1), dilation)
    spread = [whole.shape[2 + axis] + more[axis] for axis in range(2)]
    top, left, bottom, right = _transposed_pads(node, x, spread, stride)
    # Torch pads both sides alike: what ONNX leaves out, or puts on beyond the last window, is cut and added here.
    y = F.pad(whole, (-left, more[1] - right, -top, more[0] - bottom))
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def _transposed_pads(node: Node, x: Tensor, spread: Sequence[int], stride: tuple[int, int]) -> _Pads:
    """Return what a transposed convolution leaves out of the `spread` (height, width) of its windows on each side."""
    mode, said = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode == "NOTSET" and not said:
        top, left, bottom, right = node.get("pads", (0, 0, 0, 0))
        return top, left, bottom, right
    if mode not in ("NOTSET", "SAME_UPPER", "SAME_LOWER"):
        raise node.refuse(f"has the unknown auto_pad {mode!r}")
    before, after = [], []
    for axis in range(2):
        wanted = said[-2 + axis] if said else x.shape[2 + axis] * stride[axis]
        total = spread[axis] - wanted
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before[0], before[1], after[0], after[1]


def _overhang(node: Node, x: Tensor, pads: _Pads, kernel: tuple[int, int], stride: tuple[int, int]) -> _Pads:
    """Grow the padding after the last pixel so that a floor-mode window lands where ceil_mode would put one.

    As onnxruntime and torch do, a window that would start beyond the map and its leading padding is dropped.
    """
    grown = list(pads)
    for axis in range(2):
        n, before, after = x.shape[2 + axis], pads[axis], pads[2 + axis]
        out = -(-(n + before + after - kernel[axis]) // stride[axis]) + 1
        if (out - 1) * stride[axis] >= n + before:
            out -= 1
        grown[2 + axis] = max(after, (out - 1) * stride[axis] + kernel[axis] - n - before)
    return grown[0], grown[1], grown[2], grown[3]


def _simple(pads: _Pads, kernel: tuple[int, int]) -> bool:
    """Return whether torch's pooling takes this padding itself: the same on both sides, at most half the kernel."""
    return pads[:2] == pads[2:] and all(0 <= pads[axis] <= kernel[axis] // 2 for axis in range(2))


def max_pool(node: Node, x: Tensor) -> Tensor:
    _maps(node, x)
    if len(node.outputs) > 1 and node.outputs[1]:
        raise node.refuse("returns the indices of its maxima, which is not supported")
    kernel, stride = _pair(node, "kernel_shape"), _pair(node, "strides", (1, 1))
    dilation, ceil = _pair(node, "dilations", (1, 1)), bool(node.get("ceil_mode", 0))
    pads = _pads(node, x, kernel, stride, dilation)
    if _simple(pads, kernel):
        return F.max_pool2d(x, kernel, stride, pads[:2], dilation, ceil_mode=ceil)
    if ceil:
        extent = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
        pads = _overhang(node, x, pads, extent, stride)
    return F.max_pool2d(_pad(x, pads, -torch.inf), kernel, stride, 0, dilation)


def average_pool(node: Node, x: Tensor) -> Tensor:
    _maps(node, x)
    kernel, stride = _pair(node, "kernel_shape"), _pair(node, "strides", (1, 1))
    ceil, counts_pads = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    if _pair(node, "dilations", (1, 1)) != (1, 1):
        raise node.refuse("averages over a dilated window, which is not supported")
    pads = _pads(node, x, kernel, stride, (1, 1))
    if _simple(pads, kernel):
        return F.avg_pool2d(x, kernel, stride, pads[:2], ceil, counts_pads)
    grown = _overhang(node, x, pads, kernel, stride) if ceil else pads
    sums = F.avg_pool2d(_pad(x, grown), kernel, stride, divisor_override=1)
    # The divisor depends on the position alone: pixels (and, if asked, padding) under the window, one factor an axis.
    rows, cols = (
        _covered(
            x.shape[2 + axis], pads[axis], pads[2 + axis], kernel[axis], stride[axis], sums.shape[2 + axis], counts_pads
        )
        for axis in range(2)
    )
    divisor = np.outer(rows, cols)
    return sums / torch.tensor(divisor, dtype=x.dtype, device=x.device)


def _covered(n: int, before: int, after: int, kernel: int, stride: int, out: int, counts_pads: bool) -> list[int]:
    first, end = (-before, n + after) if counts_pads else (0, n)
    starts = [index * stride - before for index in range(out)]
    return [max(min(start + kernel, end) - max(start, first), 1) for start in starts]


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def global_average_pool(node: Node, x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


def global_max_pool(node: Node, x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


def batch_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    if node.get("training_mode", 0) or sum(map(bool, node.outputs)) > 1:
        raise node.refuse("was exported in training mode; export the model in evaluation mode")
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=node.get("epsilon", 1e-5))


def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, channels = node.get("num_groups"), x.shape[1]
    if scale.numel() != channels:  # opset 18 has one scale a group, opset 21 one a channel
        scale, bias = (value.repeat_interleave(channels // groups) for value in (scale, bias))
    return F.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


def layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    if sum(map(bool, node.outputs)) > 1:
        raise node.refuse("returns its mean or deviation, which is not supported")
    axes = x.shape[node.get("axis", -1) % x.ndim :]
    eps = node.get("epsilon", 1e-5)
    if scale.shape == axes and (bias is None or bias.shape == axes):
        return F.layer_norm(x, axes, scale, bias, eps)
    normal = F.layer_norm(x, axes, eps=eps) * scale
    return normal if bias is None else normal + bias


def lrn(node: Node, x: Tensor) -> Tensor:
    size, channels = node.get("size"), x.shape[1]
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    if size % 2:
        return F.local_response_norm(x, size, alpha, beta, bias)
    # An even window reaches one channel further up in ONNX, one further down in torch.
    before, after = (size - 1) // 2, size // 2
    squares = F.pad(x * x, (0, 0) * (x.ndim - 2) + (before, after))
    total = sum(squares.narrow(1, shift, channels) for shift in range(size))
    return x / torch.pow(total * (alpha / size) + bias, beta)


def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    a = a.t() if node.get("transA", 0) else a
    if node.get("transB", 0) and alpha == 1 and beta == 1 and (c is None or c.numel() == b.shape[0]):
        return F.linear(a, b, None if c is None else c.reshape(-1))
    product = a @ (b.t() if node.get("transB", 0) else b)
    product = product if alpha == 1 else product * alpha
    if c is None:
        return product
    return product + (c if beta == 1 else c * beta)


def mat_mul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    # A constant right factor was transposed when the graph was built (`module`).
    return F.linear(a, b) if node.get("transB", 0) else torch.matmul(a, b)


def einsum(node: Node, *factors: Tensor) -> Tensor:
    return torch.einsum(node.get("equation"), *factors)


LAYERS: Mapping[str, Operator] = {
    "AveragePool": Operator(_on_rows(average_pool)),
    "BatchNormalization": Operator(batch_normalization),
    "Conv": Operator(_on_rows(conv)),
    "ConvTranspose": Operator(_on_rows(conv_transpose)),
    "Einsum": Operator(einsum),
    "Gemm": Operator(gemm),
    "GlobalAveragePool": Operator(global_average_pool),
    "GlobalMaxPool": Operator(global_max_pool),
    "GroupNormalization": Operator(group_normalization),
    "InstanceNormalization": Operator(instance_normalization),
    "LRN": Operator(lrn),
    "LayerNormalization": Operator(layer_normalization),
    "MatMul": Operator(mat_mul),
    "MaxPool": Operator(_on_rows(max_pool)),
}
