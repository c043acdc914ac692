"""The tutorial as a notebook, made from its page.

Used by `write_docs`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: The notebook, and the page that it is made from.
NOTEBOOK, TUTORIAL = ROOT / "examples" / "tutorial.ipynb", ROOT / "docs" / "tutorial.md"

_BEGIN = """import os
from pathlib import Path

# The folder of the clone, wherever the notebook was started.
os.chdir(next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "demo" / "heat.duckdb").exists()))

%load_ext obeql
%obeql demo/heat.duckdb"""


def notebook() -> str:
    """The tutorial as a notebook without outputs: SQL in `%%obeql` cells, Python as it is, shown outputs left out.

    A cell shows what its last statement yields, so that statements with an empty line between them have a cell each.
    """
    cells = [_cell_of("markdown", "*This notebook is made from docs/tutorial.md. Run `make demo` first.*")]
    cells.append(_cell_of("code", _BEGIN))
    text = re.sub(r"\]\((?!#)([\w./#-]+)\)", r"](../docs/\1)", TUTORIAL.read_text(encoding="utf-8"))
    for prose, kind, code in re.findall(r"(.*?)(?:^```(\w*)\n(.*?)^```$|\Z)", text, re.MULTILINE | re.DOTALL):
        if prose.strip():
            cells.append(_cell_of("markdown", prose.strip()))
        if kind == "python":
            cells.append(_cell_of("code", code.strip()))
        elif kind == "sql":
            cells += [_cell_of("code", f"%%obeql\n{part}") for part in re.split(r"(?<=;)\n{2,}", code.strip())]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _cell_of(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | {"execution_count": None, "outputs": []} if kind == "code" else cell
