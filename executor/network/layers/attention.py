"""Attention: every token is a mean of all tokens' values, weighted by how well their keys fit its query.

Source: Vaswani et al., Attention Is All You Need (NeurIPS 2017), equation 1 and section 3.2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from obeql.executor.kernels.memory_format import from_positions
from obeql.executor.network.layers.base import Layer
from obeql.executor.network.layers.tokens import as_rows
from obeql.planner.geometry import Reach

__all__ = ["Attention"]


class Attention(Layer):
    """softmax(q k^T * scale + bias) v for each head; inputs are the maps of queries, keys and values.

    Channels are heads, and in each head its own: C = n_heads * width. Queries (N, C, ...) give the output's positions;
    keys and values have positions of their own, in equal numbers. `bias` (1 or n_heads, queries, keys) or None.
    """

    kind: ClassVar[str] = "attention"
    reach: Reach = "global"

    def __init__(
        self,
        name: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        n_heads: int,
        scale: float,
        n_keys: int,
        key_channels: int,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__(name, inputs, shape)
        self.n_heads = n_heads
        self.scale = scale
        self.bias = bias
        self._n_keys, self._key_channels = n_keys, key_channels

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        q, k, v = (self.heads(as_rows(x)) for x in inputs)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=self.scale)
        n, _, *size = inputs[0].shape
        return from_positions(found.transpose(1, 2).reshape(n, *size, -1))

    def heads(self, rows: Tensor) -> Tensor:
        """Return tokens (N, T, C) as (N, heads, T, C / heads), without a copy."""
        n, n_tokens, channels = rows.shape
        return rows.view(n, n_tokens, self.n_heads, channels // self.n_heads).transpose(1, 2)

    def of_positions(self, inputs: Sequence[int], n_positions: int, bias: Tensor | None) -> Attention:
        """Return the layer for so many queries, (C, n_positions, 1, ...)."""
        shape = (self.shape[0], n_positions, *(1,) * (len(self.shape) - 2))
        return Attention(self.name, inputs, shape, self.n_heads, self.scale, self._n_keys, self._key_channels, bias)

    def parameters(self) -> list[Tensor]:
        return [] if self.bias is None else [self.bias]

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> Attention:
        if self.bias is None:
            return self
        return Attention(
            self.name,
            self.inputs,
            self.shape,
            self.n_heads,
            self.scale,
            self._n_keys,
            self._key_channels,
            change(self.bias),
        )

    def macs_per_position(self) -> float:
        return float(self._n_keys * (self._key_channels + self.shape[0]))
