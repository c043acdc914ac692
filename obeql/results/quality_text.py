"""What is stated of a map's quality, in words: `ssim >= 0.93, 12% of cells computed, 30% in bfloat16`.

Read from the dictionary that the executor states and the store keeps; maps, tables and the live drawing show it. A cell
that was not computed in the precision of the statement is marked with `~` wherever cells are listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "ESTIMATED",
    "estimated_note",
    "importance_text",
    "n_asked",
    "quality_sentence",
    "quality_text",
    "top_class_text",
]

#: What METRIC measures, in words.
_MEASURES = {
    "ssim": "ssim against the exact map",
    "top10pct": "the share of the most important tenth of the cells that is that of the exact map",
    "pearson": "the correlation with the exact map (pearson)",
    "maxerr": "1 - largest error / range of the exact map (maxerr)",
}

_SAMPLE = "a sample of the windows, for aggregates of SQL"
#: Of the map that a proxy guesses, before the first level.
_FIRST = "a first estimate"
#: Stands before a number that the network did not compute in the precision of the statement.
ESTIMATED = "~"


def n_asked(quality: Mapping[str, Any]) -> int | None:
    """Return the k of a map of TOP k CELLS; None of other maps."""
    found = quality.get("k")
    return None if found is None else int(found)


def importance_text(importance: float, exact: bool, digits: int = 4) -> str:
    """Return an importance with its sign, marked where it is an estimate: `+1.25`, `~+1.25`."""
    return f"{'' if exact else ESTIMATED}{importance:+.{digits}g}"


def estimated_note(quality: Mapping[str, Any]) -> str:
    """Return what the mark says of a map's cells: estimated, or computed in a reduced precision."""
    precision = quality.get("reduced_precision") if quality.get("n_reduced") else None
    return "estimated" if precision is None else f"estimated, or computed in {precision}"


def quality_text(quality: Mapping[str, Any], n_cells: int, n_known: int | None = None) -> str:
    """Return what is stated of a map of so many cells: `exact`, or its bound and the shares of cells computed.

    `n_known` of them have a value; where an exact map lacks some, it is not finished.
    """
    if not quality.get("approx", False):
        return "exact" if n_known is None or n_known == n_cells else _unfinished(n_known, n_cells)
    metric, bound = quality.get("metric"), quality.get("bound")
    parts = ["approximate" if bound is None else f"{metric} >= {bound:.3g}"]
    if metric == "maxerr" and bound is not None:
        parts = [f"errors of at most {1 - bound:.3g} of the range"]
    if metric == "top_cells":
        parts = [_found(quality)]
    if metric == "aggregates":
        parts = [_SAMPLE]
    if quality.get("is_guess"):
        parts = [_FIRST]
    n_exact, n_reduced = quality.get("n_exact"), quality.get("n_reduced", 0)
    if n_exact is not None:
        parts.append(f"{n_exact / n_cells:.0%} of cells computed")
    if n_reduced:
        parts.append(f"{n_reduced / n_cells:.0%} in {quality.get('reduced_precision')}")
    if quality.get("proxy"):
        parts.append(f"all guessed by {quality['proxy']}")
    if quality.get("proxy_dropped"):
        parts.append(f"guesses dropped: {quality['proxy_dropped']}")
    if quality.get("late_s"):
        parts.append(_late(quality))
    return ", ".join(parts)


def quality_sentence(quality: Mapping[str, Any], n_cells: int, n_known: int | None = None) -> str:
    """Return all that is stated of a map of so many cells: bound, target, confidence, shares of cells, audit.

    `n_known` is as in `quality_text`.
    """
    if not quality.get("approx", False):
        whole = n_known is None or n_known == n_cells
        return "exact: every cell was computed" if whole else _unfinished(n_known or 0, n_cells)
    text = "approximate"
    bound, target, confidence = (quality.get(name) for name in ("bound", "target", "confidence"))
    if quality.get("metric") == "top_cells":
        text += f": {_found(quality)}"
    elif quality.get("metric") == "aggregates":
        text += f": {_SAMPLE}"
    elif bound is not None:
        what = _MEASURES.get(str(quality.get("metric")), f"{quality.get('metric')} against the exact map")
        text += f": {what} is at least {bound:.3g}"
        text += "" if confidence is None else f" at confidence {confidence:g}"
        text += "" if target is None else f" (asked for: {target:g})"
    n_exact, n_reduced = quality.get("n_exact"), quality.get("n_reduced", 0)
    if n_exact is not None:
        text += f"; {n_exact / n_cells:.0%} of the cells computed"
        text += f", {n_reduced / n_cells:.0%} in {quality.get('reduced_precision')}" if n_reduced else ""
        others = "left out" if quality.get("metric") in ("top_cells", "aggregates") else "estimated"
        text += f", the others {others}" if n_exact + n_reduced < n_cells else ""
    if quality.get("proxy"):
        text += f", all guessed by {quality['proxy']}"
    if quality.get("proxy_dropped"):
        text += f", none guessed: {quality['proxy_dropped']}"
    if quality.get("n_audit"):
        text += f"; measured on {quality['n_audit']} cells drawn at random"
    return f"{text}; {_late(quality)}" if quality.get("late_s") else text


def _late(quality: Mapping[str, Any]) -> str:
    return f"{quality['late_s']:g} s later than WITHIN {quality['within_s']:g} SECONDS"


def _unfinished(n_known: int, n_cells: int) -> str:
    return f"not finished: {n_known:,} of {n_cells:,} cells computed"


def _found(quality: Mapping[str, Any]) -> str:
    """Return how many of the most important cells a search has found, and how sure that is."""
    k, bound, confidence = n_asked(quality), quality.get("bound"), quality.get("confidence")
    sure = "" if confidence is None else f" ({confidence:.3g} confidence)"
    which = "the most important cells" if k is None else f"the {k} most important cells" if k > 1 else "the best cell"
    if bound is None:
        return f"{which}, as far as the search came"
    if bound >= 1:
        return f"{which} found{sure}"
    n_found = "some of" if k is None else f"at least {int(bound * k + 1e-9)} of"
    return f"{n_found} {which} found{sure}"


def top_class_text(top_class: int, classes: Sequence[str]) -> str:
    """Return the name of the class that wins where a cell is hidden; empty for an estimated cell, which has none."""
    if top_class < 0:
        return ""
    return classes[top_class] if top_class < len(classes) else str(top_class)
