"""A network that could not be captured, as one layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from obeql.executor.network.capture.outputs import main_output
from obeql.executor.network.layers.base import Layer
from obeql.planner.geometry import Reach

__all__ = ["Whole"]


class Whole(Layer):
    """(N, C, ...) -> what the network returns (N, K), by running the module."""

    kind: ClassVar[str] = "whole"
    reach: Reach = "global"

    def __init__(self, name: str, inputs: Sequence[int], shape: Sequence[int], module: nn.Module) -> None:
        super().__init__(name, inputs, shape)
        self.module = module

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        # A copy in plain memory: the module may use views of its input, or write into it.
        return main_output(self.module(inputs[0].clone(memory_format=torch.contiguous_format)))

    def parameters(self) -> list[Tensor]:
        if isinstance(self.module, Stateless):
            return list(self.module.tensors.values())
        return [*self.module.parameters(), *self.module.buffers()]

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> Whole:
        module = self.module
        tensors: dict[str, Tensor]
        if isinstance(module, Stateless):
            tensors, module = module.tensors, module.original
        else:
            tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        changed = {key: change(value.detach()) for key, value in tensors.items()}
        return Whole(self.name, self.inputs, self.shape, Stateless(module, changed))


class Stateless(nn.Module):
    """Runs a module with other tensors in place of its parameters, leaving the module itself alone."""

    def __init__(self, module: nn.Module, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self._original = [module]  # in a list, so that it does not register as a child
        self._tensors = dict(tensors)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self._tensors

    @property
    def original(self) -> nn.Module:
        return self._original[0]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(self.original, self.tensors, (x,))
        return result
