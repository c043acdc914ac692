"""A signal's map in a terminal: its channels as sparklines, in the colors of the importance, and the importance below.

Beside `terminal`, which frames it. Without colors the importance is a line of the characters that maps of images have.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from obeql.drawing.colors import Palette
from obeql.drawing.curves import samples_of

if TYPE_CHECKING:
    from rich.text import Text

    from obeql.results.heatmap import Heatmap

__all__ = ["columns_of", "sparklines"]

_BLOCKS = "▁▂▃▄▅▆▇█"
#: The same without the block characters of Unicode.
_PLAIN = "_.-~=^*#"

#: Channels that are drawn; more would scroll away.
_MOST_CHANNELS = 12

_GROUND = np.array([0.75, 0.75, 0.75])


def sparklines(heat: Heatmap, width: int, limit: float, chosen: Palette, color: bool, blocks: bool) -> Text:
    """Return a line a channel, each with its name, and a line of the importance, `width` characters long at most."""
    from rich.text import Text  # noqa: PLC0415

    samples, _ = samples_of(heat)
    names = ["" if name == "0" and len(heat.channels) == 1 else name for name in heat.channels[:_MOST_CHANNELS]]
    label = max((len(name) for name in names), default=0) + (2 if any(names) else 0)
    n = max(8, width - label)
    importance = columns_of(heat.to_pixels("source"), n)
    shades = chosen.blended(np.tile(_GROUND, (1, len(importance), 1)), importance[None], limit)[0]
    marks = _BLOCKS if blocks else _PLAIN
    text = Text(no_wrap=True)
    for number, (name, values) in enumerate(zip(names, () if samples is None else samples, strict=False)):
        text.append(name.ljust(label))
        shaded = shades if color and heat.hides(number) else None
        _append(text, _levels(columns_of(values, n)), shaded, marks)
        text.append("\n")
    text.append(" " * label)
    _append(text, _levels(np.abs(importance), float(limit)), shades if color else None, marks)
    return text


def columns_of(values: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.float64]:
    """Return the means of a line of values in `n` columns, or the values where there are fewer; NaN where none is."""
    n = min(n, len(values))
    edges = np.linspace(0, len(values), n + 1).round().astype(int).tolist()
    parts = (values[start:end] for start, end in pairwise(edges))
    return np.array([part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts])


def _levels(values: npt.NDArray[np.float64], top: float | None = None) -> npt.NDArray[np.intp]:
    """Return the height of each column, 0 to 7; -1 where there is no value. From zero to `top`, or over their range."""
    known = np.isfinite(values)
    low = 0.0 if top is not None or not known.any() else float(values[known].min())
    high = top if top is not None else float(values[known].max()) if known.any() else 1.0
    share = (np.where(known, values, low) - low) / ((high - low) or 1.0)
    return np.where(known, np.clip(np.round(share * 7), 0, 7), -1).astype(np.intp)


def _append(text: Text, levels: npt.NDArray[np.intp], shades: npt.NDArray[np.uint8] | None, marks: str) -> None:
    from rich.color import Color  # noqa: PLC0415
    from rich.style import Style  # noqa: PLC0415

    for place, level in enumerate(levels.tolist()):
        style = None if shades is None else Style(color=Color.from_rgb(*shades[place].tolist()))
        text.append("?" if level < 0 else marks[level], style)
