"""ONNX operators that move, cut, join or sum up values: reshape, slice, concat, pad, reductions, casts.

One function an operator, (node, inputs) -> value; shapes, axes and bounds arrive as host arrays.
Source of the semantics: the ONNX operator specification, opset 7 to 23. Listed in `SHAPES`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from obeql.executor.models.onnx.node import Array, Function, Node, Operator, Value, host_ints
from obeql.executor.models.onnx.resize import resize, upsample

__all__ = ["MAX_ELEMENTS", "SHAPES", "resolved_shape", "slices"]

#: No value a graph builds from constants alone may have more elements than this.
MAX_ELEMENTS = 2**28

#: ONNX element types (TensorProto.DataType) that are not floating point.
_INTEGERS = {
    2: torch.uint8,
    3: torch.int8,
    4: torch.int32,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
}
_FLOATS = (1, 10, 11, 16)


def resolved_shape(node: Node, old: tuple[int, ...], new: list[int]) -> list[int]:
    """Return the shape argument of Reshape with its zeros (copy the old size) filled in."""
    if node.get("allowzero", 0):
        return new
    if any(size == 0 and axis >= len(old) for axis, size in enumerate(new)):
        raise node.refuse(f"copies an axis that its input of shape {tuple(old)} does not have")
    return [old[axis] if size == 0 else size for axis, size in enumerate(new)]


def reshape(node: Node, x: Tensor, shape: Array) -> Tensor:
    return x.reshape(resolved_shape(node, tuple(x.shape), host_ints(shape) or []))


def flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1:
        return x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)
    return x.reshape(x.shape[:axis].numel(), -1)


def transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm", tuple(reversed(range(x.ndim)))))


def _axes(node: Node, given: Array | None) -> list[int] | None:
    """Return the axes from the input (newer opsets) or the attribute (older ones)."""
    return host_ints(given) if given is not None else node.get("axes")


def squeeze(node: Node, x: Tensor, axes: Array | None = None) -> Tensor:
    chosen = _axes(node, axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def unsqueeze(node: Node, x: Tensor, axes: Array | None = None) -> Tensor:
    chosen = _axes(node, axes) or []
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def shape_of(node: Node, x: Tensor) -> Array:
    return np.array(tuple(x.shape)[node.get("start", 0) : node.get("end")], dtype=np.int64)


def size_of(node: Node, x: Tensor) -> Array:
    return np.array(x.numel(), dtype=np.int64)


def gather(node: Node, x: Tensor, indices: Value) -> Tensor:
    axis = node.get("axis", 0) % x.ndim
    shape = x.shape[:axis] + tuple(indices.shape) + x.shape[axis + 1 :]
    if isinstance(indices, Tensor):
        flat = torch.where(indices < 0, indices + x.shape[axis], indices)
        return x.index_select(axis, flat.reshape(-1)).reshape(shape)
    chosen = [index + x.shape[axis] if index < 0 else index for index in host_ints(indices) or []]
    if indices.ndim == 0:
        return x.select(axis, chosen[0])
    if chosen and chosen == list(range(chosen[0], chosen[0] + len(chosen))):
        return x.narrow(axis, chosen[0], len(chosen)).reshape(shape)
    return x.index_select(axis, torch.tensor(chosen, dtype=torch.int64, device=x.device)).reshape(shape)


def slices(
    node: Node, rank: int, starts: Array | None, ends: Array | None, axes: Array | None, steps: Array | None
) -> dict[int, slice]:
    """Return {axis: slice}; inputs since opset 10, attributes before. A slice with a negative step is legal."""
    first = host_ints(starts) or node.get("starts", [])
    last = host_ints(ends) or node.get("ends", [])
    chosen = _axes(node, axes) or list(range(len(first)))
    strides = host_ints(steps) or [1] * len(first)
    result = {}
    for start, end, axis, step in zip(first, last, chosen, strides, strict=True):
        # With a negative step an end before the first element means "all the way", which Python writes as None.
        stop = None if step < 0 and end < -(2**31) else end
        result[axis % rank] = slice(start, stop, step)
    return result


def slice_(
    node: Node,
    x: Tensor,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Tensor:
    for axis, cut in slices(node, x.ndim, starts, ends, axes, steps).items():
        start, stop, step = cut.indices(x.shape[axis])
        if step > 0:
            x = x[(slice(None),) * axis + (slice(start, max(stop, start), step),)]
        else:
            x = x.index_select(axis, torch.arange(start, stop, step, device=x.device))
    return x


def split(node: Node, x: Tensor, sizes: Array | None = None) -> tuple[Tensor, ...]:
    axis = node.get("axis", 0) % x.ndim
    parts = host_ints(sizes) if sizes is not None else node.get("split")
    if parts is None:
        return torch.split(x, -(-x.shape[axis] // len(node.outputs)), axis)
    return torch.split(x, list(parts), axis)


def concat(node: Node, *values: Tensor) -> Tensor:
    return torch.cat(values, node.get("axis", 0))


def cast(node: Node, x: Tensor) -> Tensor:
    to = node.get("to")
    if to in _FLOATS:  # all floating point is computed in the precision of the weights
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())
    if to not in _INTEGERS:
        raise node.refuse(f"casts to the element type {to}, which is not supported")
    return x.to(_INTEGERS[to])


def identity(node: Node, x: Tensor, *_: object) -> Tensor:
    return x


def constant_of_shape(node: Node, shape: Array) -> Array:
    sizes = host_ints(shape) or []
    if min(sizes, default=0) < 0 or np.prod([float(size) for size in sizes]) > MAX_ELEMENTS:
        raise node.refuse(f"builds a constant of shape {sizes}")
    value = np.asarray(node.get("value", np.zeros(1, np.float32))).reshape(-1)[:1]
    return np.full(sizes, value[0])


def expand(node: Node, x: Tensor, shape: Array) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(host_ints(shape) or [])))


def tile(node: Node, x: Tensor, repeats: Array) -> Tensor:
    return x.repeat(host_ints(repeats) or [])


def pad(
    node: Node, x: Tensor, pads: Array | None = None, value: Array | None = None, axes: Array | None = None
) -> Tensor:
    mode = node.get("mode", "constant")
    sizes = (host_ints(pads) if pads is not None else node.get("pads")) or []
    chosen = host_ints(axes) if axes is not None else list(range(len(sizes) // 2))
    before, after = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(chosen or []):
        before[axis], after[axis] = sizes[position], sizes[position + len(sizes) // 2]
    first = next((axis for axis in range(x.ndim) if before[axis] or after[axis]), x.ndim)
    flat = [size for axis in reversed(range(first, x.ndim)) for size in (before[axis], after[axis])]
    if not flat:
        return x
    if mode == "constant":
        fill = node.get("value", 0.0) if value is None or value.size == 0 else value.item()
        return F.pad(x, flat, value=fill)
    if mode not in ("reflect", "edge") or first < 2 or x.ndim != 4:
        raise node.refuse(f"pads shape {tuple(x.shape)} with mode {mode!r}; only maps and constant, reflect, edge work")
    return F.pad(x, flat + [0] * (4 - len(flat)), mode="replicate" if mode == "edge" else "reflect")


def top_k(node: Node, x: Tensor, k: Array | None = None) -> tuple[Tensor, Tensor]:
    chosen = node.get("k") if k is None else int(k.reshape(-1)[0])
    values, indices = torch.topk(x, chosen, node.get("axis", -1), bool(node.get("largest", 1)), True)
    return values, indices


def _reduction(function: Function) -> Operator:
    def run(node: Node, x: Tensor, axes: Array | None = None) -> Tensor:
        chosen = _axes(node, axes)
        if not chosen:
            if node.get("noop_with_empty_axes", 0):
                return x
            chosen = list(range(x.ndim))
        return function(x, [axis % x.ndim for axis in chosen], bool(node.get("keepdims", 1)))  # type: ignore[no-any-return]

    return Operator(run, host=(1,))


SHAPES: Mapping[str, Operator] = {
    "Cast": Operator(cast),
    "CastLike": Operator(identity),
    "Concat": Operator(concat),
    "ConstantOfShape": Operator(constant_of_shape, host=(0,)),
    "Dropout": Operator(identity),
    "Expand": Operator(expand, host=(1,)),
    "Flatten": Operator(flatten),
    "Gather": Operator(gather, host_if_known=(1,)),
    "Identity": Operator(identity),
    "Pad": Operator(pad, host=(1, 2, 3)),
    "ReduceL2": _reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "Reshape": Operator(reshape, host=(1,)),
    "Resize": Operator(resize, host=(2, 3)),
    "Shape": Operator(shape_of),
    "Size": Operator(size_of),
    "Slice": Operator(slice_, host=(1, 2, 3, 4)),
    "Split": Operator(split, host=(1,)),
    "Squeeze": Operator(squeeze, host=(1,)),
    "Tile": Operator(tile, host=(1,)),
    "TopK": Operator(top_k, host=(1,)),
    "Transpose": Operator(transpose),
    "Unsqueeze": Operator(unsqueeze, host=(1,)),
    "Upsample": Operator(upsample, host=(1,)),
}
