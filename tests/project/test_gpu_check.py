"""The check for GPUs, run on the CPU: every step ends well, and its rows are there however it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.py"


def _check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_step_runs_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    done = _check("--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    ended = {row["step"]: row["passed"] for row in rows if "seconds" in row and "passed" in row}
    assert set(ended) >= {"exactness", "rates", "speed", "few_windows", "launches", "memory", "side_by_side", "approx"}
    assert all(ended.values())
    assert any(row["step"] == "exactness" and row.get("operator") == "IncrementalForward" for row in rows)
    (launches,) = [row for row in rows if row["step"] == "launches" and "calls_of_one_batch" in row]
    assert launches["waits"] == 0  # nothing makes the host wait for the device within a batch
    table = _check("--table", str(out)).stdout
    assert "### exactness" in table


def test_a_step_that_fails_becomes_a_row(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, str(SCRIPT), "--device", "cuda:77", "--quick", "--steps", "doctor", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no device 'cuda:77'" in out.read_text("utf-8")
