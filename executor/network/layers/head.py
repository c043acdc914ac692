"""What is put behind a network so that its last layer gives one logit for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from obeql.executor.network.layers.base import Layer
from obeql.planner.geometry import Reach

__all__ = ["Probabilities", "YesNo", "slack"]


def slack(dtype: torch.dtype) -> float:
    """Return how far beyond 0 and 1 rounding may carry a probability that is computed in `dtype`."""
    return max(1e-5, 4 * torch.finfo(dtype).eps)


class Probabilities(Layer):
    """Probabilities (N, K) -> logits (N, K), in float32 or wider; NaN for what is no probability.

    `exclusive`: each row sums to 1, and the logit of p is log p, whose softmax is p. Otherwise it is log(p / (1 - p)),
    whose sigmoid is p. A saturated 1 counts as the number below it that its format holds, a saturated 0 as `least`,
    None for the least number of the format.
    """

    kind: ClassVar[str] = "probabilities"
    reach: Reach = "global"

    def __init__(
        self, name: str, inputs: Sequence[int], shape: Sequence[int], exclusive: bool, least: float | None = None
    ) -> None:
        super().__init__(name, inputs, shape)
        self.exclusive = exclusive
        self.least = least

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        given = inputs[0]
        off = slack(given.dtype)
        p = given.to(torch.promote_types(given.dtype, torch.float32))
        kept = torch.where((p >= -off) & (p <= 1 + off), p, torch.nan)
        kept = kept.masked_fill(kept <= 0, self.least or torch.finfo(p.dtype).tiny)
        if self.exclusive:
            return kept.log()
        kept = kept.clamp(max=1 - torch.finfo(given.dtype).eps / 2)
        return kept.log() - torch.log1p(-kept)

    def makes_nan(self) -> bool:
        return True


class YesNo(Layer):
    """One logit of yes (N, 1) -> those of no and yes (N, 2), each to be judged by its sigmoid."""

    kind: ClassVar[str] = "yes_no"
    reach: Reach = "global"

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.cat((-inputs[0], inputs[0]), dim=1)
