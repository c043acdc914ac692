"""Draw the bound against the truth of every map that `benchmarks.approx replay` stated approximate, as SVG.

python -m benchmarks.coverage_plot benchmarks/results/cpu2-approx-replay.json docs/approx-coverage.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COLOURS = {"scans": "#3b6fb6", "photos": "#d9822b"}


def draw(results: Path, out: Path) -> None:
    """Bound against truth of every replayed map that was stated approximate, as SVG."""
    rows = [row for row in json.loads(results.read_text(encoding="utf-8"))["rows"] if row["exact_share"] < 1]
    rows = [row for row in rows if row["metric"] == "ssim"]
    low, side, edge = 0.75, 360, 46

    def at(value: float) -> float:
        return round((max(low, value) - low) / (1 - low) * side, 1)

    marks = "".join(
        f'<circle cx="{edge + at(row["bound"])}" cy="{10 + side - at(row["true"])}" r="2.2" '
        f'fill="{COLOURS[row["kind"]]}" fill-opacity="0.55"/>'
        for row in rows
    )
    ticks = "".join(
        f'<text x="{edge + at(v)}" y="{side + 26}" text-anchor="middle">{v:g}</text>'
        f'<text x="{edge - 6}" y="{14 + side - at(v)}" text-anchor="end">{v:g}</text>'
        for v in (0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
    )
    names = "".join(
        f'<text x="{edge + side - 8}" y="{side - 30 + 16 * k}" text-anchor="end" fill="{color}">{kind}</text>'
        for k, (kind, color) in enumerate(COLOURS.items())
    )
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side + edge + 20} {side + 56}" '
        f'font-family="sans-serif" font-size="11" fill="#777">'
        f'<rect x="{edge}" y="10" width="{side}" height="{side}" fill="none" stroke="#999"/>'
        f'<path d="M{edge} {10 + side}L{edge + side} 10" stroke="#999"/>{ticks}{marks}{names}'
        f'<text x="{edge + side / 2}" y="{side + 46}" text-anchor="middle">stated lower bound (SSIM)</text>'
        f'<text transform="translate(12 {10 + side / 2}) rotate(-90)" text-anchor="middle">true SSIM</text></svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    draw(*map(Path, sys.argv[1:3]))
