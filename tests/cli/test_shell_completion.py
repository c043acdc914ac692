"""What a shell is told that completes a line of `obeql`, as argcomplete's functions of bash ask it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("argcomplete")


def completed(line: str, folder: Path) -> set[str]:
    told = folder / "told"
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(told),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "ARGCOMPLETE_USE_TEMPFILES": "1",
    }
    code = "import sys; from obeql.cli.main import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, check=True, timeout=100)
    return {word.strip() for word in told.read_text().split("\n") if word.strip()}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("obeql --mo", {"--mode"}),
        ("obeql --mode j", {"json", "jsonl"}),
        ("obeql h", {"heat.duckdb"}),
        ("obeql --device cu", {"cuda", "cuda:0"}),
        ("obeql ui --no", {"--no-browser"}),
        ("obeql ui h", {"heat.duckdb"}),
        ("obeql 'open", set()),
    ],
)
def test_a_line_is_completed(tmp_path: Path, line: str, words: set[str]) -> None:
    (tmp_path / "heat.duckdb").touch()
    (tmp_path / "hidden.txt").touch()
    found = completed(line, tmp_path)
    assert found >= words if words else not found
    assert "hidden.txt" not in found
