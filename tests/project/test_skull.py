"""The cookbook's hunt for evidence outside the head, on the real scans and network; needs scripts/fetch_assets.py."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import obeql

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("OBEQL_DATA", ROOT / "data")).resolve()
#: What `make demo` leaves: the windows of the page are among those that it has computed.
DEMO = ROOT / "demo" / "heat.duckdb"
SCANS = ("Te-gl_0014", "Te-me_0017", "Te-no_0023", "Te-pi_0016")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DATA / "tumour" / "vgg16.onnx").is_file(),
        reason="run scripts/fetch_assets.py and set OBEQL_DATA to its folder",
    ),
]


def test_the_page_on_real_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vgg16.onnx").symlink_to(DATA / "tumour" / "vgg16.onnx")
    if DEMO.is_file():
        shutil.copy(DEMO, tmp_path / "heat.duckdb")
    (tmp_path / "scans").mkdir()
    for name in SCANS:
        (tmp_path / "scans" / f"{name}.jpg").symlink_to(DATA / "mri" / f"{name}.jpg")
    page = (ROOT / "docs" / "cookbook" / "outside-the-head.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for kind, code in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if kind == "python":
            exec(compile(code, "page", "exec"), names)
        else:
            with obeql.connect("heat.duckdb") as db:
                db.execute(code)
    with obeql.connect("heat.duckdb", read_only=True) as db:
        boxes = db.execute('SELECT top, "left", bottom, "right" FROM heads').fetchall()
        rows = db.execute("FROM outside_the_head ORDER BY name").fetchall()
    assert len(boxes) == 4
    for top, left, bottom, right in boxes:
        # A head is most of a scan, and has film around it.
        assert 100 < bottom - top <= 240 and 100 < right - left <= 240
    assert [row[0] for row in rows] == list(SCANS)
    for name, label, class_name, outside, windows, strongest_outside, strongest in rows:
        assert class_name == label, name
        assert 0 <= outside <= 1
        if windows and outside:
            assert outside < windows, name  # there is less evidence in a window of film than in others
            assert strongest_outside < strongest, name
