"""Fills that depend on what a window hides: its own pixels made weaker, say, instead of values known beforehand.

Given to operators in place of a tensor of values. `FILLS_BY_WINDOW` has those of the language; the drop-ins for other
libraries have fills of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["FILLS_BY_WINDOW", "Fill", "Linear", "WindowFill"]


class WindowFill(ABC):
    """What windows show in place of the image, worked out from the image under each of them."""

    @abstractmethod
    def values(self, pixels: Tensor, inside: Tensor | None) -> Tensor:
        """Return what to show at pixels (n, C, ...), a box a window.

        `inside`, bool (n, 1, ...), says which positions of a box the window hides; None: all of them. What is
        returned elsewhere does not count.
        """

    def to(self, dtype: torch.dtype) -> WindowFill:
        """Return the fill for pixels of a number format: itself, as it works in that of the pixels."""
        return self


#: What operators take as a fill: values, or what works them out.
Fill = Tensor | WindowFill


class Linear(WindowFill):
    """The straight line from the first to the last sample of a window, of signals: along the last axis, by channel."""

    def values(self, pixels: Tensor, inside: Tensor | None) -> Tensor:
        n, length = len(pixels), pixels.shape[-1]
        signal = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
        place = torch.arange(length, device=pixels.device)
        first, last = place.new_zeros(n), place.new_full((n,), length - 1)
        if inside is not None:
            hidden = inside.reshape(n, length).to(torch.int64)
            first = hidden.argmax(dim=1)
            last = first + hidden.sum(dim=1) - 1
        across = (1,) * (pixels.dim() - 1)
        low, high = (
            signal.gather(-1, at.view(n, *across).expand(*signal.shape[:-1], 1)) for at in (first, last.clamp(min=0))
        )
        # Whole numbers up to the division, so that a window has the same values wherever its box begins.
        share = (place - first[:, None]).to(signal.dtype) / (last - first).clamp(min=1)[:, None]
        share = share.view(n, *across[:-1], length)
        return (low * (1 - share) + high * share).to(pixels.dtype)


#: By its word, each fill of the language that is worked out window by window.
FILLS_BY_WINDOW: Mapping[str, WindowFill] = {"linear": Linear()}
