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

#: Padding before each axis, then after each: top, left, bottom, right of images.
_Pads = tuple[int, ...]
_Sizes = tuple[int, ...]

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


def _each(node: Node, key: str, x: Tensor, default: int | None = None) -> _Sizes:
    """Return an attribute that has one number for each spatial axis of a map."""
    n_axes = x.ndim - 2
    values = node.get(key, None if default is None else (default,) * n_axes)
    if values is None or len(values) != n_axes:
        raise node.refuse(f"has {key}={values} for maps of {n_axes} axes; it must have one number an axis")
    return tuple(map(int, values))


def _pads(node: Node, x: Tensor, kernel: _Sizes, stride: _Sizes, dilation: _Sizes) -> _Pads:
    """Return the padding in pixels, from `pads` or by the SAME rules of `auto_pad` from the size of `x`."""
    mode = node.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return tuple(map(int, node.get("pads", (0,) * (2 * len(kernel)))))
    if mode == "VALID":
        return (0,) * (2 * len(kernel))
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.refuse(f"has the unknown auto_pad {mode!r}")
    totals = []
    for n, extent, step, apart in zip(x.shape[2:], kernel, stride, dilation, strict=True):
        reach = (-(-n // step) - 1) * step + apart * (extent - 1) + 1
        totals.append(max(reach - n, 0))
    return _on_both_sides(totals, mode == "SAME_UPPER")


def _on_both_sides(totals: Sequence[int], more_after: bool) -> _Pads:
    """Split padding in two, an axis at a time, the odd pixel after it or before it."""
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (*small, *large) if more_after else (*large, *small)


def _flat(pads: _Pads) -> list[int]:
    """Return padding as torch takes it: before and after, the last axis first."""
    n_axes = len(pads) // 2
    return [size for axis in reversed(range(n_axes)) for size in (pads[axis], pads[n_axes + axis])]


def _pad(x: Tensor, pads: _Pads, value: float = 0.0) -> Tensor:
    return F.pad(x, _flat(pads), value=value) if any(pads) else x


def _maps(node: Node, x: Tensor, *n_axes: int) -> None:
    if x.ndim - 2 not in n_axes:
        others = ", (N, C, D, H, W) volumes" if 3 in n_axes else ""
        raise node.refuse(
            f"reads a value of shape {tuple(x.shape)}; only (N, C, H, W) maps{others} and (N, C, length) signals are "
            "supported"
        )


_CONV = {2: F.conv2d, 3: F.conv3d}
_MAX_POOL = {2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}


def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _maps(node, x, 2, 3)
    n_axes = x.ndim - 2
    kernel = tuple(weight.shape[2:])
    stride, dilation = _each(node, "strides", x, 1), _each(node, "dilations", x, 1)
    pads = _pads(node, x, kernel, stride, dilation)
    padding = pads[:n_axes]
    if padding != pads[n_axes:] or min(pads) < 0:
        x, padding = _pad(x, pads), (0,) * n_axes
    return _CONV[n_axes](x, weight, bias, stride, padding, dilation, node.get("group", 1))


def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _maps(node, x, 2)
    stride, dilation = _each(node, "strides", x, 1), _each(node, "dilations", x, 1)
    more = _each(node, "output_padding", x, 0)
    whole = F.conv_transpose2d(x, weight, None, stride, 0, 0, node.get("group", 1), dilation)
    spread = [whole.shape[2 + axis] + more[axis] for axis in range(2)]
    top, left, bottom, right = _transposed_pads(node, x, spread, stride)
    # Torch pads both sides alike: what ONNX leaves out, or puts on beyond the last window, is cut and added here.
    y = F.pad(whole, (-left, more[1] - right, -top, more[0] - bottom))
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def _transposed_pads(node: Node, x: Tensor, spread: Sequence[int], stride: _Sizes) -> _Pads:
    """Return what a transposed convolution leaves out of the `spread` (height, width) of its windows on each side."""
    mode, said = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode == "NOTSET" and not said:
        return tuple(map(int, node.get("pads", (0, 0, 0, 0))))
    if mode not in ("NOTSET", "SAME_UPPER", "SAME_LOWER"):
        raise node.refuse(f"has the unknown auto_pad {mode!r}")
    wanted = said[-2:] if said else [x.shape[2 + axis] * stride[axis] for axis in range(2)]
    # As in ONNX Runtime: where windows do not reach that far, SAME gives less, and a shape is filled up behind them.
    beyond = [spread[axis] - wanted[axis] for axis in range(2)]
    top, left, bottom, right = _on_both_sides([max(0, size) for size in beyond], mode == "SAME_UPPER")
    return (top, left, beyond[0] - top, beyond[1] - left) if said else (top, left, bottom, right)


def _overhang(x: Tensor, pads: _Pads, kernel: _Sizes, stride: _Sizes) -> _Pads:
    """Grow the padding after the last pixel so that a floor-mode window lands where ceil_mode would put one.

    As onnxruntime and torch do, a window that would start beyond the map and its leading padding is dropped.
    """
    n_axes, grown = len(kernel), list(pads)
    for axis in range(n_axes):
        n, before, after = x.shape[2 + axis], pads[axis], pads[n_axes + axis]
        out = -(-(n + before + after - kernel[axis]) // stride[axis]) + 1
        if (out - 1) * stride[axis] >= n + before:
            out -= 1
        grown[n_axes + axis] = max(after, (out - 1) * stride[axis] + kernel[axis] - n - before)
    return tuple(grown)


def _simple(pads: _Pads, kernel: _Sizes) -> bool:
    """Return whether torch's pooling takes this padding itself: the same on both sides, at most half the kernel."""
    before, after = pads[: len(kernel)], pads[len(kernel) :]
    return before == after and all(0 <= pad <= extent // 2 for pad, extent in zip(before, kernel, strict=True))


def max_pool(node: Node, x: Tensor) -> Tensor:
    _maps(node, x, 2, 3)
    if len(node.outputs) > 1 and node.outputs[1]:
        raise node.refuse("returns the indices of its maxima, which is not supported")
    pool, n_axes = _MAX_POOL[x.ndim - 2], x.ndim - 2
    kernel, stride = _each(node, "kernel_shape", x), _each(node, "strides", x, 1)
    dilation, ceil = _each(node, "dilations", x, 1), bool(node.get("ceil_mode", 0))
    pads = _pads(node, x, kernel, stride, dilation)
    if _simple(pads, kernel):
        return pool(x, kernel, stride, pads[:n_axes], dilation, ceil_mode=ceil)
    if ceil:
        extent = tuple(apart * (size - 1) + 1 for apart, size in zip(dilation, kernel, strict=True))
        pads = _overhang(x, pads, extent, stride)
    return pool(_pad(x, pads, -torch.inf), kernel, stride, 0, dilation)


def average_pool(node: Node, x: Tensor) -> Tensor:
    _maps(node, x, 2, 3)
    pool, n_axes = _AVG_POOL[x.ndim - 2], x.ndim - 2
    kernel, stride = _each(node, "kernel_shape", x), _each(node, "strides", x, 1)
    ceil, counts_pads = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    if set(_each(node, "dilations", x, 1)) != {1}:
        raise node.refuse("averages over a dilated window, which is not supported")
    pads = _pads(node, x, kernel, stride, (1,) * n_axes)
    if _simple(pads, kernel):
        return pool(x, kernel, stride, pads[:n_axes], ceil, counts_pads)
    grown = _overhang(x, pads, kernel, stride) if ceil else pads
    sums = pool(_pad(x, grown), kernel, stride, divisor_override=1)
    # The divisor depends on the position alone: pixels (and, if asked, padding) under the window, one factor an axis.
    divisor = np.ones(())
    for axis in range(n_axes):
        ends = pads[axis], pads[n_axes + axis]
        n, out = x.shape[2 + axis], sums.shape[2 + axis]
        divisor = np.multiply.outer(divisor, _covered(n, *ends, kernel[axis], stride[axis], out, counts_pads))
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
