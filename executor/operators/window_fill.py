"""Fills that depend on what a window hides: its own pixels made weaker, say, instead of values known beforehand.

Given to `IncrementalForward` in place of a tensor of values; the drop-ins for other libraries have such fills.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

__all__ = ["WindowFill"]


class WindowFill(ABC):
    """What windows show in place of the image, worked out from the image under each of them."""

    @abstractmethod
    def values(self, pixels: Tensor, inside: Tensor | None) -> Tensor:
        """Return what to show at pixels (n, C, ...), a box a window.

        `inside`, bool (n, 1, ...), says which positions of a box the window hides; None: all of them. What is
        returned elsewhere does not count.
        """
