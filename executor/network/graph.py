"""A captured network as a list of layers that run: the form every operator works on.

Built by `capture`, turned into plain integers for the planner by `LayerGraph.network`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from obeql.executor.devices.allocator import give_back
from obeql.executor.kernels.memory_format import channels_last
from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.conv import Conv
from obeql.planner.catalog import Activation
from obeql.planner.geometry import Network, NetworkOutput

__all__ = ["LayerGraph"]


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """Layers in topological order; layer 0 is the image, the last one gives logits (N, K), or values.

    `activation` is how those logits become probabilities. `reason` is set when the network could not be captured
    and runs whole. `outputs` are the tensors that the module returns, where that is known. `by_looks`: nobody said that
    the outputs are logits, they were taken for them. `digest` says what is computed (`identity`); it is empty where
    that was not asked for, or where no graph tells.
    """

    layers: tuple[Layer, ...]
    activation: Activation
    reason: str = ""
    outputs: tuple[NetworkOutput, ...] = ()
    by_looks: bool = False
    digest: str = ""
    _placed: dict[tuple[torch.device, torch.dtype], LayerGraph] = field(default_factory=dict, init=False, repr=False)

    def network(self) -> Network:
        """Return the network as the planner knows it."""
        return Network(tuple(layer.spec() for layer in self.layers), self.reason, self.outputs)

    def to(self, device: torch.device, dtype: torch.dtype) -> LayerGraph:
        """Return the graph with every floating-point tensor on `device` in `dtype`.

        Asked again it returns the same graph, whose layers have prepared their weights by then.
        """
        if (device, dtype) in self._placed:
            return self._placed[device, dtype]

        def change(tensor: Tensor) -> Tensor:
            # The format first: a device that lacks float64, in which weights are folded, cannot take them otherwise.
            return (tensor.to(dtype) if tensor.is_floating_point() else tensor).to(device)

        with torch.inference_mode(False), torch.no_grad():  # a gradient may be asked for later
            layers = tuple(layer.map_parameters(change) for layer in self.layers)
        _keep_nan(layers)
        return self._placed.setdefault((device, dtype), replace(self, layers=layers))

    def in_plain_memory(self) -> LayerGraph:
        """Return the same graph, on its device, for maps in (N, C, ...) memory instead of channels-last."""
        return replace(self, layers=tuple(layer.in_plain_memory() for layer in self.layers))

    def last_use(self, start: int = 0) -> list[int]:
        """Return for each layer the last one from `start` on that reads it (the last layer of all for the output)."""
        last = [-1] * len(self.layers)
        for i, layer in enumerate(self.layers):
            if i >= start:
                for j in layer.inputs:
                    last[j] = i
        last[-1] = len(self.layers)
        return last

    def forward(self, x: Tensor) -> Tensor:
        """Run the whole network on x (N, C, ...); returns logits (N, K)."""
        return self.forward_from({0: channels_last(x)}, range(1, len(self.layers)))

    def forward_from(
        self,
        values: Mapping[int, Tensor],
        order: Sequence[int],
        timed: Callable[[int, Callable[[], Tensor]], Tensor] | None = None,
    ) -> Tensor:
        """Run the layers of `order` given the values they read from outside it; returns the last layer's output.

        `timed` runs a layer in the caller's stead: it is given the layer's number and the work.
        """
        live = dict(values)
        last: dict[int, int] = {}
        for i in order:
            for j in self.layers[i].inputs:
                last[j] = i
        for number, i in enumerate(order):
            give_back(number)
            layer = self.layers[i]
            inputs = [live[j] for j in layer.inputs]
            if timed is None:
                live[i] = layer.forward(inputs)
            else:
                live[i] = timed(i, partial(layer.forward, inputs))
            for j in set(layer.inputs):
                if last[j] == i:
                    del live[j]
        return live[len(self.layers) - 1]

    def materialise(self, x: Tensor, keep: Iterable[int]) -> tuple[dict[int, Tensor], Tensor]:
        """Run the whole network on images x (N, C, ...), keeping the outputs of `keep`.

        Returns ({layer: (N, C, ...)}, logits (N, K)). These are the materialised views that windows are
        computed against.
        """
        kept: dict[int, Tensor] = {}
        wanted = set(keep)
        last = self.last_use()
        live = {0: channels_last(x)}
        for i, layer in enumerate(self.layers):
            if i:
                live[i] = layer.forward([live[j] for j in layer.inputs])
            if i in wanted:
                kept[i] = live[i]
            for j in set(layer.inputs):
                if last[j] == i:
                    del live[j]
        return kept, live[len(self.layers) - 1]


def _keep_nan(layers: Sequence[Layer]) -> None:
    """Tell the convolutions that NaN may reach, or that have weights which are not finite, to hand it on.

    Their fused kernels would turn it into 0. Values that only grow beyond the number format are not foreseen.
    """
    reached: list[bool] = []
    for layer in layers:
        reached.append(layer.makes_nan() or any(reached[j] for j in layer.inputs))
        if isinstance(layer, Conv) and reached[-1]:
            layer.keeps_nan = True
