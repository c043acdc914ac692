"""Layer 0: the preprocessed image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from obeql.executor.network.layers.base import Layer
from obeql.planner.geometry import Reach

__all__ = ["Image"]


class Image(Layer):
    """The model's input (N, C, H, W) or (N, C, D, H, W)."""

    kind: ClassVar[str] = "image"
    reach: Reach = "source"

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return inputs[0]
