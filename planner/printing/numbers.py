"""Numbers as plans show them: three digits that count, decimal units, plurals."""

from __future__ import annotations

import math

__all__ = ["digits", "plural", "ratio", "size"]


def digits(value: float) -> str:
    """Return a number with three digits that count and thousands separated: 0.0123, 1.23, 12.3, 123, 12,345."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def size(n_bytes: float) -> str:
    """Return bytes in the decimal unit that fits: 512 B, 1.20 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{digits(n_bytes)} {unit}"
        n_bytes /= 1000
    return f"{digits(n_bytes)} TB"


def ratio(whole: float, part: float) -> str:
    """Return how many times `part` fits into `whole`, as 8.7x."""
    return f"{whole / part:.1f}x"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
