"""What every layer declares: how a box passes through it, how it runs on whole maps, how it runs on a region.

Maps are (N, C, H, W) or (N, C, D, H, W) in channels-last memory, vectors (N, K).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from obeql.executor.kernels.box_position import Place
from obeql.planner.geometry import AxisWindow, LayerSpec, Reach

__all__ = ["Layer", "Place", "padded"]


#: attributes that say where a layer stands, not what it does
_PLACE = frozenset({"name", "inputs", "shape"})


class Layer(ABC):
    """One layer with its weights. Weights stay as captured; `to` makes the copies a device and dtype need.

    Subclasses set `kind` and `reach`, and for local layers `window`.
    """

    kind: ClassVar[str]
    reach: Reach = "pointwise"
    window: tuple[AxisWindow, ...] | None = None
    #: what a position outside the input map counts as when a region reaches over its border
    outside: float = 0.0

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int]) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.shape = tuple(shape)

    @abstractmethod
    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run on whole maps."""

    def forward_region(self, inputs: Sequence[Tensor], place: Place) -> Tensor:
        """Run on what the output boxes at `place` read, without padding; pointwise layers need no other rule.

        A local layer's input has (place.sizes - 1) * stride + extent positions along each axis.
        """
        return self.forward(inputs)

    def parameters(self) -> list[Tensor]:
        """Return all tensors of the layer, for its size in bytes."""
        return []

    def arguments(self) -> dict[str, Any]:
        """Return all that sets the layer's function apart from others of its kind, by name: settings and tensors.

        The model's identity rests on it. Names, inputs and what follows from the size of the input are left out, and
        attributes that begin with an underscore, which follow from the others.
        """
        return {key: value for key, value in vars(self).items() if not key.startswith("_") and key not in _PLACE}

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> Layer:
        """Return a copy of the layer with every tensor replaced by change(tensor)."""
        return self

    def in_plain_memory(self) -> Layer:
        """Return the layer for maps in (N, C, ...) memory; most take either."""
        return self

    def macs_per_position(self) -> float:
        """Return the multiply-accumulates for one position of a map, or for the whole of a vector."""
        return 0.0

    def makes_nan(self) -> bool:
        """Return whether finite inputs far from the ends of their number format can give values that are not finite."""
        return not all(bool(tensor.isfinite().all()) for tensor in self.parameters())

    def spec(self) -> LayerSpec:
        """Return the layer as plain integers, for the planner."""
        positions = math.prod(self.shape[1:]) if len(self.shape) > 2 else 1
        elements = int(torch.Size(self.shape).numel())
        return LayerSpec(
            name=self.name,
            kind=self.kind,
            reach=self.reach,
            inputs=self.inputs,
            shape=self.shape,
            macs=round(self.macs_per_position() * positions),
            work_bytes=4 * elements * (1 + len(self.inputs)),
            # Folded weights are kept in float64 and run in float32.
            weight_bytes=sum(t.numel() * (4 if t.is_floating_point() else t.element_size()) for t in self.parameters()),
            window=self.window,
        )


def padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Return maps (N, C, ...) with `pads` positions of a value around them: before and after on each axis, in order."""
    pairs = [tuple(pads[k : k + 2]) for k in range(0, len(pads), 2)]
    return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=value)
