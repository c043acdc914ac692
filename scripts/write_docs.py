"""Write the generated parts of docs/ and CONTRIBUTING.md: packages, options, schema, operators, rules, layers, figures.

A part stands between `<!-- generated: name -->` and `<!-- end -->`. A test compares what is there with the code.
`doc_tables` and `doc_speed` have the parts.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import doc_speed
import doc_tables
from doc_notebook import NOTEBOOK, notebook

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

PARTS: dict[str, Callable[[], str]] = {part.__name__: part for part in (*doc_tables.PARTS, *doc_speed.PARTS)}


def written(text: str) -> str:
    """The text of a page with its generated parts as the code has them now."""

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{PARTS[match[2]]()}\n\n<!-- end -->"

    return re.sub(r"(<!-- generated: (\w+) -->).*?<!-- end -->", part, text, flags=re.DOTALL)


def main() -> None:
    """Write every page, and the notebook."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not NOTEBOOK.exists() or NOTEBOOK.read_text(encoding="utf-8") != notebook():
        NOTEBOOK.write_text(notebook(), encoding="utf-8")
        print(f"{NOTEBOOK.relative_to(ROOT)} written")
    for page in [ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if written(text) != text:
            page.write_text(written(text), encoding="utf-8")
            print(f"{page.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
