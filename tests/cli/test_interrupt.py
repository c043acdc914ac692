"""Ctrl-C at a real prompt: `scripts/interrupt_test.py`, which measures many presses, with a few of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "interrupt_test.py"
NETS = """\
import torch
from torch import nn

def slow():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 5, padding=2)] + [nn.Conv2d(64, 64, 5, padding=2) for _ in range(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
"""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_brings_the_prompt_back_and_leaves_the_session_whole(tmp_path: Path) -> None:
    (tmp_path / "obeql_slow_nets.py").write_text(NETS, encoding="utf-8")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)).save(tmp_path / "one.png")
    presses = ["--presses", "4", "--most-seconds", "3", "--limit", "20", "--seed", "1"]
    model = ["--model", "python:obeql_slow_nets:slow", "--with", "size=128", "--image", "one.png"]
    command = [sys.executable, str(SCRIPT), *presses, *model]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["problems"] == []
