"""Networks exported for one fixed batch size: run them in pieces, or prove that a free batch gives the same.

Used by the ONNX and exported-program families.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from obeql.errors import ModelError
from obeql.executor.network.capture.outputs import named_outputs

__all__ = ["FixedBatch", "fits_any_batch", "runs_one_by_one_only"]

#: Largest difference, relative to the largest output, between a free batch and pieces that counts as rounding.
TOLERANCE = 1e-4

#: What a network raises that does not take a batch.
_FAILURES = (ModelError, RuntimeError, ValueError, IndexError, TypeError)


class FixedBatch(nn.Module):
    """A network that takes exactly `batch` images at a time; the last piece is filled up with zero images."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.network = network
        self.batch = batch

    def forward(self, image: torch.Tensor) -> Any:
        """Return the network's output, or all of them by name."""
        n_images = image.shape[0]
        missing = -n_images % self.batch
        padded = F.pad(image, (0, 0) * (image.ndim - 1) + (0, missing)) if missing else image
        pieces = [named_outputs(self.network(piece)) for piece in torch.split(padded, self.batch)]
        whole = {name: _joined([piece[name] for piece in pieces], self.batch)[:n_images] for name in pieces[0]}
        return whole if len(whole) != 1 else next(iter(whole.values()))


def _joined(pieces: Sequence[torch.Tensor], batch: int) -> torch.Tensor:
    """Return the rows of all pieces; where images were squeezed away, a piece is the row of its one image."""
    return torch.cat([piece if piece.ndim and len(piece) == batch else piece[None] for piece in pieces])


def runs_one_by_one_only(network: nn.Module, shape: tuple[int, ...]) -> bool:
    """Return whether a network has an output for each of one image (C, ...), but not for each of two."""
    return _n_outputs(network, 1, shape) == 1 and _n_outputs(network, 2, shape) != 2


def _n_outputs(network: nn.Module, n_images: int, shape: tuple[int, ...]) -> int | None:
    try:
        with torch.inference_mode():
            output = network(torch.zeros(n_images, *shape, dtype=torch.float32))
    except _FAILURES:
        return None
    return output.shape[0] if isinstance(output, torch.Tensor) and output.ndim else None


def fits_any_batch(free: nn.Module, fixed: FixedBatch, shape: tuple[int, ...]) -> bool:
    """Return whether `free` returns for a batch of another size what `fixed` returns piece by piece, on random images.

    `shape` is (C, ...). A failure of `free` counts as no.
    """
    n_images = 2 if fixed.batch == 1 else 1
    images = torch.randn(n_images, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    with torch.inference_mode():
        try:
            outputs = named_outputs(free(images))
        except _FAILURES:
            return False
        try:
            expected = named_outputs(fixed(images))
        except _FAILURES:
            return True  # what fails either way is reported by the forward check
    return outputs.keys() == expected.keys() and all(_same(outputs[name], expected[name]) for name in expected)


def _same(output: torch.Tensor, expected: torch.Tensor) -> bool:
    if output.shape != expected.shape or not output.numel():
        return False
    scale = float(expected.abs().max()) or 1.0
    return bool((output - expected).abs().max() <= TOLERANCE * scale)
