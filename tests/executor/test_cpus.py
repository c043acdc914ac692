"""The CPUs a process may use: what containers grant is read as they write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from obeql.executor import cpus
from obeql.session import parallelism


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu.max": "nonsense\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text, "ascii")
    assert cpus.cpu_quota(tmp_path) == quota


def test_statements_use_no_more_threads_than_are_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def threads_of(plan: Any = None) -> int:
        with parallelism.threads_set(None, plan):
            return torch.get_num_threads()

    before = torch.get_num_threads()
    monkeypatch.setattr(cpus.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    torch.set_num_threads(3)
    try:
        for quota in (None, 8.0, 1.5, 0.5):
            monkeypatch.setattr(cpus, "cpu_quota", lambda quota=quota: quota)
            seen.append(threads_of())
        assert seen == [3, 3, 2, 1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
