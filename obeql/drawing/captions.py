"""The words of a drawn map: titles, the lines below them, notes.

Before: a heat map, of which these tell. After: `overlay`, `compare`, `sheet` and `curves` write them.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obeql.planner.scores import SCORES, score_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from obeql.results.heatmap import Heatmap

__all__ = [
    "add_note",
    "add_titles",
    "plain_text",
    "quality_lines",
    "score_line",
    "shortened",
    "titles_of",
    "window_line",
]


#: Width of a character in the lines above a map.
_DETAIL_INCHES = 0.062


def _width_inches(ax: Axes) -> float:
    """Return how wide an axes will be, about."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return float(ax.bbox.width / figure.dpi)


def add_note(ax: Axes, note: str, n_characters: int, below_key: bool) -> None:
    """Write below the axes what to know before trusting the map."""
    plain_text(ax.set_xlabel(textwrap.fill(note, n_characters), fontsize=8, color="#a03000", loc="left"))
    ax.xaxis.labelpad = 20 if below_key else 4


def titles_of(heat: Heatmap) -> tuple[str, list[str]]:
    details = [score_line(heat), window_line(heat), *quality_lines(heat)]
    return f"{shortened(Path(heat.image).name, 34)} · {shortened(heat.class_name, 24)}", details


def score_line(heat: Heatmap) -> str:
    """Return the clean score of a map, with the probability beside other scores, where there is one."""
    if heat.score_kind == "value":
        return f"value {heat.clean_score:.4g}"
    score = f"probability {_probability(heat)}"
    if heat.score_kind != "probability":
        score = f"{SCORES[heat.score_kind].name} {heat.clean_score:.4g} ({score})"
    return score


def window_line(heat: Heatmap) -> str:
    """Return size and stride of a map's windows."""
    return heat.windows_text


def quality_lines(heat: Heatmap) -> list[str]:
    """Return what is stated of a map that is not exact, in few words; nothing of others."""
    return [_quality_line(heat)] if heat.quality != "exact" else []


def _quality_line(heat: Heatmap) -> str:
    if not heat.approx:
        return heat.quality
    if heat.metric == "top_cells":
        return f"only the {heat.n_listed} most important windows sought"
    return f"{heat.metric} ≥ {heat.bound:.3g}" if heat.bound is not None else "approximate"


def _probability(heat: Heatmap) -> str:
    """Return the clean probability; close to 1 as its distance from 1, which rounding would hide."""
    short_of_one = math.exp(score_of("log_probability", heat.cells.clean_others, heat.cells.clean_logit).item())
    return f"{heat.clean_probability:.4g}" if short_of_one >= 1e-3 else f"1 − {short_of_one:.1g}"


def shortened(text: str, length: int) -> str:
    """Return a text without its middle where it is longer."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[-tail:]


def plain_text(text: Any) -> None:
    """Have a text drawn as it is."""
    # A file name may hold dollar signs, which matplotlib would read as mathematics.
    text.set_parse_math(False)


def add_titles(ax: Axes, headline: str, details: list[str]) -> None:
    """Write a main line above an axes, and details in small lines below it, as many as their width asks for."""
    lines = [""]
    n_characters = max(30, int(_width_inches(ax) / _DETAIL_INCHES))
    for detail in details:
        joined = f"{lines[-1]} · {detail}" if lines[-1] else detail
        lines[-1:] = [joined] if len(joined) <= n_characters or not lines[-1] else [lines[-1], detail]
    plain_text(ax.set_title("\n".join(lines), fontsize=8, loc="left", color="0.35"))
    # Both move together under every layout engine.
    plain_text(
        ax.annotate(
            headline,
            (0, 1),
            (0, 8 + 11 * len(lines)),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=11,
            fontweight="bold",
            annotation_clip=False,
        )
    )
