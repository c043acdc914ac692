"""Captum's map: of each element of the input, the mean of what hiding it costs, over the windows that hide it.

Fed by `captum` with the outputs of windows, whichever way they were computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from obeql.compat.captum_arguments import Windows

__all__ = ["Attribution", "as_tensor"]


def as_tensor(output: Any) -> Tensor:
    """Return what a forward function returns as a tensor. Raises AssertionError for what is no number."""
    if isinstance(output, Tensor):
        return output
    assert not isinstance(output, torch.futures.Future), "attribute() needs the output itself, not a Future of it."
    assert isinstance(output, (int, float)), (
        f"The forward function returns a tensor or a number, not {type(output).__name__}."
    )
    return torch.tensor(output, dtype=torch.float64 if isinstance(output, float) else torch.int64)


class Attribution:
    """Sums of differences for each input, (outputs, *shape), in the dtype of the clean output."""

    def __init__(self, clean: Tensor, inputs: tuple[Tensor, ...], windows: tuple[Windows, ...]) -> None:
        self._clean = clean.reshape(1, -1)
        self._windows = windows
        n_outputs = clean.numel()
        self._totals = [torch.zeros((n_outputs, *x.shape[1:]), dtype=clean.dtype, device=x.device) for x in inputs]

    @property
    def n_outputs(self) -> int:
        return self._clean.shape[1]

    def add(self, number: int, hidden: Sequence[tuple[slice, ...]], outputs: Tensor) -> None:
        """Take the outputs, (windows, outputs) in any shape, of windows over input `number`."""
        total = self._totals[number]
        differences = (self._clean - outputs.reshape(-1, self.n_outputs)).to(total.device)
        n_axes = total.dim() - 1
        broken = (~differences.isfinite()).any(dim=1)
        if not broken.is_meta and bool(broken.any()):
            # Captum multiplies by masks: what is no number reaches all elements.
            total += (differences[broken] * 0).sum(dim=0).reshape(-1, *[1] * n_axes)
        for where, difference in zip(hidden, differences, strict=True):
            total[(slice(None), *where)] += difference.reshape(-1, *[1] * n_axes)

    def mean(self) -> tuple[Tensor, ...]:
        """Return the maps, float32 (outputs, *shape)."""
        return tuple(
            total.float() / windows.coverage(total.device)
            for total, windows in zip(self._totals, self._windows, strict=True)
        )
