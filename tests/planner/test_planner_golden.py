"""Plans as text: each statement of golden/plans/statements.sql against its file.

OBEQL_UPDATE_GOLDEN=1 writes the files again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from obeql.planner import RULE_NAMES, show
from obeql.planner.pushdown.rules import PUSHDOWN_NAMES

FOLDER = Path(__file__).parent.parent / "golden" / "plans"


def _cases() -> dict[str, tuple[dict[str, str], str]]:
    """Return label -> (settings, statement)."""
    parts = re.split(r"^-- plan (.*)$", (FOLDER / "statements.sql").read_text(encoding="utf-8"), flags=re.MULTILINE)
    cases = {}
    for head, statement in zip(parts[1::2], parts[2::2], strict=True):
        label, *settings = head.split()
        cases[label] = (dict(setting.split("=", 1) for setting in settings), statement.strip().rstrip(";"))
    return cases


CASES = _cases()


def _compare(name: str, text: str) -> None:
    path = FOLDER / f"{name}.txt"
    if os.environ.get("OBEQL_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("label", CASES)
def test_plan_text(label: str, plan_of: Any, stored: Any) -> None:
    settings, statement = CASES[label]
    if settings.get("stored"):
        stored()
    text = show(plan_of(statement, **settings))
    _compare(label, text)
    assert max(map(len, text.splitlines())) <= 100
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_measured_values_stand_under_the_estimates(plan_of: Any) -> None:
    plan = plan_of("EXPLAIN OCCLUDE scans USING vgg WITH patch=[8, 16]")
    grid = {"windows": 2523, "macs": 30.2e9, "bytes": 2.6e9, "seconds": 39.5, "memory": 2.1e8}
    measured = {**grid, "seconds": 47.25, "grids": [grid, {"seconds": 7.75}], "windows a second": 64.1, "device": "cpu"}
    _compare("analyze", show(plan, measured))


def test_every_rule_has_a_golden_with_it_off() -> None:
    off = {rule for settings, _ in CASES.values() for rule in settings.get("disabled_rules", "").split(",")}
    # share_windows takes a script, those of push-down take SQL: see tests/session/test_scripts.py and test_pushdown.py
    assert off >= set(RULE_NAMES) - {"share_windows", *PUSHDOWN_NAMES}


def test_no_golden_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {*CASES, "analyze"}
