"""Aggregates of the windows of a map, as SQL asks for them: what is to be known, how well, of which totals.

Push-down reads them from SQL (`planner.pushdown.aims`), a plan carries them, and the executor estimates them from a
sample of the windows (`executor.adaptive.aggregate_sampler`). Everything here is plain data and arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = [
    "AggregateAim",
    "Arithmetic",
    "Column",
    "Count",
    "Expression",
    "Mean",
    "Number",
    "Strata",
    "Sum",
    "draw_sample",
    "linear",
    "scale_of",
]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: Windows that each stratum has in a sample.
_EACH = 2


@dataclass(frozen=True, slots=True)
class Column:
    """What one window adds to a total: SQL, NULL where it adds nothing, as a window that FILTER leaves out."""

    sql: str


@dataclass(frozen=True, slots=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of column number `place` over the windows of a map."""

    place: int


@dataclass(frozen=True, slots=True)
class Count:
    """The number of windows of which column number `place` is not NULL."""

    place: int


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of column number `place` over the windows of which it is not NULL."""

    place: int


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Two expressions joined by one of + - * /."""

    operator: str
    left: Expression
    right: Expression


Expression = Number | Sum | Count | Mean | Arithmetic


@dataclass(frozen=True, slots=True)
class AggregateAim:
    """What SQL asks of every map: `selected` aggregates with their names, and `decisions`, whose signs HAVING asks for.

    Each selected one is to be known with an error of at most `precision` times its scale (`scale_of`), at `confidence`.
    """

    columns: tuple[Column, ...]
    selected: tuple[tuple[str, Expression], ...]
    decisions: tuple[Expression, ...]
    precision: float
    confidence: float
    #: whether HAVING holds where every decision is above 0, and fails where one is below
    all_must_hold: bool = False

    @property
    def written(self) -> str:
        """Return what is asked for, in a few words."""
        names = ", ".join(name for name, _ in self.selected)
        error = f"{names} with an error of at most {self.precision:.3g}" if names else ""
        decided = "HAVING decided" if self.decisions else ""
        return "; ".join(each for each in (decided, error) if each)


def linear(expression: Expression, counts: Floats, sums: Floats) -> tuple[float, Floats, Floats]:
    """Return the value of an expression, and how much it changes with each count and each sum, (columns,) each.

    `counts` and `sums` (columns,) are the totals. A quotient of nothing is NaN.
    """
    none = np.zeros(len(sums))
    if isinstance(expression, Number):
        return expression.value, none, none
    if isinstance(expression, Sum):
        return float(sums[expression.place]), none, _unit(none, expression.place)
    if isinstance(expression, Count):
        return float(counts[expression.place]), _unit(none, expression.place), none
    if isinstance(expression, Mean):
        quotient = Arithmetic("/", Sum(expression.place), Count(expression.place))
        return linear(quotient, counts, sums)
    (a, a_counts, a_sums), (b, b_counts, b_sums) = (
        linear(each, counts, sums) for each in (expression.left, expression.right)
    )
    if expression.operator in "+-":
        sign = 1.0 if expression.operator == "+" else -1.0
        return a + sign * b, a_counts + sign * b_counts, a_sums + sign * b_sums
    if expression.operator == "*":
        return a * b, a_counts * b + a * b_counts, a_sums * b + a * b_sums
    if b == 0.0:
        return float("nan"), none, none
    return a / b, (a_counts - a / b * b_counts) / b, (a_sums - a / b * b_sums) / b


def scale_of(expression: Expression, n_windows: int, ranges: Floats, value: float) -> float:
    """Return the size that errors of an expression are measured by; `ranges` (columns,) are those of the values seen.

    Of a mean the range of the values, of a count the number of windows, of a sum their product; of a quotient 1, or its
    own size where that is more; of a product with a number, so many times that.
    """
    if isinstance(expression, Mean):
        return float(ranges[expression.place])
    if isinstance(expression, Sum):
        return float(ranges[expression.place]) * n_windows
    if isinstance(expression, Count):
        return float(n_windows)
    if isinstance(expression, Number):
        return 0.0
    if expression.operator in "+-":
        return sum(scale_of(each, n_windows, ranges, value) for each in (expression.left, expression.right))
    if isinstance(expression.right, Number):
        factor = abs(expression.right.value)
        factor = factor if expression.operator == "*" else 1.0 / factor if factor else 0.0
        return factor * scale_of(expression.left, n_windows, ranges, value)
    if isinstance(expression.left, Number) and expression.operator == "*":
        return abs(expression.left.value) * scale_of(expression.right, n_windows, ranges, value)
    return max(1.0, abs(value))


def _unit(like: Floats, place: int) -> Floats:
    unit = np.zeros(len(like))
    unit[place] = 1.0
    return unit


# ---- which windows are drawn ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """A sample of the windows of a grid: (*shape) each, which stratum a window is in and whether it is `drawn`."""

    stratum: npt.NDArray[np.int64]
    drawn: Flags

    @property
    def weights(self) -> Floats:
        """Return how many windows each drawn one stands for, (*shape); 0 where none is drawn."""
        n_all = np.bincount(self.stratum.ravel())
        n_drawn = np.bincount(self.stratum.ravel(), weights=self.drawn.ravel())
        weights: Floats = np.where(self.drawn, (n_all / n_drawn)[self.stratum], 0.0)
        return weights


def draw_sample(shape: tuple[int, ...], seed: int, level: int) -> Strata:
    """Draw two windows at random from each block of a grid, all where a block has no more.

    Blocks are halved along their longest axis, every second one at an odd level and the others at the next: level
    2 * k has 2**k blocks. Every window has one random number; those of the two smallest are drawn, so that a sample is
    part of that of the next level.
    """
    blocks: list[_Block] = [tuple((0, n) for n in shape)]
    for _ in range(level // 2):
        blocks = [half for block in blocks for half in _halves(block)]
    if level % 2:
        blocks = [part for n, block in enumerate(blocks) for part in ((block,) if n % 2 else _halves(block))]
    keys = np.random.default_rng([seed, 3]).random(shape)
    stratum = np.zeros(shape, np.int64)
    drawn = np.zeros(shape, bool)
    for number, block in enumerate(blocks):
        at = tuple(slice(*span) for span in block)
        stratum[at] = number
        inside = keys[at]
        limit = np.partition(inside.ravel(), min(_EACH, inside.size) - 1)[min(_EACH, inside.size) - 1]
        drawn[at] = inside <= limit
    return Strata(stratum, drawn)


_Span = tuple[int, int]
#: from where to where a block of windows goes along each axis
_Block = tuple[_Span, ...]


def _halves(block: _Block) -> Iterator[_Block]:
    """Yield the halves of a block; of one of a single window, itself."""
    lengths = [stop - start for start, stop in block]
    longest = lengths.index(max(lengths))
    if lengths[longest] == 1:
        yield block
        return
    for span in pairwise(_cut(block[longest])):
        yield (*block[:longest], span, *block[longest + 1 :])


def _cut(span: _Span) -> Sequence[int]:
    return span[0], (span[0] + span[1]) // 2, span[1]
