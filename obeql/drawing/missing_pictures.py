"""Pictures that are not there when maps are drawn over them: said in words, beside the drawing that lacks them."""

from __future__ import annotations

from collections.abc import Iterable

from obeql.errors import ImageError
from obeql.results.heatmap import Heatmap

__all__ = ["missing_pictures"]


def missing_pictures(maps: Iterable[Heatmap]) -> str:
    """Return what to add to a message about drawn maps: how many lack their pictures, and why; empty if none does."""
    problems: dict[str, str] = {}
    n_maps = n_missing = 0
    for heat in maps:
        n_maps += 1
        try:
            heat.source()
        except ImageError as error:
            n_missing += 1
            problems.setdefault(heat.image, str(error))
    if not problems:
        return ""
    whose = "without its picture" if n_maps == 1 else f"{n_missing} of them without a picture"
    return f", {whose}: {'; '.join(list(problems.values())[:3])}{'; ..' if len(problems) > 3 else ''}"
