"""What is stated of a map's quality, in words: `ssim >= 0.93, 12% of cells computed, 30% in bfloat16`.

Read from the dictionary that the executor states and the store keeps; maps, tables and the live drawing show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["quality_sentence", "quality_text", "top_class_text"]


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


def quality_sentence(quality: Mapping[str, Any], n_cells: int) -> str:
    """Return all that is stated of a map of so many cells: bound, target, confidence, shares of cells, audit."""
    if not quality.get("approx", False):
        return "exact: every cell was computed"
    text = "approximate"
    bound, target, confidence = (quality.get(name) for name in ("bound", "target", "confidence"))
    if quality.get("metric") == "top_cells":
        text += f": the most important cells are the right ones at confidence {confidence:g}"
    elif bound is not None:
        text += f": {quality.get('metric')} against the exact map is at least {bound:.3g}"
        text += "" if confidence is None else f" at confidence {confidence:g}"
        text += "" if target is None else f" (asked for: {target:g})"
    n_exact, n_reduced = quality.get("n_exact"), quality.get("n_reduced", 0)
    if n_exact is not None:
        text += f"; {n_exact / n_cells:.0%} of the cells computed"
        text += f", {n_reduced / n_cells:.0%} in {quality.get('reduced_precision')}" if n_reduced else ""
        text += ", the others estimated" if n_exact + n_reduced < n_cells else ""
    if quality.get("n_audit"):
        text += f"; measured on {quality['n_audit']} cells drawn at random"
    return text


def top_class_text(top_class: int, classes: Sequence[str]) -> str:
    """Return the name of the class that wins where a cell is hidden; empty for an estimated cell, which has none."""
    if top_class < 0:
        return ""
    return classes[top_class] if top_class < len(classes) else str(top_class)
