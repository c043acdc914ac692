"""Captum's arguments of `Occlusion.attribute`, checked and in one form: windows, strides and baselines of each input.

Comes first in `captum`, before the network runs. Each fault raises the type that Captum raises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

__all__ = ["Baseline", "Windows", "as_tuple", "baselines_of", "require_count", "windows_of"]

Baseline = Tensor | int | float


@dataclass(frozen=True, slots=True)
class Windows:
    """All placements of a window over one input of `shape`, batch axis left out: one (start, length) list an axis.

    The last window of an axis is cut off at the border.
    """

    shape: tuple[int, ...]
    axes: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def n_windows(self) -> int:
        return math.prod(len(axis) for axis in self.axes)

    def __iter__(self) -> Iterator[tuple[slice, ...]]:
        """Yield what each window hides, in Captum's order: the first axis moves fastest."""
        for placed in product(*reversed(self.axes)):
            yield tuple(slice(start, start + length) for start, length in reversed(placed))

    def coverage(self, device: torch.device) -> Tensor:
        """Return by how many windows each element is hidden, float32 (1, *shape)."""
        total = torch.ones((1, *self.shape), device=device, dtype=torch.float32)
        for number, (size, axis) in enumerate(zip(self.shape, self.axes, strict=True)):
            counts = torch.zeros(size, device=device, dtype=torch.float32)
            for start, length in axis:
                counts[start : start + length] += 1
            total = total * counts.reshape(-1, *[1] * (len(self.shape) - number - 1))
        return total


def as_tuple(inputs: Any) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple. Raises AssertionError for what is neither a tensor nor a tuple."""
    assert isinstance(inputs, (Tensor, tuple)), (
        f"inputs is a tensor or a tuple of tensors, not {type(inputs).__name__}."
    )
    return inputs if isinstance(inputs, tuple) else (inputs,)


def windows_of(inputs: tuple[Tensor, ...], shapes: Any, strides: Any) -> tuple[Windows, ...]:
    """Return the windows of each input.

    Raises AssertionError for shapes and strides that do not fit the inputs, for windows larger than an input, and for
    strides larger than a window, which would leave gaps. Raises TypeError and IndexError for shapes without entries.
    """
    steps = _strides(inputs, strides)
    sizes = _window_shapes(inputs, shapes)
    return tuple(
        Windows(tuple(x.shape[1:]), _axes(tuple(x.shape[1:]), size, step))
        for x, size, step in zip(inputs, sizes, steps, strict=True)
    )


def baselines_of(inputs: tuple[Tensor, ...], baselines: Any) -> tuple[Baseline, ...]:
    """Return one baseline an input: zeros where none was given.

    Raises AssertionError for what is no number or tensor, IndexError where there are fewer than inputs.
    """
    if baselines is None:
        return tuple(False if x.dtype is torch.bool else 0 for x in inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    for each in given:
        assert isinstance(each, (Tensor, int, float)), (
            f"baselines is a number, a tensor, or a tuple of these, one an input; not {type(each).__name__}."
        )
    if len(given) < len(inputs):
        raise IndexError(f"baselines has {len(given)} entries for {len(inputs)} inputs; give one an input.")
    return given


def require_count(perturbations_per_eval: Any) -> None:
    """Raise AssertionError for what is no positive number of windows."""
    assert isinstance(perturbations_per_eval, int) and perturbations_per_eval >= 1, (
        f"perturbations_per_eval is an integer of at least 1, not {perturbations_per_eval!r}."
    )


def _strides(inputs: tuple[Tensor, ...], strides: Any) -> tuple[tuple[int, ...], ...]:
    if strides is None:
        strides = tuple(1 for _ in inputs)
    if len(inputs) == 1 and not (isinstance(strides, tuple) and len(strides) == 1):
        strides = (strides,)
    assert isinstance(strides, tuple) and len(strides) == len(inputs), (
        f"strides has one entry an input: {len(inputs)}, not {strides!r}."
    )
    found = []
    for number, (x, stride) in enumerate(zip(inputs, strides, strict=True)):
        n_axes = max(0, x.dim() - 1)
        assert isinstance(stride, int) or (isinstance(stride, tuple) and len(stride) == n_axes), (
            f"The stride of input {number} is {stride!r}; it is one integer, or a tuple of {n_axes}, one for each axis "
            f"of {tuple(x.shape)} after the first."
        )
        found.append((stride,) * n_axes if isinstance(stride, int) else stride)
    return tuple(found)


def _window_shapes(inputs: tuple[Tensor, ...], shapes: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(shapes, (tuple, list)):
        raise TypeError(f"sliding_window_shapes is a tuple of integers, not {type(shapes).__name__}.")
    if not shapes:
        raise IndexError("sliding_window_shapes is empty; for an input without axes to hide along it is ((),).")
    given = (shapes,) if isinstance(shapes[0], int) else shapes
    assert len(given) == len(inputs), (
        f"sliding_window_shapes has {len(given)} windows for {len(inputs)} inputs; give one an input."
    )
    for number, (x, window) in enumerate(zip(inputs, given, strict=True)):
        assert isinstance(window, tuple) and len(window) == x.dim() - 1, (
            f"The window of input {number} is {window!r}; it is a tuple of {x.dim() - 1} integers, one for each axis "
            f"of {tuple(x.shape)} after the first."
        )
    return tuple(given)


def _axes(
    shape: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[tuple[tuple[int, int], ...], ...]:
    assert all(1 <= length <= size or length == size for length, size in zip(window, shape, strict=True)), (
        f"The window {window} does not fit the input {shape}: each side is at least 1 and at most that of the input."
    )
    assert all(stride >= 1 for stride in strides), f"The stride {strides} has to be at least 1 along each axis."
    assert all(
        length == size or stride <= length for length, size, stride in zip(window, shape, strides, strict=True)
    ), f"The stride {strides} is larger than the window {window}, so that some of the input would never be hidden."
    return tuple(
        tuple((at, min(length, size - at)) for at in range(0, max(1, size - length + stride), stride))
        for size, length, stride in zip(shape, window, strides, strict=True)
    )
