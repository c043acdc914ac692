"""ONNX operators on host arrays: shape arithmetic with NumPy, away from the device.

Sizes read by Shape stay plain numbers through Gather, Slice, Concat, Cast and arithmetic until Reshape or Expand
takes them, so that a trace holds no data-dependent reads. `module` uses these functions when all inputs of a
node are host arrays. Listed in `HOST`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from obeql.executor.models.onnx.node import Array, Function, Node, host_ints
from obeql.executor.models.onnx.shapes import MAX_ELEMENTS, constant_of_shape, resolved_shape, slices

__all__ = ["HOST"]

_TYPES: Mapping[int, type[np.generic]] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float32,
    11: np.float64, 16: np.float32,
}  # fmt: skip


def _plain(function: Callable[..., Any]) -> Function:
    def run(node: Node, *values: Array) -> Array:
        return np.asarray(function(*values))

    return run


def _divide(a: Array, b: Array) -> Array:
    if np.issubdtype(np.result_type(a, b), np.floating):
        return np.asarray(np.true_divide(a, b))
    quotient = np.floor_divide(np.abs(a), np.abs(b))  # ONNX rounds towards zero
    return np.asarray(np.sign(a) * np.sign(b) * quotient)


def cast(node: Node, x: Array) -> Array:
    if node.get("to") not in _TYPES:
        raise node.refuse(f"casts to the element type {node.get('to')}, which is not supported")
    return x.astype(_TYPES[node.get("to")])


def concat(node: Node, *values: Array) -> Array:
    return np.concatenate(values, node.get("axis", 0))


def expand(node: Node, x: Array, shape: Array) -> Array:
    target = np.broadcast_shapes(x.shape, tuple(host_ints(shape) or []))
    if np.prod([float(size) for size in target]) > MAX_ELEMENTS:
        raise node.refuse(f"expands a constant to shape {target}")
    return np.broadcast_to(x, target)


def gather(node: Node, x: Array, indices: Array) -> Array:
    return np.asarray(np.take(x, indices, node.get("axis", 0)))


def identity(node: Node, x: Array, *_: object) -> Array:
    return x


def range_(node: Node, start: Array, limit: Array, delta: Array) -> Array:
    if delta.item() == 0 or abs((limit.item() - start.item()) / delta.item()) > MAX_ELEMENTS:
        raise node.refuse("counts without end")
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def reshape(node: Node, x: Array, shape: Array) -> Array:
    return x.reshape(resolved_shape(node, x.shape, host_ints(shape) or []))


def shape_of(node: Node, x: Array) -> Array:
    return np.array(x.shape[node.get("start", 0) : node.get("end")], dtype=np.int64)


def slice_(node: Node, x: Array, *bounds: Array | None) -> Array:
    starts, ends, axes, steps = (*bounds, None, None, None, None)[:4]
    cuts = slices(node, x.ndim, starts, ends, axes, steps)
    return x[tuple(cuts.get(axis, slice(None)) for axis in range(x.ndim))]


def split(node: Node, x: Array, sizes: Array | None = None) -> tuple[Array, ...]:
    parts = host_ints(sizes) if sizes is not None else node.get("split")
    axis, n = node.get("axis", 0), len(node.outputs)
    if parts is None:
        parts = [-(-x.shape[axis] // n)] * n
    return tuple(np.split(x, np.cumsum(parts)[:-1], axis))


def _chosen(node: Node, axes: Array | None) -> tuple[int, ...] | None:
    chosen = host_ints(axes) if axes is not None else node.get("axes")
    return None if chosen is None else tuple(chosen)


def squeeze(node: Node, x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, _chosen(node, axes))


def unsqueeze(node: Node, x: Array, axes: Array | None = None) -> Array:
    return np.expand_dims(x, _chosen(node, axes) or ())


def transpose(node: Node, x: Array) -> Array:
    return np.transpose(x, node.get("perm"))


def _reduction(function: Callable[..., Any]) -> Function:
    def run(node: Node, x: Array, axes: Array | None = None) -> Array:
        chosen = _chosen(node, axes)
        if not chosen and node.get("noop_with_empty_axes", 0):
            return x
        return np.asarray(function(x, axis=chosen or None, keepdims=bool(node.get("keepdims", 1))))

    return run


HOST: Mapping[str, Function] = {
    "Abs": _plain(np.abs),
    "Add": _plain(np.add),
    "And": _plain(np.logical_and),
    "Cast": cast,
    "Ceil": _plain(np.ceil),
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "Div": _plain(_divide),
    "Equal": _plain(np.equal),
    "Expand": expand,
    "Floor": _plain(np.floor),
    "Gather": gather,
    "Greater": _plain(np.greater),
    "Identity": identity,
    "Less": _plain(np.less),
    "Max": _plain(lambda *values: np.max(np.broadcast_arrays(*values), axis=0)),
    "Min": _plain(lambda *values: np.min(np.broadcast_arrays(*values), axis=0)),
    "Mod": _plain(np.mod),
    "Mul": _plain(np.multiply),
    "Neg": _plain(np.negative),
    "Not": _plain(np.logical_not),
    "Or": _plain(np.logical_or),
    "Pow": _plain(np.power),
    "Range": range_,
    "ReduceMax": _reduction(np.max),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "Reshape": reshape,
    "Shape": shape_of,
    "Slice": slice_,
    "Split": split,
    "Sqrt": _plain(np.sqrt),
    "Squeeze": squeeze,
    "Sub": _plain(np.subtract),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Where": _plain(np.where),
}
