"""What is stated of a map's quality, in words: `ssim >= 0.93, 12% of cells computed, 30% in bfloat16`.

Read from the dictionary that the executor states and the store keeps; maps, tables and the live drawing show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["quality_text", "top_class_text"]


def quality_text(quality: Mapping[str, Any], n_cells: int) -> str:
    """Return what is stated of a map of so many cells: `exact`, or its bound and the shares of cells computed."""
    if not quality.get("approx", False):
        return "exact"
    metric, bound = quality.get("metric"), quality.get("bound")
    parts = ["approximate" if bound is None else f"{metric} >= {bound:.3g}"]
    n_exact, n_reduced = quality.get("n_exact"), quality.get("n_reduced", 0)
    if n_exact is not None:
        parts.append(f"{n_exact / n_cells:.0%} of cells computed")
    if n_reduced:
        parts.append(f"{n_reduced / n_cells:.0%} in {quality.get('reduced_precision')}")
    return ", ".join(parts)


def top_class_text(top_class: int, classes: Sequence[str]) -> str:
    """Return the name of the class that wins where a cell is hidden; empty for an estimated cell, which has none."""
    if top_class < 0:
        return ""
    return classes[top_class] if top_class < len(classes) else str(top_class)
