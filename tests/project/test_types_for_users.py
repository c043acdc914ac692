"""What a type checker tells a user who has installed the package: its annotations are found and say what comes back."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import obeql
from torch import nn

with obeql.connect("heat.duckdb") as db:
    db.create_model("net", nn.Flatten(), size=8, inputs={"age": 0.5})
    result = db.explain("scan.png", "net", patch=16, stride=4)
    heat = result[0]
    reveal_type(db)
    reveal_type(heat.importance)
    reveal_type(heat.top(3)[0].importance)
    heat.top("3")
    heat.imporance
"""
#: What would be read for a minute, and says nothing about OBEQL.
SETTINGS = """
[mypy]
[mypy-torch.*,matplotlib.*,pyarrow.*,PIL.*,duckdb.*,rich.*,lark.*,prompt_toolkit.*,starlette.*,IPython.*]
follow_imports = skip
follow_imports_for_stubs = True
ignore_missing_imports = True
"""


def installed(folder: Path) -> Path:
    """Return the interpreter of an environment where the package lies as a wheel would lay it."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    package = site / "obeql"
    package.mkdir()
    parts = [*(ROOT / "obeql").iterdir(), *(ROOT / name for name in ("grammar", "planner", "executor"))]
    for part in parts:
        if part.name != "__pycache__":
            (package / part.name).symlink_to(part)
    (site / "others.pth").write_text("\n".join(each for each in sys.path if each.endswith("-packages")))
    return folder / "bin" / "python"


def test_a_users_script_is_checked(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    python = installed(tmp_path / "environment")
    command = [sys.executable, "-m", "mypy", "--python-executable", str(python), "--cache-dir=cache", "mine.py"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False).stdout
    notes = [line.partition(" note: ")[2] for line in told.splitlines() if " note: " in line]
    assert notes[0] == 'Revealed type is "obeql.session.session.Session"', told
    assert notes[1].startswith('Revealed type is "numpy.ndarray[')
    assert notes[2] in ('Revealed type is "float"', 'Revealed type is "builtins.float"')
    errors = [line.partition(" error: ")[2] for line in told.splitlines() if " error: " in line]
    assert len(errors) == 2, told
    assert 'incompatible type "str"' in errors[0]
    assert '"Heatmap" has no attribute "imporance"' in errors[1]
