"""Networks of signals, (N, C, length), run on images of one row, (N, C, 1, length), which is what the engine knows.

Put around a module as the last step of loading it, and around the operators of ONNX that have one axis.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["OneRow"]


class OneRow(nn.Module):
    """A network of signals that takes images of one row: its input is (N, C, length) as it always was."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> Any:
        return self.network(image[:, :, 0])
