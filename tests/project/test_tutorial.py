"""The tutorial: its notebook runs, and on the real scans its answers are those that the page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from doc_notebook import notebook

import obeql

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"
#: The demo's scans, whose cells are stored, and that of the finding.
ENOUGH = ("Te-gl_0014", "Te-me_0017", "Te-me_0019", "Te-no_0023", "Te-pi_0016")


def test_the_notebook_is_the_page() -> None:
    assert NOTEBOOK.read_text(encoding="utf-8") == notebook(), "run scripts/write_docs.py"


#: Runs each cell as a notebook does; a process of its own, because IPython keeps what cells yield until the end.
RUN = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code" and not shell.run_cell("".join(cell["source"])).success:
        sys.exit("".join(cell["source"]))
"""


def test_every_cell_of_the_notebook_runs(demo_folder: Path) -> None:
    pytest.importorskip("IPython")
    done = subprocess.run([sys.executable, "-c", RUN, str(NOTEBOOK)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (demo_folder / "demo" / "finding.png").exists()


@pytest.mark.slow
def test_the_answers_that_are_shown_are_those_of_the_real_scans(real_demo: Path) -> None:
    names: dict[str, Any] = {}
    chosen = ", ".join(f"'{name}'" for name in ENOUGH)
    with obeql.connect("demo/heat.duckdb") as db:
        db.execute(
            "CREATE OR REPLACE IMAGES scans FROM (SELECT path, label FROM image_sets "
            f"WHERE name = 'scans' AND parse_filename(path, true) IN ({chosen}))"
        )
    answers: list[tuple[Any, ...]] = []
    n_compared = 0
    for kind, code in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if kind == "python":
            exec(compile(code, "tutorial.md", "exec"), names)
        elif kind == "sql":
            answers = []
            with obeql.connect("demo/heat.duckdb") as db:
                for outcome in db.run_script(code):
                    answers += outcome.fetchall() if hasattr(outcome, "fetchall") else []
        elif kind == "text":
            for row in rows_of(code):
                if not any(cell.startswith("Te-") and cell not in ENOUGH for cell in row):
                    assert any(same(row, answer) for answer in answers), row
                    n_compared += 1
    assert n_compared >= 14


def rows_of(shown: str) -> list[list[str]]:
    """The rows of tables as the prompt draws them, without names and types of their columns."""
    tables = [part.split("├")[-1] for part in shown.split("┌")[1:]]
    return [
        [cell.strip() for cell in line.strip("│").split("│")] for table in tables for line in table.splitlines()[1:-1]
    ]


def same(shown: list[str], answer: tuple[Any, ...]) -> bool:
    """Whether a row shows an answer, up to the last digit that is shown."""
    return len(shown) == len(answer) and all(
        cell == str(value) or (isinstance(value, int | float) and abs(float(cell) - value) < 0.11)
        for cell, value in zip(shown, answer, strict=True)
    )
