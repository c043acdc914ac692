"""What a map that guesses are at hand for lacks: certainty, which cells of the audit give, or quality, which others do.

Used by `sampler` where the audit is sequential. Cells drawn at random take less off what a map loses than cells chosen
for it, but they say more surely how much that is. So the mixture is taken by which the target should be reached with
the fewest cells.
"""

from __future__ import annotations

import numpy as np

__all__ = ["cheapest_growth"]

#: How many times as large an audit may become at once; and how fast what it takes off falls with its size.
_MOST, _POWER = 2.5, 0.83
#: How fast the loss falls with the share of all cells that are computed more: chosen ones, and ones drawn at random.
_CHOSEN_RATE, _DRAWN_RATE = 4.5, 2.5
#: How much more may be lost than is expected of the next look.
_MARGIN = 1.1


def cheapest_growth(loss: float, doubt: float, allowed: float, n_audit: int, n_cells: int) -> tuple[float, float]:
    """Return how many times as large the audit should become, and which share of all cells should be chosen beside it.

    The map is estimated to lose `loss`, and the bound is lower than that by `doubt`, with `n_audit` cells in the audit.
    Both together should come to what is `allowed`.
    """
    growths = np.linspace(1.0, _MOST, 31)
    drawn = (growths - 1.0) * n_audit / n_cells
    room = allowed - _MARGIN * doubt * growths**-_POWER
    left = loss * np.exp(-_DRAWN_RATE * drawn)
    possible = room > 0.0
    if not possible.any():
        return _MOST, 0.0
    chosen = np.maximum(0.0, np.log(np.maximum(left[possible], 1e-9) / room[possible])) / _CHOSEN_RATE
    best = int(np.argmin(drawn[possible] + chosen))
    return float(growths[possible][best]), float(chosen[best])
