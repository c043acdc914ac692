"""Which classes a statement asks of an image, and what that says before the network has run.

Made by binding from FOR; part of logical and physical plans. Only the network tells the classes of FOR TOP and of
FOR PREDICTED; labels tell those of FOR LABEL.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

__all__ = ["ALL", "LABEL", "PREDICTED", "ClassSelector"]


class ClassSelector(NamedTuple):
    """FOR PREDICTED, FOR LABEL, FOR ALL (`value` is None), FOR CLASSES (a tuple of ids) or FOR TOP (k classes).

    >>> ClassSelector("ids", (0, 2)).known(10)
    [0, 2]
    >>> ClassSelector("top", 3).n_maps(10)
    3
    """

    kind: Literal["predicted", "label", "ids", "top", "all"]
    value: Any = None

    def n_maps(self, n_classes: int) -> int:
        """Return how many classes are asked of an image with one label, by a network of `n_classes`."""
        match self.kind:
            case "all":
                return n_classes
            case "top":
                return min(int(self.value), n_classes)
            case "ids":
                return len(self.value)
        return 1

    def known(self, n_classes: int) -> list[int] | None:
        """Return the ids of the classes where they are known without an image; else None."""
        match self.kind:
            case "all":
                return list(range(n_classes))
            case "ids":
                return list(self.value)
        return None


ALL, LABEL, PREDICTED = ClassSelector("all"), ClassSelector("label"), ClassSelector("predicted")
