"""Layers that see the whole map: global means, adaptive pools, flatten, and anything without a rule of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from obeql.executor.kernels.box_sum import position_sums
from obeql.executor.kernels.by_axes import BY_AXES
from obeql.executor.network.layers.base import Layer
from obeql.planner.geometry import Reach

__all__ = ["AdaptivePool", "AtenCall", "BatchSize", "Flatten", "GlobalMean", "GroupNorm", "LayerRef"]


#: positions above which a map's mean is summed in its own precision: gates early in a network, not heads
_WIDE = 4096


class GlobalMean(Layer):
    """(N, C, ...) -> (N, C, 1, ...), the mean over all positions."""

    kind: ClassVar[str] = "global_mean"
    reach: Reach = "sum"

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        n_positions = math.prod(x.shape[2:])
        if n_positions > _WIDE:
            return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)
        # Summed as `forward_change` sums, so that a box that changes nothing changes no bit of the mean.
        return _of_one_position((position_sums(x) / n_positions).to(x.dtype), x.dim())

    def forward_change(self, total: Tensor, before: Tensor, after: Tensor, n_positions: int) -> Tensor:
        """Return the mean when a box changes.

        It follows from the clean map's sum `total` (n, C), the sum `before` (n, C) of its values
        in each box, and the boxes' new values `after` (n, C, ...). Sums of the clean map are float64.
        """
        mean = (total - before + position_sums(after)) / n_positions
        return _of_one_position(mean.to(after.dtype), after.dim())


def _of_one_position(vector: Tensor, n_dims: int) -> Tensor:
    """See (N, C) as maps of one position, (N, C, 1, ...), of so many dimensions."""
    return vector.view(*vector.shape, *(1,) * (n_dims - 2))


class AdaptivePool(Layer):
    """Average pool to a fixed size whose bins are not all alike."""

    kind: ClassVar[str] = "adaptive_pool"
    reach: Reach = "global"

    def arguments(self) -> dict[str, Any]:
        return {"size": self.shape[1:]}

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return BY_AXES[len(self.shape) - 1].adaptive_average_pool(inputs[0], self.shape[1:])


class GroupNorm(Layer):
    """Norm over all positions of each of `n_groups` groups of channels; with one channel a group, an instance norm."""

    kind: ClassVar[str] = "group_norm"
    reach: Reach = "global"

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        n_groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        epsilon: float,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.n_groups, self.weight, self.bias, self.epsilon = n_groups, weight, bias, epsilon

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return F.group_norm(inputs[0], self.n_groups, self.weight, self.bias, self.epsilon)

    def parameters(self) -> list[Tensor]:
        return [tensor for tensor in (self.weight, self.bias) if tensor is not None]

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> GroupNorm:
        weight = None if self.weight is None else change(self.weight)
        bias = None if self.bias is None else change(self.bias)
        return GroupNorm(self.name, self.inputs, self.shape, self.n_groups, weight, bias, self.epsilon)


class Flatten(Layer):
    """Map to tensor as the traced network sees it: `order` permutes (N, C, ...), then axes are merged.

    `shape` is the result without its batch axis: (K,) for a plain flatten.
    """

    kind: ClassVar[str] = "flatten"
    reach: Reach = "global"

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int], order: tuple[int, ...]) -> None:
        super().__init__(name, inputs, shape)
        self.order = order

    def arguments(self) -> dict[str, Any]:
        # A vector has as many numbers as the map, whatever its size.
        return {"order": self.order, "shape": self.shape if len(self.shape) > 1 else None}

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0].permute(*self.order)
        return x.reshape(x.shape[0], *self.shape)


class LayerRef(int):
    """Stands for the i-th input of an AtenCall inside its arguments."""


class BatchSize:
    """Stands for the number of images inside an AtenCall's arguments."""


class AtenCall(Layer):
    """Any ATen operator, run as traced. Its box rule is unknown, so it needs whole maps."""

    kind: ClassVar[str] = "opaque"
    reach: Reach = "global"

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        operator: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        item: int | None = None,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.operator, self.args, self.kwargs, self.item = operator, args, kwargs, item
        self.tensors = _tensors((args, *kwargs.values()))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        n_images = inputs[0].shape[0]
        args = _filled(self.args, inputs, n_images)
        kwargs = {key: _filled(value, inputs, n_images) for key, value in self.kwargs.items()}
        result: Any = self.operator(*args, **kwargs)
        chosen: Tensor = result if self.item is None else result[self.item]
        return chosen

    def parameters(self) -> list[Tensor]:
        return self.tensors

    def makes_nan(self) -> bool:
        return True  # nothing is known of it

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> AtenCall:
        args = _mapped(self.args, change)
        kwargs = {key: _mapped(value, change) for key, value in self.kwargs.items()}
        return AtenCall(self.name, self.inputs, self.shape, self.operator, args, kwargs, self.item)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    return value


def _filled(value: Any, inputs: Sequence[Tensor], n_images: int) -> Any:
    if isinstance(value, LayerRef):
        return inputs[value]
    if isinstance(value, BatchSize):
        return n_images
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(item, inputs, n_images) for item in value)
    return value
